"""DINO's vision transformer (arXiv 2104.14294), whose class token VBench compares between frames.

Definition: https://github.com/facebookresearch/dino.

B batch  H W image size  R C rows and columns of patches  L tokens  D width.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import EncoderConfig, run, stack
from tts_jax.vision.preprocess import cubic_weights


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """Sizes of the tower.

    Attributes:
      size: side of the square images it was trained with, pixels.
      patch: side of a patch, pixels.
    """

    size: int
    patch: int
    width: int
    heads: int
    layers: int
    mlp: int
    epsilon: float = 1e-6

    @classmethod
    def dino_vitb16(cls) -> "DINOConfig":
        """dino_vitbase16_pretrain.pth, as used by VBench's subject consistency."""
        return cls(size=224, patch=16, width=768, heads=12, layers=12, mlp=3072)

    @property
    def side(self) -> int:
        """Rows of patches in training."""
        return self.size // self.patch

    @property
    def encoder(self) -> EncoderConfig:
        """The part that concerns the blocks."""
        return EncoderConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            mlp=self.mlp,
            activation="gelu",
            epsilon=self.epsilon,
        )


class DINO(nnx.Module):
    """Patches, class token, positions that follow the image's shape, blocks, norm."""

    def __init__(self, config: DINOConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal(0.02)
        patch, width = config.patch, config.width
        self.patch = nnx.Param(normal(rngs.params(), (patch, patch, 3, width)))
        self.patch_bias = nnx.Param(jnp.zeros(width))
        self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.position = nnx.Param(normal(rngs.params(), (config.side**2 + 1, width)))
        self.blocks = stack(config.encoder, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs)

    def positions(self, height: int, width: int) -> Array:
        """The position table of an image of this size.

        The original asks for a tenth of a patch more than there are, against rounding, and so
        samples at slightly shifted places; it leaves the table alone only where a square image has
        as many patches as in training.

        Args:
          height, width: pixels.

        Returns:
          [1 + R * C, D], the class token's row first.
        """
        side, patch = self.config.side, self.config.patch
        rows, columns = height // patch, width // patch
        if height == width and rows == side:
            return self.position[...]
        table = self.position[1:].reshape(side, side, -1)
        down = cubic_weights(side, rows, (rows + 0.1) / side)
        across = cubic_weights(side, columns, (columns + 0.1) / side)
        table = jnp.einsum("rh,cw,hwd->rcd", down, across, table).astype(table.dtype)
        return jnp.concatenate([self.position[:1], table.reshape(rows * columns, -1)])

    def __call__(self, x: Array) -> Array:
        """Features of images.

        Args:
          x: normalised images, [B, H, W, 3]; what is left of the last whole patch is cut off.

        Returns:
          Normed states of the class token, [B, D].

        Raises:
          ValueError: an image smaller than a patch.
        """
        batch, height, breadth, _ = x.shape
        patch, width = self.config.patch, self.config.width
        rows, columns = height // patch, breadth // patch
        if not rows or not columns:
            raise ValueError(f"an image of {height}x{breadth} has no whole patch of {patch} pixels")
        x = x[:, : rows * patch, : columns * patch].astype(self.patch.dtype)
        x = x.reshape(batch, rows, patch, columns, patch, 3)
        x = jnp.einsum("brhcwk,hwkd->brcd", x, self.patch[...]) + self.patch_bias
        first = jnp.broadcast_to(self.class_token[...], (batch, 1, width))
        x = jnp.concatenate([first, x.reshape(batch, rows * columns, width)], axis=1)
        x = run(self.blocks, x + self.positions(height, breadth))
        return self.norm(x[:, 0])
