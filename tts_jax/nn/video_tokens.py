"""Tokens of a video: patches of its frames, scaled and shifted frame by frame.

B batch  F frames  H W size  C channels  P tokens of a frame  L = F * P tokens  D width.
"""

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
