"""The vision transformer of SigLIP (arXiv 2303.15343) and two that see images of any size.

Positions of patches are a learned table of one size; or that table read at the fractions of height
and width at which a patch begins, as in Idefics2 (arXiv 2405.02246); or a rotation of queries and
keys, as in VideoLLaMA3 (arXiv 2501.13106).

B images  H W image size  h w patches of a column and of a row  D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.embeddings import grid_angles
from tts_jax.nn.encoder import ACTIVATIONS, EncoderConfig, run, stack

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """Sizes of a tower.

    Attributes:
      patch: side of a patch, pixels.
      side: rows and columns of the position table, or None for rotated queries and keys.
      last_norm: whether states pass a last norm.
    """

    patch: int
    width: int
    heads: int
    layers: int
    mlp: int
    side: int | None = None
    last_norm: bool = True
    activation: str = "gelu_pytorch_tanh"
    epsilon: float = 1e-6

    @classmethod
    def so400m(cls, side: int | None = None, **changes) -> "SiglipConfig":
        """SigLIP so400m/14 with 27 layers, and what a model changes in it."""
        sizes = {"patch": 14, "width": 1152, "heads": 16, "layers": 27, "mlp": 4304}
        return cls(**{**sizes, "side": side, **changes})

    @classmethod
    def from_reference(cls, config: Mapping, **changes) -> "SiglipConfig":
        """The sizes in a published description of a tower, already parsed; no table unless asked.

        Raises:
          ValueError: an activation that no published tower has.
        """
        activation = config.get("hidden_act", "gelu_pytorch_tanh")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unsupported settings of the vision tower: {activation!r}")
        sizes = {
            "patch": config["patch_size"],
            "width": config["hidden_size"],
            "heads": config["num_attention_heads"],
            "layers": config["num_hidden_layers"],
            "mlp": config["intermediate_size"],
            "activation": activation,
            "epsilon": config.get("layer_norm_eps", 1e-6),
        }
        return cls(**{**sizes, **changes})


def bucketed_places(rows: int, columns: int, side: int) -> np.ndarray:
    """Entries of a position table for the patches of an image of another size, by Idefics2's rule.

    Args:
      rows, columns: of patches.
      side: rows and columns of the table.

    Returns:
      Int [rows, columns]. A patch that begins just where an entry does takes that entry; there the
      original's 32-bit numbers may take the one before, depending on the processor.
    """
    down, across = (np.arange(count) * side // count for count in (rows, columns))
    return down[:, None] * side + across


class SiglipTower(nnx.Module):
    """Patches, positions, pre-norm blocks, a last norm."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal(0.02)
        self.patch = nnx.Param(normal(rngs.params(), (config.patch, config.patch, 3, config.width)))
        self.patch_bias = nnx.Param(jnp.zeros(config.width))
        if config.side is not None:
            self.position = nnx.Param(normal(rngs.params(), (config.side**2, config.width)))
        encoder = EncoderConfig(
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            mlp=config.mlp,
            activation=config.activation,
            epsilon=config.epsilon,
        )
        self.blocks = stack(encoder, rngs=rngs)
        if config.last_norm:
            self.norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(self, x: Array, mask: Array | None = None, places: Array | None = None) -> Array:
        """Encodes images, each by itself.

        Args:
          x: normalised images, [B, H, W, 3]; what is beyond the last whole patch does not count.
          mask: patches that are no padding, [B, h, w] bool; all if None.
          places: entries of the position table, [B, h, w] int; by default those of an image that
            fills [h, w].

        Returns:
          States, [B, h, w, D].
        """
        config = self.config
        x = patches(x, self.patch[...]) + self.patch_bias
        images, rows, columns, width = x.shape
        rotation = None
        if config.side is None:
            angles = grid_angles(rows, columns, width // config.heads)
            rotation = jnp.cos(angles), jnp.sin(angles)
        else:
            if places is None:
                places = bucketed_places(rows, columns, config.side)
            x = x + self.position[places]
        seen = None if mask is None else mask.reshape(images, -1)
        x = run(self.blocks, x.reshape(images, -1, width), seen, rotation=rotation)
        if config.last_norm:
            x = self.norm(x)
        return x.reshape(images, rows, columns, width)


def patches(x: Array, kernel: Array) -> Array:
    """A linear map of every patch, [..., H, W, 3] and [p, p, 3, D] -> [..., h, w, D]."""
    side = kernel.shape[0]
    *lead, height, width, _ = x.shape
    rows, columns = height // side, width // side
    x = x[..., : rows * side, : columns * side, :].astype(kernel.dtype)
    x = x.reshape(*lead, rows, side, columns, side, 3)
    return jnp.einsum("...rhcwk,hwkd->...rcd", x, kernel)


def by_frame(encode, frames: Array, at_once: int = 8) -> Array:
    """Encodes frames a few at a time, so that the attention of all need not fit into memory.

    Args:
      encode: [n, ...] to [n, ...].
      frames: [B, ...].
      at_once: n.
    """
    if frames.shape[0] <= at_once:
        return encode(frames)
    return jax.lax.map(lambda frame: encode(frame[None])[0], frames, batch_size=at_once)
