"""Branches on the devices: how they are laid out in calls, and how they are moved.

A *row* of a call is one parent and some of its children. Children of one row share what depends on
their parent alone; rows are what devices divide.

C capacity of a pool  R rows  K children of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Layout:
    """The static shape of the calls that expand some branches.

    Attributes:
      rows: R, on all devices together.
      siblings: K.
    """

    rows: int
    siblings: int

    def capacity(self, rows: int) -> int:
        """Places that the calls for so many rows fill, [C], from a short list."""
        return _power_of_two(-(-rows // self.rows)) * self.rows * self.siblings


def layout(
    parents: int, children: int, *, devices: int, micro_batch: int, exact: bool, share: bool
) -> Layout:
    """Chooses the shape of calls, from a short list so that few programs are compiled.

    Args:
      parents: the most branches there can be.
      children: children of each.
      devices: that share the rows.
      micro_batch: the most branches on a device at once; 0 for any number.
      exact: one branch per device and call, whose bits then cannot depend on those beside it.
      share: whether siblings have anything in common.
    """
    if exact:
        return Layout(devices, 1)
    siblings = 1
    if share:
        # Rather one child per row than devices without a row.
        most = min(children, micro_batch or children, max(1, parents * children // devices))
        siblings = -(-children // -(-children // most))
    rows = parents * -(-children // siblings)
    per_device = _at_least(-(-rows // devices))
    if micro_batch:
        per_device = min(per_device, _at_most(max(1, micro_batch // siblings)))
    return Layout(devices * per_device, siblings)


def _at_least(number: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, ...: less than a third of a call is padding."""
    power = _power_of_two(number)
    between = power * 3 // 4
    return between if power > 2 and between >= number else power


def _at_most(number: int) -> int:
    """The last of the same numbers that is not larger."""
    power = 1 << (number.bit_length() - 1)
    between = power * 3 // 2
    return between if power > 1 and between <= number else power


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@dataclass(frozen=True)
class Row:
    """A parent and children of it.

    Attributes:
      slot: the parent's place in the pool.
      children: child indices, up to K.
    """

    slot: int
    children: tuple[int, ...]


def rows(
    slots: Sequence[int], children: Sequence[Sequence[int]], siblings: int
) -> tuple[list[Row], list[int]]:
    """The rows that give parents their children, and the places these will take.

    Args:
      slots: a place per parent.
      children: child indices of each parent, any number.
      siblings: K.

    Returns:
      Rows, and a place for each child in the order of parents and children.
    """
    made, places = [], []
    for slot, indices in zip(slots, children, strict=True):
        for start in range(0, len(indices), siblings):
            part = tuple(indices[start : start + siblings])
            places += [len(made) * siblings + i for i in range(len(part))]
            made.append(Row(slot, part))
    return made, places


def row_arrays(part: Sequence[Row], shape: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Places [R] int32 and child indices [R, K] uint32 of one call, filled up by repetition."""
    filled = [*part, *[part[0]] * (shape.rows - len(part))]
    children = [row.children + row.children[-1:] * shape.siblings for row in filled]
    return (
        np.array([row.slot for row in filled], np.int32),
        np.array([indices[: shape.siblings] for indices in children], np.uint32),
    )


def take(pool: Any, slots: Array) -> Any:
    """Gathers branches, [C, ...] and [R] -> [R, ...]."""
    return jax.tree.map(lambda x: jnp.take(x, slots, axis=0, mode="clip"), pool)


def put(pool: Any, block: Any, start: Array) -> Any:
    """Writes a block of branches into a pool from `start` on."""
    return jax.tree.map(
        lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0), pool, block
    )


def spread(block: Any, capacity: int) -> Any:
    """A pool [C, ...] that begins with a block of branches."""

    def widen(x):
        return jnp.concatenate([x, jnp.zeros((capacity - len(x), *x.shape[1:]), x.dtype)])

    return jax.tree.map(widen, block)


def join(*pools: Any) -> Any:
    """One pool of several, [C1, ...], [C2, ...] -> [C1 + C2, ...]."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *pools)
