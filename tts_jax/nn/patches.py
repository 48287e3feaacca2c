"""Patches of latents as tokens, channels fastest.

B batch  F latent frames  H W latent size  C channels  P tokens of a frame  p side of a token.
"""

from jax import Array


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
