"""The vision transformer of Qwen2-VL (arXiv 2409.12191), which sees videos of any size.

A patch is two frames deep. Attention is among the patches of one pair of frames; their rows and
columns turn queries and keys. Four neighbours then become one row of the language model.

B pairs of frames  H W frame size  h w patches of a column and of a row  D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.embeddings import grid_angles
from tts_jax.nn.encoder import ACTIVATIONS, EncoderConfig, run, stack
from tts_jax.nn.mlp import MLP


@dataclass(frozen=True, kw_only=True)
class Qwen2VisionConfig:
    """Sizes of the tower.

    Attributes:
      patch: side of a patch, pixels.
      depth: frames of a patch.
      merge: patches of a side that become one row.
      outputs: width of the language model.
    """

    patch: int
    width: int
    heads: int
    layers: int
    mlp: int
    outputs: int
    depth: int = 2
    merge: int = 2
    activation: str = "quick_gelu"
    epsilon: float = 1e-6

    @classmethod
    def qwen2_vl_2b(cls) -> "Qwen2VisionConfig":
        """Qwen/Qwen2-VL-2B-Instruct."""
        return cls(patch=14, width=1280, heads=16, layers=32, mlp=5120, outputs=1536)

    @classmethod
    def from_reference(cls, config: Mapping) -> "Qwen2VisionConfig":
        """The sizes in the published `vision_config`, already parsed.

        Raises:
          ValueError: settings that no published tower has.
        """
        activation = config.get("hidden_act", "quick_gelu")
        channels = config.get("in_channels", config.get("in_chans", 3))
        if activation not in ACTIVATIONS or channels != 3:
            raise ValueError(f"unsupported vision settings: {activation=}, in_channels={channels}")
        return cls(
            patch=config["patch_size"],
            width=config["embed_dim"],
            heads=config["num_heads"],
            layers=config["depth"],
            mlp=int(config["embed_dim"] * config["mlp_ratio"]),
            outputs=config["hidden_size"],
            depth=config.get("temporal_patch_size", 2),
            merge=config.get("spatial_merge_size", 2),
            activation=activation,
        )

    @property
    def factor(self) -> int:
        """Pixels of a side that give one row."""
        return self.patch * self.merge


class Qwen2VisionTower(nnx.Module):
    """Patches, pre-norm blocks, and the merger of neighbours."""

    def __init__(self, config: Qwen2VisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.depth, config.patch, config.patch, 3, config.width)
        self.patch = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))
        encoder = EncoderConfig(
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            mlp=config.mlp,
            activation=config.activation,
            epsilon=config.epsilon,
        )
        self.blocks = stack(encoder, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        merged = config.width * config.merge**2
        self.merger = MLP(merged, config.outputs, hidden=merged, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Encodes pairs of frames, each by itself.

        Args:
          x: normalised frames, [B, depth, H, W, 3]; H and W are multiples of `config.factor`.

        Returns:
          States of the patches, [B, h, w, D].
        """
        config = self.config
        count, depth, height, width, _ = x.shape
        rows, columns = height // config.patch, width // config.patch
        x = x.astype(self.patch.dtype)
        x = x.reshape(count, depth, rows, config.patch, columns, config.patch, 3)
        x = jnp.einsum("btrhcwk,thwkd->brcd", x, self.patch[...])
        angles = grid_angles(rows, columns, config.width // config.heads)
        rotation = jnp.cos(angles), jnp.sin(angles)
        x = run(self.blocks, x.reshape(count, rows * columns, -1), rotation=rotation)
        return x.reshape(count, rows, columns, -1)

    def merge(self, x: Array) -> Array:
        """Rows of the language model, [B, h, w, D] -> [B, h * w / merge², D_out]."""
        n = self.config.merge
        count, rows, columns, width = x.shape
        x = self.norm(x).reshape(count, rows // n, n, columns // n, n, width)
        return self.merger(x.swapaxes(2, 3).reshape(count, -1, n * n * width))
