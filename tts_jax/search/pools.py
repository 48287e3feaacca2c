"""Where branches lie: pools on the devices, and what is gathered from them and put into them.

Pools are pytrees with a leading axis of places. The host knows where a branch lies and moves
nothing itself: growing gathers parents from their places, and a pool that holds no wanted branch is
dropped. Where a call makes one branch, it is a pool of its own, which nothing has to be gathered
from or put into.

R rows of a call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tts_jax.parallel import BRANCH, fetch, replicate, split
from tts_jax.search import expansion
from tts_jax.search.expansion import Layout
from tts_jax.search.ledger import Ledger
from tts_jax.search.models import Models, SearchFault
from tts_jax.search.paths import Path


class Place(NamedTuple):
    """Where a branch lies."""

    pool: int
    slot: int


class Name(NamedTuple):
    """What a branch is called: drafts have the paths of full videos."""

    fidelity: str
    path: Path


class Pools(ABC):
    """Branches by name, and the calls that move them; a forest says what makes them."""

    def __init__(self, models: Models):
        """Begins with no branch.

        Args:
          models: generators, verifiers, mesh and programs.
        """
        self.models, self.mesh = models, models.mesh
        self.ledger = Ledger()
        self._pools: dict[int, Any] = {}
        self._places: dict[Name, Place] = {}
        self._pools_made = 0

    @abstractmethod
    def _root(self, fidelity: str) -> Any:
        """A pool with the root at the first place of every device."""

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
