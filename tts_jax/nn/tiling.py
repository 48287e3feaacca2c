"""Clips processed in pieces, for less memory: temporal windows and overlapping spatial tiles.

B batch  T frames  H W size  C channels. Channels last, [B, T, H, W, C].
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Past = list[Any] | None  # what causal layers keep of earlier windows; None at a clip's start


def in_windows(
    run: Callable[[Array, Past], tuple[Array, Past]], x: Array, first: int, size: int
) -> Array:
    """Runs over windows of frames: `first` of them, then `size` at a time, then the rest.

    Args:
      run: a window and what was kept to its output and what to keep.
      x: the whole clip, [B, T, H, W, C].
      first: frames of the first window.
      size: frames of each further one.

    Returns:
      The outputs, joined along time.
    """
    first, x = x[:, :first], x[:, first:]
    out, past = run(first, None)
    pieces = [out]
    count = x.shape[1] // size
    if count:
        whole = x[:, : count * size].reshape(-1, count, size, *x.shape[2:]).swapaxes(0, 1)

        def step(past: Past, x: Array) -> tuple[Past, Array]:
            out, past = run(x, past)
            return past, out

        past, out = jax.lax.scan(step, past, whole)
        pieces.append(jnp.concatenate(out, axis=1))
    if x.shape[1] > count * size:
        pieces.append(run(x[:, count * size :], past)[0])
    return jnp.concatenate(pieces, axis=1)


def in_tiles(
    run: Callable[[Array], Array],
    x: Array,
    size: tuple[int, int],
    *,
    stride: tuple[int, int],
    blend: tuple[int, int],
    keep: tuple[int, int],
) -> Array:
    """Runs over overlapping tiles and joins their outputs; all sizes are rows and columns.

    A tile is blended with the already blended, uncropped tile above it, then with the one on its
    left, and only then cropped: the order is part of the result. Rows of tiles come one after the
    other, those of equal height in one scan: no more than one row is held uncropped.

    Args:
      run: [B, T, h, w, C] to [B, T', h', w', C'].
      x: the whole input; returned through `run` in one piece when no side exceeds `size`.
      size: of a tile of `x`.
      stride: distance between tiles of `x`.
      blend: widths over which outputs are blended.
      keep: size of the part of each output that is kept; the last ones may be smaller.
    """
    height, width = x.shape[2:4]
    if height <= size[0] and width <= size[1]:
        return run(x)
    rows = [x[:, :, i : i + size[0]] for i in range(0, height, stride[0])]
    lefts = range(0, width, stride[1])

    def row(ends: list[Array] | None, x: Array, first: Array | None) -> tuple[list[Array], Array]:
        """One row of tiles: the ends of the blended ones, and what is kept of all of them."""
        outputs = _by_shape(run, [x[:, :, :, j : j + size[1]] for j in lefts])
        for j, own in enumerate(outputs):
            if ends is not None:
                blended = _blend(ends[j], own, blend[0], axis=2)
                own = blended if first is None else jnp.where(first, own, blended)
            if j:
                own = _blend(outputs[j - 1], own, blend[1], axis=3)
            outputs[j] = own
        kept = [own[:, :, : keep[0], : keep[1]] for own in outputs]
        tails = [own[:, :, max(own.shape[2] - blend[0], 0) :] for own in outputs]
        return tails, jnp.concatenate(kept, axis=3)

    ends, pieces = None, []
    for _, alike in itertools.groupby(rows, lambda x: x.shape):
        group = list(alike)
        if len(group) == 1:
            ends, kept = row(ends, group[0], None)
            pieces.append(kept)
            continue
        first = jnp.arange(len(group)) == (0 if ends is None else -1)
        if ends is None:
            shapes, _ = jax.eval_shape(lambda x: row(None, x, None), group[0])
            ends = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
        ends, kept = jax.lax.scan(
            lambda ends, own: row(ends, *own), ends, (jnp.stack(group), first)
        )
        pieces.append(jnp.concatenate(kept, axis=2))
    return jnp.concatenate(pieces, axis=2)


def _by_shape(run: Callable[[Array], Array], pieces: Sequence[Array]) -> list[Array]:
    """The output of each piece; those of equal shapes come one after the other in one loop."""
    outputs: dict[int, Array] = {}
    for shape in dict.fromkeys(piece.shape for piece in pieces):
        places = [i for i, piece in enumerate(pieces) if piece.shape == shape]
        done = jax.lax.map(run, jnp.stack([pieces[i] for i in places]))
        outputs |= dict(zip(places, done, strict=True))
    return [outputs[i] for i in range(len(pieces))]


def _blend(before: Array, after: Array, extent: int, axis: int) -> Array:
    """`after`, its start faded in over the end of its neighbour along an axis."""
    end = before.shape[axis]
    extent = min(end, after.shape[axis], extent)
    tail = jax.lax.slice_in_dim(before, end - extent, end, axis=axis)
    head, rest = jnp.split(after, [extent], axis=axis)
    weight = (jnp.arange(extent) / max(extent, 1)).reshape(-1, *[1] * (after.ndim - axis - 1))
    return jnp.concatenate([tail * (1 - weight) + head * weight, rest], axis=axis)
