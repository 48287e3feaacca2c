"""UMT's classifier of human actions (arXiv 2303.16058), as VBench uses it.

Definition: https://github.com/OpenGVLab/unmasked_teacher.

B batch  T frames  H W frame size  L tokens  D width.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import EncoderConfig, run, stack


@dataclass(frozen=True, kw_only=True)
class UMTConfig:
    """Sizes of the classifier.

    Attributes:
      size: side of a square frame, pixels.
      patch: side of a patch, pixels; a patch is one frame deep.
      frames: of a clip.
      table_frames: frames that the table of positions was made for, before it was stretched.
      classes: of actions.
    """

    size: int
    patch: int
    frames: int
    width: int
    heads: int
    layers: int
    mlp: int
    classes: int
    table_frames: int = 8
    epsilon: float = 1e-6

    @classmethod
    def umt_l16_k400(cls) -> "UMTConfig":
        """l16_ptk710_ftk710_ftk400_f16_res224.pth, as used by VBench's human action."""
        return cls(
            size=224,
            patch=16,
            frames=16,
            width=1024,
            heads=16,
            layers=24,
            mlp=4096,
            classes=400,
        )

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
            activation="gelu",
            epsilon=self.epsilon,
        )


def position_table(config: UMTConfig) -> np.ndarray:
    """Positions before training: sines and cosines in turn, stretched over time.

    Args:
      config: sizes.

    Returns:
      [L, D] float32, linearly interpolated from `table_frames` to `frames` frames.
    """
    made, frames, width = config.table_frames, config.frames, config.width
    place = np.arange(made * config.patches)[:, None]
    angle = place / 10000 ** (2 * (np.arange(width) // 2) / width)
    table = np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))
    table = table.reshape(made, config.patches * width)
    time = np.clip((np.arange(frames) + 0.5) * made / frames - 0.5, 0, made - 1)
    before = np.floor(time).astype(int)
    share = (time - before)[:, None]
    after = np.minimum(before + 1, made - 1)
    table = (1 - share) * table[before] + share * table[after]
    return table.reshape(frames * config.patches, width).astype(np.float32)


class UMT(nnx.Module):
    """Patches of all frames in one sequence, blocks, their mean, norm, classes.

    The original has no bias on keys, which would add the same to all of a query's logits: here it
    is there, and the table fills it with zeros.
    """

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.config = config
        patch, width = config.patch, config.width
        kernel = (patch, patch, 3, width)
        self.patch = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), kernel))
        self.patch_bias = nnx.Param(jnp.zeros(width))
        self.position = nnx.Param(jnp.asarray(position_table(config)))
        self.blocks = stack(config.encoder, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs)
        self.head = nnx.Linear(width, config.classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits of the classes; VBench takes the sigmoid of each.

        Args:
          x: normalised clips of the configured size, [B, T, H, W, 3].

        Returns:
          [B, classes].

        Raises:
          ValueError: clips of another size.
        """
        config = self.config
        if x.shape[1:] != (config.frames, config.size, config.size, 3):
            raise ValueError(
                f"clips of {list(x.shape[1:])}; the classifier takes {config.frames} frames of "
                f"{config.size}x{config.size} pixels, channels last"
            )
        patch, side = config.patch, config.size // config.patch
        x = x.astype(self.patch.dtype)[:, :, : side * patch, : side * patch]
        x = x.reshape(len(x), config.frames, side, patch, side, patch, 3)
        x = jnp.einsum("btrhcwk,hwkd->btrcd", x, self.patch[...]) + self.patch_bias
        x = x.reshape(len(x), -1, config.width) + self.position
        return self.head(self.norm(run(self.blocks, x).mean(1)))
