"""Branches on the devices: grown, looked at, scored and forgotten.

Branches lie in pools, pytrees with a leading axis of places. The host knows where a branch lies
and moves nothing itself: growing gathers parents from their places, and a pool that holds no
wanted branch is dropped. Where a call makes one branch, it is a pool of its own, which nothing has
to be gathered from or put into.

W branches  V verifiers  R rows of a call  K children of a row  M keys of a chain  T frames.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tts_jax.generators.protocol import Generator, parent_nfe
from tts_jax.parallel import BRANCH, fetch, first_copy, replicate, split
from tts_jax.search import expansion, paths
from tts_jax.search.expansion import Layout
from tts_jax.search.growth import Growth
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.models import Models, SearchFault, out_of_memory
from tts_jax.search.paths import Path
from tts_jax.solvers import noise
from tts_jax.verifiers.panel import Panel


class Place(NamedTuple):
    """Where a branch lies."""

    pool: int
    slot: int


class Name(NamedTuple):
    """What a branch is called: drafts have the paths of full videos."""

    fidelity: str
    path: Path


@dataclass(frozen=True)
class Seen:
    """Estimates and frames of a block of branches.

    Attributes:
      latents, frames: [R, ...].
      sound: whether all latents of a branch are finite, [R] bool.
      live: branches at the beginning that are not padding.
    """

    latents: jax.Array
    frames: jax.Array
    sound: jax.Array
    live: int


class Forest:
    """The branches of one prompt: names and places here, all else on the devices."""

    def __init__(self, models: Models, prompt: str, seed: int, prompt_index: int, room: int):
        """Begins with no branch; the root is there when asked for.

        Args:
          models: generators, verifiers, mesh and programs.
          prompt: the text.
          seed, prompt_index: of everything random.
          room: links that a chain of keys can have.
        """
        self.models, self.mesh = models, models.mesh
        self.ledger = Ledger()
        self._room = room
        self._pools: dict[int, Any] = {}
        self._places: dict[Name, Place] = {}
        self._pools_made = 0
        key = jax.random.fold_in(jax.random.key(seed), prompt_index)
        self._prompt_key = jax.random.key_data(key)
        self._conditions = {}
        self.prompt = prompt

    def _condition(self, fidelity: str):
        if fidelity in self._conditions:
            return self._conditions[fidelity]
        if known := self.models.conditions.get((fidelity, self.prompt)):
            self.ledger["text"].seconds += known.seconds
            self._conditions[fidelity] = replicate(known.condition, self.mesh)
        else:
            with timed(self.ledger["text"]):
                generator = self.models.generators[fidelity]
                found = generator.encode(first_copy(self.models.params), [self.prompt])
                found = jax.tree.map(lambda x: x[0], fetch(found))
                self._conditions[fidelity] = replicate(found, self.mesh)
        return self._conditions[fidelity]

    def encode(self) -> None:
        """Encodes the prompt for the full generator, which every search asks for."""
        self._condition("full")

    def prepare(self, stage_prompts: Sequence[str]) -> list[dict]:
        """The verifiers' queries for the prompt, and for each stage by its own prompt.

        Raises:
          SearchFault: a verifier raises, but for a `ValueError`: a prompt that it cannot take.
        """
        with timed(self.ledger["text"]):
            try:
                params = first_copy(self.models.verifier_params)
                queries = self.models.panel.queries(params, self.prompt, stage_prompts)
            except ValueError:
                raise
            except Exception as error:
                raise SearchFault(f"a verifier fails: {_sentence(error)}") from error
            return replicate(fetch(queries), self.mesh)

    def __contains__(self, name: Name) -> bool:
        return name in self._places or not name.path

    def keep(self, names: Sequence[Name]) -> None:
        """Forgets all branches but these."""
        wanted = set(names)
        self._places = {name: place for name, place in self._places.items() if name in wanted}
        used = {place.pool for place in self._places.values()}
        self._pools = {number: pool for number, pool in self._pools.items() if number in used}

    def drop(self, fidelity: str, branches: Sequence[Path]) -> None:
        """Forgets some branches."""
        dropped = {Name(fidelity, path) for path in branches}
        self.keep([name for name in self._places if name not in dropped])

    def grow(
        self,
        fidelity: str,
        step: Growth,
        bound: tuple[int, int],
        report: Callable[[], None] | None = None,
    ) -> None:
        """Makes children of held branches; the parents stay.

        A batch that does not fit in memory is made again in halves.

        Args:
          fidelity: of the generator.
          step: parents, and what continues each of them.
          bound: the most parents, and branches made, that such a step has; programs are made for
            these, so that a smaller one needs no new ones.
          report: called after every call of the generator.
        """
        grow = self._move if step.moves else partial(self._advance, report=report)
        while True:
            # At the root there is nothing yet that siblings could share.
            share = step.depth > 0 and not step.moves
            shape = self.models.layout(bound[0], _children(bound), share=share)
            try:
                return grow(fidelity, step, shape, bound)
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                branches = shape.rows * shape.siblings // self.mesh.shape[BRANCH]
                self.models.without_memory_for(branches)

    def _move(self, fidelity: str, step: Growth, shape: Layout, bound: tuple[int, int]) -> None:
        moves = [move for own in step.steps for move in own]
        parents = [p for p, own in zip(step.parents, step.steps, strict=True) for _ in own]
        kind, to = moves[0].kind, moves[0].to
        generator, tag = self.models.generators[fidelity], paths.TAGS[kind]
        component, nfe = "search", 0
        if kind == "renoise":
            component = _component(fidelity)
            nfe = generator.renoise_nfe(step.depth, to)

        @jax.named_scope("expand")
        def move(params, condition, branch, key, index, strength):
            key = self._wrap(key)
            if kind == "neighbour":
                key = noise.link(key, tag, index, strength)
            else:
                key = noise.fold_in(noise.fold_in(key, tag), index)
                branch = generator.renoise(params, condition, branch, key, step.depth, to, strength)
            return branch, self._unwrap(key)

        def build():
            return self.models.over_branches(over(move, (None, None, 0, 0, 0, 0)), shared=2)

        def block(part, branches):
            own = moves[part]
            live = len(own)
            own += own[:1] * (shape.rows - live)
            index = np.array([m.index for m in own], np.uint32)
            strength = np.array([m.strength for m in own], np.float32)
            return self._call(
                component,
                ("move", fidelity, kind, step.depth, to, self._room),
                build,
                self.models.params,
                self._condition(fidelity),
                *branches,
                *self._divide((index, strength)),
                live=live,
                dead=shape.rows - live,
                nfe=nfe,
                out=self._where,
            )

        made = [(*path, m) for path, m in zip(parents, moves, strict=True)]
        slots, pools = self._slots(fidelity, parents)
        rows, places = expansion.rows(slots, [(0,)] * len(slots), 1)
        self._fill(fidelity, made, places, rows, shape, bound[1], pools, block)

    def _advance(
        self,
        fidelity: str,
        step: Growth,
        shape: Layout,
        bound: tuple[int, int],
        report: Callable[[], None] | None,
    ) -> None:
        generator, segment = self.models.generators[fidelity], step.depth
        static, program = static_segment(generator, segment), generator.program(segment)
        key = "advance", fidelity, program, static, shape.siblings, self._room
        shared = parent_nfe(generator, segment)

        def build():
            @jax.named_scope("advance")
            def child(params, condition, s, branch, key, index):
                key = noise.fold_in(self._wrap(key), index)
                s = s if static is None else static
                branch = generator.advance(params, condition, branch, key, s, program)
                return branch, self._unwrap(key)

            family = over(child, (None, None, None, None, None, 0))
            families = over(family, (None, None, None, 0, 0, 0))

            def flat(params, condition, s, branches, keys, children):
                made = families(params, condition, s, branches, keys, children)
                return jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:2]), *x.shape[2:]), made)

            return self.models.over_branches(flat, shared=3)

        number = self._copy(np.int32(segment))

        def block(part, branches):
            _, indices = expansion.row_arrays(rows[part], shape)
            live = sum(len(row.children) for row in rows[part])
            families = len(rows[part])
            result = self._call(
                _component(fidelity),
                key,
                build,
                self.models.params,
                self._condition(fidelity),
                number,
                *branches,
                self._divide(indices),
                live=live,
                dead=indices.size - live,
                nfe=generator.nfe(segment) - shared,
                row_nfe=(families * shared, (shape.rows - families) * shared),
                out=self._where,
            )
            if report:
                report()
            return result

        made = [(*p, i) for p, own in zip(step.parents, step.steps, strict=True) for i in own]
        slots, pools = self._slots(fidelity, step.parents)
        rows, places = expansion.rows(slots, step.steps, shape.siblings)
        most = bound[0] * -(-_children(bound) // shape.siblings)
        self._fill(fidelity, made, places, rows, shape, most, pools, block)

    def _fill(self, fidelity, made, places, rows, shape: Layout, most: int, parents, block):
        """Makes a pool of what `block` makes of each call's rows; of single branches, one each."""
        capacity = shape.capacity(max(most, len(rows)))
        alone = shape.rows * shape.siblings == 1
        gather = self._gatherer(parents, shape.rows)
        pool = None
        for start in range(0, len(rows), shape.rows):
            part = slice(start, start + shape.rows)
            slots, _ = expansion.row_arrays(rows[part], shape)
            result = block(part, gather(slots))
            if alone:
                self._places[Name(fidelity, made[start])] = Place(self._add(result), 0)
            elif pool is None:
                pool = self._spread(result, capacity)
            else:
                pool = self._put(pool, result, start * shape.siblings)
        if alone:
            return
        number = self._add(pool)
        for path, place in zip(made, places, strict=True):
            self._places[Name(fidelity, path)] = Place(number, place)

    def look(self, fidelity: str, branches: Sequence[Path], look: str | int, rows: int) -> Seen:
        """What can be seen of branches of one depth.

        Args:
          fidelity: of the generator.
          branches: held, at most R.
          look: at what, see `Round.estimate`.
          rows: R; the block is filled up to it.
        """
        generator = self.models.generators[fidelity]
        segment = paths.depth(branches[0]) - 1
        ahead = 0 if look == "committed" else generator.estimate_nfe(segment, look)
        segmented = () if look == "committed" else (look,)

        @jax.named_scope("estimate")
        def estimate(params, condition, branch):
            return generator.estimate(params, condition, branch, segment, *segmented)

        @jax.named_scope("decode")
        def finish(params, latents):
            return latents, generator.decode(params, latents), jnp.isfinite(latents).all()

        def see(params, condition, branch):
            return finish(params, estimate(params, condition, branch))

        def build(function, shared, mapped):
            each = over(function, (None,) * shared + (0,) * mapped)
            return lambda: self.models.over_branches(each, shared=shared)

        slots, pools = self._slots(fidelity, branches)
        dead = rows - len(slots)
        work = dict(live=len(slots), dead=dead, out=self._where)
        gather = self._gatherer(pools, rows)
        found, _ = gather(np.array(slots + slots[:1] * dead, np.int32))
        shared = self.models.params, self._condition(fidelity)
        key = fidelity, segment, look
        if ahead:
            latents = self._call(
                "look_ahead", ("look", *key), build(estimate, 2, 1), *shared, found,
                nfe=ahead, **work,
            )  # fmt: skip
            seen = self._call("decode", "decode", build(finish, 1, 1), shared[0], latents, **work)
        else:
            seen = self._call("decode", ("see", *key), build(see, 2, 1), *shared, found, **work)
        return Seen(*seen, len(slots))

    def score(
        self, verifiers: Sequence[Any], seen: Seen, query: Mapping, last: bool
    ) -> list[jax.Array]:
        """Scores of one block by each verifier, [R] each, left on the devices.

        Args:
          verifiers: those asked.
          seen: the block.
          query: by verifier.
          last: whether they see the last frame only.

        Raises:
          SearchFault: a verifier raises, or its scores are not one per video.
        """

        def build(verifier):
            @jax.named_scope(verifier.name)
            def score(params, query, frames):
                found = verifier.score(params, frames[:, -1:] if last else frames, query)
                if jnp.shape(found) != (len(frames),):
                    raise SearchFault(
                        f"verifier {verifier.name!r} gives scores of shape {jnp.shape(found)} for "
                        f"{len(frames)} videos; one number for each is right"
                    )
                return found

            return self.models.over_branches(score, shared=2)

        work = dict(live=seen.live, dead=len(seen.frames) - seen.live, out=self._where)
        scores = []
        for verifier in verifiers:
            try:
                found = self._call(
                    verifier.name,
                    ("score", verifier.name, last),
                    partial(build, verifier),
                    self.models.verifier_params[verifier.name],
                    query[verifier.name],
                    seen.frames,
                    **work,
                )
            except SearchFault:
                raise
            except Exception as error:
                if out_of_memory(error):
                    raise
                raise SearchFault(
                    f"verifier {verifier.name!r} fails: {_sentence(error)}"
                ) from error
            scores.append(found)
        return scores

    def value(
        self, panel: Panel, scores: np.ndarray, width: int, aggregation: str | None
    ) -> np.ndarray:
        """The panel's values of [W, V] scores; computed for `width` branches or more."""
        width = max(width, len(scores))
        padded = np.zeros((width, len(panel.names)), np.float32)
        padded[: len(scores)] = scores
        valid = np.arange(width) < len(scores)
        key = "value", panel.key, aggregation
        function = jax.named_scope("prune")(partial(panel.value, aggregation=aggregation))
        args = jax.device_put((padded, valid), self.mesh.local_devices[0])
        found = self._call("search", key, lambda: function, *args)
        return np.asarray(found)[: len(scores)]

    def states(self) -> dict[Name, list[np.ndarray]]:
        """The leaves of every held branch with its keys, on the host."""
        pools = {number: fetch(jax.tree.leaves(pool)) for number, pool in self._pools.items()}
        return {
            name: [np.asarray(leaf[place.slot]) for leaf in pools[place.pool]]
            for name, place in self._places.items()
            if name.path
        }

    def restore(self, states: Mapping[Name, Sequence[np.ndarray]]) -> None:
        """Holds these branches, as `states` gives them, instead of any other.

        Raises:
          SearchFault: they are of another generator.
        """
        self._places, self._pools = {}, {}
        devices = self.mesh.shape[BRANCH]
        for fidelity in {name.fidelity for name in states}:
            own = {name: state for name, state in states.items() if name.fidelity == fidelity}
            leaves, tree = jax.tree.flatten(self._root(fidelity))
            wanted = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]
            if any([(x.shape, x.dtype) for x in state] != wanted for state in own.values()):
                raise SearchFault("the saved branches are not those of this generator")
            names, size = list(own), 1 if self._alone else len(own)
            for part in (names[i : i + size] for i in range(0, len(names), size)):
                filled = [own[name] for name in [*part, *part[:1] * (-size % devices)]]
                pool = jax.tree.unflatten(tree, [np.stack(x) for x in zip(*filled, strict=True)])
                number = self._add(self._divide(pool))
                self._places |= {name: Place(number, slot) for slot, name in enumerate(part)}

    @property
    def _alone(self) -> bool:
        """Whether every call makes one branch, however many there are to make."""
        return self.models.layout(2, 1, share=False).rows == 1

    def _root(self, fidelity: str) -> Any:
        """A pool with the root at the first place of every device."""
        data = self._copy(self._prompt_key)
        generator = self.models.generators[fidelity]

        @jax.named_scope("expand")
        def root(params, condition, data):
            key = jax.random.fold_in(jax.random.wrap_key_data(data), 0)
            branch = generator.init(params, condition, key)
            key = noise.chain(key, 1 + self._room)
            return jax.tree.map(lambda x: x[None], (branch, self._unwrap(key)))

        def build():
            return self.models.over_branches(root, shared=3)

        name = "root", fidelity, self._room
        args = self.models.params, self._condition(fidelity), data
        return self._call("search", name, build, *args, out=self._where)

    def _wrap(self, data):
        keys, strengths, links = data
        return noise.Chain(jax.random.wrap_key_data(keys), strengths, links)

    def _unwrap(self, key):
        return jax.random.key_data(key.keys), key.strengths, key.links

    def _add(self, pool: Any) -> int:
        self._pools_made += 1
        self._pools[self._pools_made] = pool
        return self._pools_made

    def _slots(self, fidelity: str, branches: Sequence[Path]) -> tuple[list[int], list]:
        """Pools, and the places of branches in all of them, one after the other."""
        names = [Name(fidelity, path) for path in branches]
        for name in names:
            if name not in self._places and not name.path:
                self._places[name] = Place(self._add(self._root(fidelity)), 0)
        places = [self._places[name] for name in names]
        starts, parts, start = {}, [], 0
        for number in dict.fromkeys(place.pool for place in places):
            starts[number] = start
            parts.append(self._pools[number])
            start += len(jax.tree.leaves(parts[-1])[0])
        return [starts[place.pool] + place.slot for place in places], parts

    def _gatherer(self, pools: Sequence[Any], rows: int) -> Callable[[np.ndarray], Any]:
        """Gives the branches at some places of pools, [R]; a pool of one branch as it is."""
        if rows == 1 and all(len(jax.tree.leaves(pool)[0]) == 1 for pool in pools):
            return lambda slots: pools[int(slots[0])]
        pool = pools[0] if len(pools) == 1 else self._shift("join", expansion.join, *pools)
        return lambda slots: self._shift("take", expansion.take, pool, self._copy(slots))

    def _put(self, pool, block, start: int):
        return self._shift(
            "put", expansion.put, pool, block, self._copy(np.int32(start)), donate=(0,)
        )

    def _spread(self, block, capacity: int):
        if len(jax.tree.leaves(block)[0]) == capacity:
            return block
        key = "spread", capacity
        return self._shift(key, partial(expansion.spread, capacity=capacity), block)

    def _shift(self, key, function, *args, donate=()):
        out = self._where
        scoped = jax.named_scope("expand")(function)
        return self._call("search", key, lambda: scoped, *args, donate=donate, out=out)

    @property
    def _where(self) -> NamedSharding:
        """Of whatever has a branch axis; asked of every program that makes it, since only that
        holds for leaves without elements, and for what the compiler would divide otherwise too."""
        return NamedSharding(self.mesh, PartitionSpec(BRANCH))

    def _copy(self, tree):
        return replicate(tree, self.mesh)

    def _divide(self, tree):
        return split(tree, self.mesh)

    def _call(self, component: str, key, build, *args, **work):
        programs, cost = self.models.programs, self.ledger[component]
        return programs(cost, key, build, *args, component=component, **work)


