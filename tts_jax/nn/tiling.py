"""Clips processed in pieces, for less memory: temporal windows and overlapping spatial tiles.

B batch  T frames  H W size  C channels. Channels last, [B, T, H, W, C].
"""

from collections.abc import Callable
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
    left, and only then cropped: the order is part of the result.

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
    tops, lefts = range(0, height, stride[0]), range(0, width, stride[1])
    pieces = {(i, j): x[:, :, i : i + size[0], j : j + size[1]] for i in tops for j in lefts}
    outputs = {}
    for shape in dict.fromkeys(p.shape for p in pieces.values()):  # one program per shape
        places = [place for place, piece in pieces.items() if piece.shape == shape]
        done = jax.lax.map(run, jnp.stack([pieces[place] for place in places]))
        outputs |= dict(zip(places, done, strict=True))
    rows = []
    for i in tops:
        for j in lefts:
            if i:
                outputs[i, j] = _blend(outputs[i - stride[0], j], outputs[i, j], blend[0], axis=2)
            if j:
                outputs[i, j] = _blend(outputs[i, j - stride[1]], outputs[i, j], blend[1], axis=3)
        row = [outputs[i, j][:, :, : keep[0], : keep[1]] for j in lefts]
        rows.append(jnp.concatenate(row, axis=3))
    return jnp.concatenate(rows, axis=2)


def _blend(before: Array, after: Array, extent: int, axis: int) -> Array:
    """`after`, its start faded in over the end of its neighbour along an axis."""
    extent = min(before.shape[axis], after.shape[axis], extent)
    end = before.shape[axis]
    tail = jax.lax.slice_in_dim(before, end - extent, end, axis=axis)
    head, rest = jnp.split(after, [extent], axis=axis)
    weight = (jnp.arange(extent) / max(extent, 1)).reshape(-1, *[1] * (after.ndim - axis - 1))
    return jnp.concatenate([tail * (1 - weight) + head * weight, rest], axis=axis)
