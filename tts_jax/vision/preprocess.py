"""Frames to the input of CLIP towers: resize, centre crop, normalise.

Definition: VBench (https://github.com/Vchitect/VBench), which resizes tensors by cubic
interpolation with the coefficient -0.75 and without antialiasing. H W frame size  S tower size.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@functools.cache
def cubic_weights(size_in: int, size_out: int, scale: float | None = None) -> np.ndarray:
    """Cubic interpolation of one axis as a matrix, [size_out, size_in] float32.

    Half-pixel centres, edges repeated, coefficient -0.75.

    Args:
      size_in, size_out: pixels.
      scale: of the coordinates, if it is not the quotient of the sizes.
    """
    a = -0.75
    scale = size_out / size_in if scale is None else scale
    position = (np.arange(size_out) + 0.5) / scale - 0.5
    base = np.floor(position).astype(int)
    weights = np.zeros((size_out, size_in))
    for tap in range(-1, 3):
        d = np.abs(position - (base + tap))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        index = np.clip(base + tap, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), index), np.where(d <= 1, near, far))
    return weights.astype(np.float32)


def clip_input(
    frames: Array,
    size: int,
    *,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
    quantise: bool = False,
) -> Array:
    """Shorter side to `size` by cubic interpolation, centre crop, normalisation.

    Args:
      frames: [..., H, W, 3], float in [0, 1].
      size: side of the tower's input, in pixels; frames of that size are not resized.
      mean, std: per channel.
      quantise: clamp and round the resized values to 8 bits, as an 8-bit pipeline does.

    Returns:
      [..., S, S, 3] float32.
    """
    x = frames.astype(jnp.float32)
    height, width = x.shape[-3:-1]
    short = min(height, width)
    if short != size:
        rows, columns = int(size * height / short), int(size * width / short)
        x = jnp.einsum("oh,...hwc->...owc", cubic_weights(height, rows), x)
        x = jnp.einsum("ow,...hwc->...hoc", cubic_weights(width, columns), x)
        height, width = rows, columns
    if quantise:
        x = jnp.round(jnp.clip(x, 0.0, 1.0) * 255) / 255
    top, left = round((height - size) / 2), round((width - size) / 2)
    x = x[..., top : top + size, left : left + size, :]
    return (x - jnp.asarray(mean)) / jnp.asarray(std)
