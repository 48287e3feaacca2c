"""The vision transformer of CLIP (arXiv 2103.00020) and its video form ViCLIP (arXiv 2307.06942).

An image is a class token and a row of patches. A video is one class token and the patches of all
its frames in one sequence, each frame's patches with a learned time embedding added.

B batch  T frames  H W image size  P patches of an image  L tokens  D width.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import EncoderConfig, run, stack


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of a vision tower.

    Attributes:
      size: side of the square input, pixels.
      patch: side of a patch, pixels.
      frames: most frames of a video, or None for an image tower, which has no time embedding.
      projection: size of the joint embedding.
    """

    size: int
    patch: int
    width: int
    heads: int
    layers: int
    mlp: int
    projection: int
    frames: int | None = None
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    @classmethod
    def clip_vit_base_patch32(cls) -> "VisionConfig":
        """Image tower of openai/clip-vit-base-patch32."""
        return cls(size=224, patch=32, width=768, heads=12, layers=12, mlp=3072, projection=512)

    @classmethod
    def clip_vit_large_patch14(cls) -> "VisionConfig":
        """Image tower of openai/clip-vit-large-patch14."""
        return cls(size=224, patch=14, width=1024, heads=16, layers=24, mlp=4096, projection=768)

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return (self.size // self.patch) ** 2

    @property
    def encoder(self) -> EncoderConfig:
        """The part that concerns the blocks."""
        return EncoderConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            mlp=self.mlp,
            activation=self.activation,
            epsilon=self.epsilon,
        )


class VisionTower(nnx.Module):
    """Patches, class token, positions, blocks between two norms, projection."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal
        patch, width = config.patch, config.width
        # A kernel over time of length 1 keeps the layout of ViCLIP's 3D convolution.
        kernel = (patch, patch, 3, width) if config.frames is None else (1, patch, patch, 3, width)
        deviation = width**-0.5
        self.patch = nnx.Param(normal(0.02)(rngs.params(), kernel))
        self.class_token = nnx.Param(normal(deviation)(rngs.params(), (width,)))
        self.position = nnx.Param(normal(0.02)(rngs.params(), (config.patches + 1, width)))
        if config.frames is not None:
            self.time = nnx.Param(normal(0.02)(rngs.params(), (config.frames, width)))
        self.norm_in = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs)
        self.blocks = stack(config.encoder, rngs=rngs)
        self.norm_out = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs)
        self.projection = nnx.Linear(
            width, config.projection, use_bias=False, kernel_init=normal(deviation), rngs=rngs
        )

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Encodes images or videos.

        Args:
          x: normalised images, [B, H, W, 3], or videos, [B, T, H, W, 3], of the configured size; a
            video with fewer frames than the configured ones is its beginning.

        Returns:
          States of all tokens before the last norm, class token first, [B, L, D], and the normed
          state of the class token, [B, D].
        """
        patch, width = self.config.patch, self.config.width
        *lead, height, breadth, _ = x.shape
        rows, columns = height // patch, breadth // patch
        x = x.astype(self.patch.dtype).reshape(*lead, rows, patch, columns, patch, 3)
        kernel = self.patch.reshape(patch, patch, 3, width)
        x = jnp.einsum("...rhcwk,hwkd->...rcd", x, kernel).reshape(*lead, rows * columns, width)
        x = x + self.position[1:]
        if self.config.frames is not None:
            x = (x + self.time[: lead[1], None]).reshape(lead[0], -1, width)
        first = jnp.broadcast_to(self.class_token + self.position[0], (lead[0], 1, width))
        hidden = run(self.blocks, self.norm_in(jnp.concatenate([first, x], axis=1)))
        return hidden, self.norm_out(hidden[:, 0])

    def embed(self, x: Array) -> Array:
        """Joint embedding of images or videos, not normalised.

        Args:
          x: as in `__call__`.

        Returns:
          Embeddings, [B, projection].
        """
        return self.projection(self(x)[1])
