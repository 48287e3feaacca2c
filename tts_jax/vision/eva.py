"""The vision part of CogVLM2 (arXiv 2408.16500): EVA2-CLIP-E, a convolution and a gated adapter.

The blocks norm what attention and the feed-forward layer give, not what they get.

B frames  S frame size  P patches  D width of the tower  E width of the language model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import ACTIVATIONS, Attention, EncoderConfig, FeedForward
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import GatedMLP
from tts_jax.nn.stack import stacked
from tts_jax.vision.siglip import patches


@dataclass(frozen=True, kw_only=True)
class EVAConfig:
    """Sizes of tower and adapter.

    Attributes:
      size: side of a frame, pixels.
      patch: side of a patch, pixels.
      outputs, hidden: E, and the adapter's hidden size.
      epsilon: of the norms in the tower; that of the adapter is 1e-5.
    """

    size: int
    patch: int
    width: int
    heads: int
    layers: int
    mlp: int
    outputs: int
    hidden: int
    activation: str = "gelu"
    epsilon: float = 1e-6

    @classmethod
    def cogvlm2_video(cls) -> "EVAConfig":
        """THUDM/VisionReward-Video and THUDM/cogvlm2-llama3-caption."""
        return cls(
            size=224,
            patch=14,
            width=1792,
            heads=16,
            layers=63,
            mlp=15360,
            outputs=4096,
            hidden=14336,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "EVAConfig":
        """The sizes in CogVLM2's published `config.json`, already parsed.

        Raises:
          ValueError: settings that no published tower has.
        """
        vision = config["vision_config"]
        activation, channels = vision.get("hidden_act", "gelu"), vision.get("in_channels", 3)
        sides = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        if activation not in ACTIVATIONS or channels != 3 or vision["num_positions"] != sides:
            raise ValueError(
                f"unsupported vision settings: {activation=}, in_channels={channels}, "
                f"num_positions={vision['num_positions']} where {sides} are needed"
            )
        return cls(
            size=vision["image_size"],
            patch=vision["patch_size"],
            width=vision["hidden_size"],
            heads=vision["num_heads"],
            layers=vision["num_hidden_layers"],
            mlp=vision["intermediate_size"],
            outputs=config["hidden_size"],
            hidden=config["intermediate_size"],
            activation=activation,
            epsilon=vision.get("layer_norm_eps", 1e-6),
        )

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

    @property
    def rows(self) -> int:
        """Rows of the language model that a frame becomes, begin and end included."""
        return (self.size // self.patch // 2) ** 2 + 2


class Block(nnx.Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config, rngs=rngs)
        self.norm1 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)
        self.norm2 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.norm1(self.attention(x, None, causal=False))
        return x + self.norm2(self.mlp(x))


class EVATower(nnx.Module):
    """Patches, class row, positions, blocks; then four neighbours to one row, and the adapter."""

    def __init__(self, config: EVAConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, side = config.width, config.size // config.patch
        normal = nnx.initializers.normal(0.02)
        self.patch = nnx.Param(normal(rngs.params(), (config.patch, config.patch, 3, width)))
        self.patch_bias = nnx.Param(jnp.zeros(width))
        self.class_row = nnx.Param(normal(rngs.params(), (width,)))
        self.position = nnx.Param(normal(rngs.params(), (side**2 + 1, width)))
        self.blocks = stacked(partial(Block, config.encoder), config.layers, rngs=rngs)
        self.join = nnx.Param(normal(rngs.params(), (2, 2, width, width)))
        self.join_bias = nnx.Param(jnp.zeros(width))
        self.linear = Linear(width, config.outputs, use_bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(config.outputs, epsilon=1e-5, rngs=rngs)
        self.adapter = GatedMLP(config.outputs, config.hidden, rngs=rngs)
        self.begin = nnx.Param(normal(rngs.params(), (config.outputs,)))
        self.end = nnx.Param(normal(rngs.params(), (config.outputs,)))

    def embed(self, x: Array) -> Array:
        """Class row and patches before the blocks, [B, S, S, 3] -> [B, P + 1, D]."""
        x = patches(x, self.patch[...]) + self.patch_bias
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_row[...], (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([first.astype(x.dtype), x], axis=1) + self.position

    def encode(self, x: Array) -> Array:
        """States of class row and patches, [B, S, S, 3] -> [B, P + 1, D]."""
        return jax.lax.scan(lambda h, block: (block(h), None), self.embed(x), self.blocks)[0]

    def pool(self, x: Array) -> Array:
        """Four neighbouring patches to one, no class row, [B, P + 1, D] -> [B, P / 4, D]."""
        side = self.config.size // self.config.patch // 2
        x = x[:, 1:].reshape(x.shape[0], side, 2, side, 2, x.shape[-1])
        x = jnp.einsum("byhxwd,hwde->byxe", x, self.join[...].astype(x.dtype))
        return x.reshape(x.shape[0], side * side, -1) + self.join_bias

    def __call__(self, x: Array) -> Array:
        """Encodes frames, each by itself.

        Args:
          x: normalised frames, [B, S, S, 3].

        Returns:
          Rows of the language model, begin and end included, [B, P / 4 + 2, E].
        """
        return self.adapt(self.pool(self.encode(x)))

    def adapt(self, x: Array) -> Array:
        """Rows of the language model, begin and end included, [B, n, D] -> [B, n + 2, E]."""
        x = self.adapter(jax.nn.gelu(self.norm(self.linear(x)), approximate=False))
        ends = (
            jnp.broadcast_to(e[...], (x.shape[0], 1, x.shape[-1])) for e in (self.begin, self.end)
        )
        begin, end = (e.astype(x.dtype) for e in ends)
        return jnp.concatenate([begin, x, end], axis=1)
