"""Sinusoids of the diffusion time and rotary position embeddings.

B batch  L tokens  N heads  K head size.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.nn.norms import RMSNorm


def frequencies(count: int, theta: float = 10000.0) -> np.ndarray:
    """Geometric frequencies theta^(-k/count), k = 0 .. count - 1, float64 [count]."""
    return theta ** -(np.arange(count, dtype=np.float64) / count)


def timestep_sinusoid(time: Array, width: int = 256) -> Array:
    """Sinusoidal embedding of the diffusion time, cosines first (arXiv 2006.11239).

    Args:
      time: [B], used unscaled.
      width: even number of channels.

    Returns:
      [B, width], float32: cos(t f_k) followed by sin(t f_k).
    """
    angles = time.astype(jnp.float32)[:, None] * frequencies(width // 2).astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotate_pairs(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding on adjacent pairs (x_2k, x_2k+1) (arXiv 2104.09864).

    Args:
      x: queries or keys, [B, L, N, K].
      cos: cosines of the angles, float32 [L, K/2].
      sin: their sines, float32 [L, K/2].

    Returns:
      [B, L, N, K] in the dtype of `x`; the rotation is done in float32.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None], sin[:, None]
    rotated = jnp.stack([cos * even - sin * odd, sin * even + cos * odd], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def rotate_halves(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding on the pairs (x_k, x_{k + K/2}), as Llama's and Qwen's weights want it.

    Args:
      x: queries or keys, [B, L, N, K].
      cos: cosines of the angles, float32 [L, K/2] or [B, L, K/2].
      sin: their sines, of the same shape.

    Returns:
      [B, L, N, K] in the dtype of `x`; the rotation is done in float32.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def norm_and_turn(
    norm: RMSNorm, x: Array, rope: tuple[Array, Array] | None, axes: int = 2
) -> Array:
    """Queries or keys, normalised and rotated by halves; what a TPU reads and writes least for.

    The halves of a head are an axis, and what is turned is `x` itself, which is there already.

    Args:
      norm: over the last axes of `x`; its channels in that order.
      x: [B, L, N, 2, K/2].
      rope: cosines and sines of the angles, float32 [L, K/2] each; None to rotate nothing.
      axes: that are normalised over: 2 are a head, 3 all heads.

    Returns:
      [B, L, N, K] in the dtype of `x`; computed in float32.
    """
    whole = *x.shape[:3], 2 * x.shape[-1]
    scale = norm.scale[...].reshape(x.shape[-axes:]).astype(jnp.float32)
    y = x.astype(jnp.float32)
    factor = norm.factor(y, axis=tuple(range(-axes, 0)))
    if rope is None:
        return (y * factor * scale).astype(x.dtype).reshape(whole)
    cos, sin = (table[:, None, None] for table in rope)
    sines = jnp.concatenate([-sin, sin], axis=-2)
    turned = jnp.flip(x, -2).astype(jnp.float32)
    y = y * (cos * scale) + turned * (sines * jnp.flip(scale, -2))
    return (y * factor).astype(x.dtype).reshape(whole)


def grid_angles(rows: int, columns: int, size: int, theta: float = 10000.0) -> np.ndarray:
    """Rotary angles of the patches of an image (Qwen2-VL, arXiv 2409.12191).

    Args:
      rows, columns: of patches.
      size: K, a multiple of 4; half of the turned pairs tell the row, half the column.
      theta: base of the periods.

    Returns:
      Float32 [rows * columns, K/2], row after row.
    """
    rates = frequencies(size // 4, theta)
    down, across = (np.arange(n)[:, None] * rates for n in (rows, columns))
    shape = (rows, columns, size // 4)
    angles = [np.broadcast_to(down[:, None], shape), np.broadcast_to(across[None], shape)]
    return np.concatenate(angles, axis=-1).reshape(rows * columns, -1).astype(np.float32)


def position_sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of positions [L] at `width` / 2 frequencies, float64 [L, width]."""
    angles = positions[:, None] * frequencies(width // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def position_grid(rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    """Sines and cosines of the rows and columns of a grid.

    Args:
      rows, columns: positions of the R rows and of the S columns.
      width: channels, a multiple of 4: first the column's sines and cosines, then the row's.

    Returns:
      Float64 [R, S, width].
    """
    down, across = (position_sinusoids(axis, width // 2) for axis in (rows, columns))
    shape = len(rows), len(columns), width // 2
    across, down = np.broadcast_to(across[None], shape), np.broadcast_to(down[:, None], shape)
    return np.concatenate([across, down], axis=-1)


def position_table(size: int, width: int, base: int) -> np.ndarray:
    """Sines and cosines of rows and columns (`PatchEmbed` of SD3, arXiv 2403.03206).

    Args:
      size: rows and columns of the table.
      width: channels, as of `position_grid`.
      base: side of the grid whose positions are 0, 1, 2, ...; a finer one has fractions.

    Returns:
      Float64 [size, size, width].
    """
    positions = np.arange(size) * (base / size)
    return position_grid(positions, positions, width)