class PricedForest(Forest):
    """A forest of shapes: whatever is done in it is charged and not computed."""

    def __init__(self, forest: Forest):
        """Prices what would be done in another forest."""
        super().__init__(forest.models, forest.prompt, 0, 0, forest._room)
        self._conditions = forest._conditions

    def assume(self, fidelity: str, branches: Sequence[Path]) -> None:
        """Holds these branches and no others."""
        self._places, self._pools = {}, {}
        layout, alone = self.models.layout(1, 1, share=False), self._alone
        capacity = layout.capacity(1 if alone else len(branches))
        number = self._add(self._spread(self._root(fidelity), capacity))
        self._places = {
            Name(fidelity, path): Place(number, 0 if alone else slot)
            for slot, path in enumerate(branches)
        }

    def _divide(self, tree):
        return tree

    def _call(self, component: str, key, build, *args, **work):
        return self.models.programs.price(self.ledger[component], key, build, *args, **work)


def _children(bound: tuple[int, int]) -> int:
    """Children of each parent if they are spread evenly: one that has more takes further rows."""
    parents, branches = bound
    return -(-branches // parents)


def _component(fidelity: str) -> str:
    return "generator" if fidelity == "full" else fidelity


def over(function: Callable, in_axes: Sequence[int | None]) -> Callable:
    """`jax.vmap`; one branch alone is not batched, for batched loops take long to trace."""
    batched = jax.vmap(function, tuple(in_axes))

    def call(*args):
        mapped = [axis == 0 for axis in in_axes]
        leaves = [jax.tree.leaves(arg) for arg, own in zip(args, mapped, strict=True) if own]
        if any(len(leaf) != 1 for own in leaves for leaf in own):
            return batched(*args)
        alone = [
            jax.tree.map(lambda x: x[0], arg) if own else arg
            for arg, own in zip(args, mapped, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*alone))

    return call


def static_segment(generator: Generator, segment: int) -> int | None:
    """The segment if its program serves no other, or it is the first; else it is traced."""
    alike = [
        s
        for s in range(generator.num_segments)
        if generator.program(s) == generator.program(segment)
    ]
    return segment if segment == 0 or alike == [segment] else None


def _sentence(error: Exception) -> str:
    """What an error says, without the traceback that errors on devices hold."""
    lines = str(error).strip().splitlines() or [""]
    if "Traceback" in lines[0]:
        return next((line for line in reversed(lines) if re.match(r"\w[\w.]*: ", line)), lines[0])
    return f"{type(error).__name__}: {lines[0]}"


@contextmanager
def timed(cost: Cost) -> Iterator[None]:
    """Charges the time that something takes."""
    start = time.perf_counter()
    yield
    cost.seconds += time.perf_counter() - start
