"""Tokens of a video: patches of its frames, scaled and shifted frame by frame.

B batch  F frames  H W size  C channels  P tokens of a frame  L = F * P tokens  D width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.norms import layer_norm


def patchify(latents: Array, patch: int) -> Array:
    """Tokens of p x p latents, channel fastest: [B, F, H, W, C] -> [B, F*P, p*p*C]."""
    b, f, h, w, c = latents.shape
    patches = latents.reshape(b, f, h // patch, patch, w // patch, patch, c)
    return patches.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, -1, patch * patch * c)


def unpatchify(tokens: Array, grid: tuple[int, int, int], patch: int) -> Array:
    """The inverse of `patchify` for a grid of frames, token rows and token columns."""
    b, (f, h, w) = tokens.shape[0], grid
    patches = tokens.reshape(b, f, h, w, patch, patch, -1)
    return patches.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, h * patch, w * patch, -1)


def within(x: Array, frames: int, over_time: bool, function: Callable[[Array], Array]) -> Array:
    """Applies a function to the tokens of every frame, or to those at one place of all frames.

    Args:
      x: tokens, frame after frame, [B, F*P, D].
      frames: F.
      over_time: whether the groups are places.
      function: of tokens [G, L, D], of the same shape.

    Returns:
      [B, F*P, D].
    """
    groups = x.reshape(x.shape[0], frames, -1, x.shape[-1])
    if over_time:
        groups = groups.swapaxes(1, 2)
    y = function(groups.reshape(-1, *groups.shape[2:])).reshape(groups.shape)
    if over_time:
        y = y.swapaxes(1, 2)
    return y.reshape(x.shape)


def modulation_table(count: int, width: int, *, rngs: nnx.Rngs) -> nnx.Param:
    """Learned shifts, scales or gates, [count, D], that are added to those of the time."""
    return nnx.Param(jax.random.normal(rngs.params(), (count, width)) / width**0.5)


def modulations(table: nnx.Param, values: Array) -> Array:
    """The table's and the time's [B, F, count or 1, D] together, [count, B, F, D] float32."""
    return jnp.moveaxis(table[...].astype(jnp.float32) + values, 2, 0)


def modulate(x: Array, shift: Array, scale: Array, epsilon: float) -> Array:
    """Layer norm of tokens [B, L, D], scaled and shifted by their frame's [B, F, D].

    One frame's values do for all frames if F is 1.
    """
    y = layer_norm(x, epsilon).reshape(x.shape[0], shift.shape[1], -1, x.shape[-1])
    return (y * (1 + scale[:, :, None]) + shift[:, :, None]).reshape(x.shape).astype(x.dtype)


def gated(x: Array, gate: Array) -> Array:
    """Tokens [B, L, D] times their frame's gate [B, F, D]; one for all if F is 1."""
    y = x.reshape(x.shape[0], gate.shape[1], -1, x.shape[-1])
    return (y * gate[:, :, None]).reshape(x.shape).astype(x.dtype)
