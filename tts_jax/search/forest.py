"""Branches on the devices: grown, looked at and scored.

W branches  V verifiers  R rows of a call  K children of a row  M keys of a chain  T frames.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tts_jax.generators.protocol import Generator, parent_nfe
from tts_jax.parallel import BRANCH, fetch, first_copy, replicate
from tts_jax.search import expansion, paths
from tts_jax.search.expansion import Layout
from tts_jax.search.growth import Growth
from tts_jax.search.ledger import Cost
from tts_jax.search.models import Models, SearchFault, out_of_memory
from tts_jax.search.paths import Path
from tts_jax.search.pools import Name, Place, Pools
from tts_jax.solvers import noise
from tts_jax.verifiers.panel import Panel


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


class Forest(Pools):
    """The branches of one prompt: names and places here, all else on the devices."""

    def __init__(self, models: Models, prompt: str, seed: int, prompt_index: int, room: int):
        """Begins with no branch; the root is there when asked for.

        Args:
          models: generators, verifiers, mesh and programs.
          prompt: the text.
          seed, prompt_index: of everything random.
          room: links that a chain of keys can have.
        """
        super().__init__(models)
        self._room = room
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
