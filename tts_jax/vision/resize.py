"""Resizing and the choice of sizes as the published image processors do it.

They resize with Pillow (8-bit numbers between and after two passes, columns first), with torch's
antialiased cubic interpolation, or with torch's plain bilinear one; in all three a pixel is a
weighted mean of some neighbours, so that a pass is a matrix. H W size.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


@functools.cache
def resize_matrix(size_in: int, size_out: int, kernel: str, antialias: bool = True) -> np.ndarray:
    """Resizing of one axis as a matrix.

    Args:
      size_in, size_out: pixels.
      kernel: "bilinear" or "bicubic" (coefficient -0.5).
      antialias: whether the kernel grows when the image shrinks.

    Returns:
      Float32 [size_out, size_in]; every row sums to one.
    """
    function, support = KERNELS[kernel]
    scale = size_in / size_out
    stretch = max(scale, 1.0) if antialias else 1.0
    weights = np.zeros((size_out, size_in))
    for out in range(size_out):
        centre = (out + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), size_in)
        row = function((np.arange(first, last) - centre + 0.5) / stretch)
        weights[out, first:last] = row / row.sum()
    return weights.astype(np.float32)


def neighbour_means(x: Array, weights: np.ndarray, axis: int) -> Array:
    """A pass of a resizing, one neighbour after the other.

    A row of the matrix has few weights, so that on a CPU this is many times faster than the product
    with the whole matrix.

    Args:
      x: any array.
      weights: [size_out, size_in], the ones that are not zero side by side.
      axis: of x, of length size_in.

    Returns:
      `x` with that axis of length size_out.
    """
    used = weights != 0
    first, last = used.argmax(1), weights.shape[1] - used[:, ::-1].argmax(1)
    taps = int((last - first).max())
    first = np.minimum(first, weights.shape[1] - taps)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    return sum(
        jnp.take(x, first + tap, axis) * weights[np.arange(len(first)), first + tap].reshape(shape)
        for tap in range(taps)
    )


def to_levels(frames: Array) -> Array:
    """Values in [0, 1] as whole numbers from 0 to 255, float32."""
    return jnp.floor(jnp.clip(frames.astype(jnp.float32), 0.0, 1.0) * 255 + 0.5)


def resize(
    x: Array,
    size: tuple[int, int],
    kernel: str,
    *,
    antialias: bool = True,
    quantise: bool = False,
) -> Array:
    """Resizes images.

    Args:
      x: [..., H, W, C].
      size: rows and columns of the result.
      kernel, antialias: see `resize_matrix`.
      quantise: round to whole numbers from 0 to 255 after each of the two passes, as Pillow does.

    Returns:
      [..., *size, C] float32.
    """
    x = x.astype(jnp.float32)

    def whole(x):
        return jnp.clip(jnp.floor(x + 0.5), 0, 255) if quantise else x

    if x.shape[-2] != size[1]:
        weights = resize_matrix(x.shape[-2], size[1], kernel, antialias)
        x = whole(jnp.einsum("ow,...hwc->...hoc", weights, x))
    if x.shape[-3] != size[0]:
        weights = resize_matrix(x.shape[-3], size[0], kernel, antialias)
        x = whole(jnp.einsum("oh,...hwc->...owc", weights, x))
    return x


def normalise_levels(x: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Whole numbers from 0 to 255 to (x / 255 - mean) / std, per channel."""
    return (x / 255 - jnp.asarray(mean)) / jnp.asarray(std)


def fit_between(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Size with the longer side at most `longest`, then each at least `shortest` (Idefics2)."""
    ratio = width / height
    if width >= height and width > longest:
        width, height = longest, int(longest / ratio)
    elif height > width and height > longest:
        height, width = longest, int(longest * ratio)
    return max(height, shortest), max(width, shortest)


def fit_area(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Size of whole multiples of `factor` with an area between bounds (Qwen2-VL).

    Args:
      height, width: pixels.
      factor: pixels of a side that give one token.
      least, most: bounds of the area, pixels.
    """
    rows, columns = (max(factor, round(n / factor) * factor) for n in (height, width))
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        return tuple(max(factor, math.floor(n / shrink / factor) * factor) for n in (height, width))
    if rows * columns < least:
        grow = math.sqrt(least / (height * width))
        return tuple(math.ceil(n * grow / factor) * factor for n in (height, width))
    return rows, columns
