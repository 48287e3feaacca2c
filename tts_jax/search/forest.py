"""Live branches on the devices: grown, looked at, scored and forgotten.

Branches lie in a pool, a pytree with a leading axis of places. The host knows a branch's path and
place and moves nothing itself: growing gathers parents from their places, pruning forgets places.

W branches  V verifiers  R rows of a call  K children of a row  T frames.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tts_jax.parallel import BRANCH, over_branches, replicate, split
from tts_jax.search import expansion
from tts_jax.search.expansion import Layout, Row
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.selection import Path
from tts_jax.verifiers.panel import Panel

if TYPE_CHECKING:
    from tts_jax.search.loop import Search


@dataclass(frozen=True)
class Seen:
    """Estimates and frames of a block of branches, of which the first `live` are not padding."""

    latents: jax.Array
    frames: jax.Array
    live: int


class Forest:
    """The live branches of one prompt: paths and places here, all else on the devices."""

    def __init__(self, models: "Search", prompt: str, seed: int, prompt_index: int):
        self.models, self.mesh, self.generator = models, models.mesh, models.generator
        self.ledger = Ledger()
        self.paths: list[Path] = []
        self.slots: list[int] = []
        self._prompt_key = jax.random.fold_in(jax.random.key(seed), prompt_index)
        with _timed(self.ledger["text"]):
            conditions = self.generator.encode(models.params, [prompt])
            self.condition = replicate(
                jax.tree.map(lambda x: np.asarray(x)[0], conditions), self.mesh
            )

    def prepare(self, prompts: Sequence[str]) -> list[dict]:
        """The verifiers' queries of each prompt."""
        with _timed(self.ledger["text"]):
            queries = jax.device_get(
                self.models.panel.prepare(self.models.verifier_params, prompts)
            )
            return [
                replicate(jax.tree.map(lambda x, i=i: x[i], queries), self.mesh)
                for i in range(len(prompts))
            ]

    def plant(self, capacity: int) -> None:
        """Begins a pool of so many places with the root at the first."""
        self._capacity = capacity
        key = replicate(jax.random.key_data(jax.random.fold_in(self._prompt_key, 0)), self.mesh)

        def root(params, condition, key):
            branch = self.generator.init(params, condition, jax.random.wrap_key_data(key))
            return jax.tree.map(lambda x: jnp.stack([x] * self.mesh.shape[BRANCH]), (branch, key))

        block = self._call("search", "root", lambda: root, self.models.params, self.condition, key)
        self._pool = self._spread(split(block, self.mesh))
        self.paths, self.slots = [()], [0]

    def grow(
        self, segment: int, children: int, shape: Layout, report: Callable[[], None] | None
    ) -> None:
        """Gives every branch children, which take its place."""
        rows = expansion.rows(self.slots, children, shape.siblings)
        self.advance(segment, rows, shape, report)
        families = -(-children // shape.siblings) * shape.siblings
        self.slots = [i * families + c for i in range(len(self.paths)) for c in range(children)]
        self.paths = [(*path, c) for path in self.paths for c in range(children)]

    def advance(
        self,
        segment: int,
        rows: Sequence[Row],
        shape: Layout,
        report: Callable[[], None] | None = None,
    ) -> None:
        """Makes the pool of the rows' children, K places to a row."""
        alike = [
            s
            for s in range(self.generator.num_segments)
            if self.generator.program(s) == self.generator.program(segment)
        ]
        static = segment if segment == 0 or alike == [segment] else None
        key = "advance", self.generator.program(segment), static, shape.siblings

        def build():
            def child(params, condition, s, branch, key, index):
                key = jax.random.fold_in(jax.random.wrap_key_data(key), index)
                s = s if static is None else static
                branch = self.generator.advance(params, condition, branch, key, s)
                return branch, jax.random.key_data(key)

            family = jax.vmap(child, (None, None, None, None, None, 0))
            families = jax.vmap(family, (None, None, None, 0, 0, 0))

            def flat(params, condition, s, parents, children):
                made = families(params, condition, s, *parents, children)
                return jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:2]), *x.shape[2:]), made)

            return over_branches(flat, self.mesh, shared=3)

        pool = None
        number = replicate(np.int32(segment), self.mesh)
        for start in range(0, len(rows), shape.rows):
            part = rows[start : start + shape.rows]
            slots, children = expansion.row_arrays(part, shape)
            live = sum(len(row.children) for row in part)
            block = self._call(
                "generator",
                key,
                build,
                self.models.params,
                self.condition,
                number,
                self._take(slots),
                split(children, self.mesh),
                live=live,
                dead=children.size - live,
                nfe=self.generator.nfe(segment),
                out=self._where,
            )
            pool = (
                self._spread(block)
                if pool is None
                else self._put(pool, block, start * shape.siblings)
            )
            if report:
                report()
        self._pool = pool

    def prune(self, kept: Sequence[int]) -> None:
        """Forgets all branches but those at these indices."""
        self.paths = [self.paths[i] for i in kept]
        self.slots = [self.slots[i] for i in kept]

    def decode(self, segment: int, shape: Layout) -> Iterator[Seen]:
        """What can be seen of all branches, R at a time; the last block is filled up."""

        def build():
            def see(params, condition, branch):
                latents = self.generator.estimate(params, condition, branch, segment)
                return latents, self.generator.decode(params, latents)

            return over_branches(jax.vmap(see, (None, None, 0)), self.mesh, shared=2)

        for start in range(0, len(self.slots), shape.rows):
            slots = self.slots[start : start + shape.rows]
            dead = shape.rows - len(slots)
            branches, _ = self._take(np.array(slots + slots[:1] * dead, np.int32))
            args = self.models.params, self.condition, branches
            work = dict(live=len(slots), dead=dead)
            latents, frames = self._call("decode", ("decode", segment), build, *args, **work)
            yield Seen(latents, frames, len(slots))

    def score(self, panel: Panel, seen: Seen, query: dict) -> list[jax.Array]:
        """Scores of one block by each verifier of a panel, [R] each, left on the devices."""

        def build(verifier):
            def score(params, query, frames):
                return verifier.score(params, frames, query)

            return over_branches(score, self.mesh, shared=2)

        work = dict(live=seen.live, dead=len(seen.frames) - seen.live)
        return [
            self._call(
                verifier.name,
                ("score", verifier.name),
                partial(build, verifier),
                self.models.verifier_params[verifier.name],
                query[verifier.name],
                seen.frames,
                **work,
            )
            for verifier in panel.verifiers
        ]

    def value(self, panel: Panel, scores: np.ndarray, width: int) -> np.ndarray:
        """The panel's values of [W, V] scores; computed at the round's full width."""
        padded = np.zeros((width, len(panel.names)), np.float32)
        padded[: len(scores)] = scores
        valid = np.arange(width) < len(scores)
        args = replicate((padded, valid), self.mesh)
        key = "value", panel.names
        return np.asarray(self._call("search", key, lambda: panel.value, *args))[: len(scores)]

    def _take(self, slots: np.ndarray):
        slots = replicate(slots, self.mesh)
        return self._move("take", expansion.take, self._pool, slots)

    def _put(self, pool, block, start: int):
        start = replicate(np.int32(start), self.mesh)
        return self._move("put", expansion.put, pool, block, start, donate=(0,))

    def _spread(self, block):
        if len(jax.tree.leaves(block)[0]) == self._capacity:
            return block
        key = "spread", self._capacity
        return self._move(key, partial(expansion.spread, capacity=self._capacity), block)

    def _move(self, key, function, *args, donate=()):
        out = self._where
        return self._call("search", key, lambda: function, *args, donate=donate, out=out)

    @property
    def _where(self) -> NamedSharding:
        """Of a pool's leaves; asked of every program that makes them, since only that holds for
        leaves without elements too."""
        return NamedSharding(self.mesh, PartitionSpec(BRANCH))

    def _call(self, component: str, key, build, *args, **work):
        return self.models.programs(self.ledger[component], key, build, *args, **work)


@contextmanager
def _timed(cost: Cost) -> Iterator[None]:
    start = time.perf_counter()
    yield
    cost.seconds += time.perf_counter() - start
