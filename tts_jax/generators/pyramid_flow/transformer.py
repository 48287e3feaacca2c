"""The Pyramid-Flow denoiser, miniFLUX variant (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

B batch  L tokens  D width  N heads  K head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.generators.pyramid_flow.denoiser import (
    PATCH,
    Denoiser,
    DoubleBlock,
    Layout,
    Modulation,
    Projection,
    attend_causally,
    gated,
    modulate,
    repeat,
)
from tts_jax.nn.linear import Linear
from tts_jax.nn.stack import stacked


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of one miniFLUX denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      double_blocks: blocks in which text and latents have separate weights.
      single_blocks: blocks in which they share weights.
      latent_channels: C; a token is a patch of 2 x 2 latents, 4C values.
      rope_axes: channels of a head rotated by time, row and column; they sum to K.
      text_width: width of the text states.
      pooled_width: width of the pooled text vector.
      mlp_ratio: hidden width of the feed-forward layers over D.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    double_blocks: int
    single_blocks: int
    latent_channels: int
    rope_axes: tuple[int, int, int]
    text_width: int
    pooled_width: int
    mlp_ratio: int = 4
    attention: str = "xla"

    qk_epsilon: ClassVar[float] = 1e-6

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    @classmethod
    def flux(cls) -> "TransformerConfig":
        """The published miniFLUX denoisers (384p, 768p and image share one architecture)."""
        return cls(
            heads=30,
            head_size=64,
            double_blocks=8,
            single_blocks=16,
            latent_channels=16,
            rope_axes=(16, 24, 24),
            text_width=4096,
            pooled_width=768,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """The sizes in a published `config.json`, already parsed."""
        return cls(
            heads=config["num_attention_heads"],
            head_size=config["attention_head_dim"],
            double_blocks=config["num_layers"],
            single_blocks=config["num_single_layers"],
            latent_channels=config["in_channels"] // PATCH**2,
            rope_axes=tuple(config["axes_dims_rope"]),
            text_width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
        )


class SingleBlock(nnx.Module):
    """Attention and feed-forward layer side by side, one set of weights for all tokens."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.mlp_ratio * config.width
        self.modulation = Modulation(width, 3, rngs=rngs)
        self.attention = Projection(config, rngs=rngs)
        self.mlp = Linear(width, hidden, rngs=rngs)
        self.out = Linear(width + hidden, width, rngs=rngs)
        self.implementation = config.attention

    def __call__(
        self, context: Array, own: Array, temb: Array, layout: Layout
    ) -> tuple[Array, Array]:
        """Updates context [B, L_context, D] and own tokens [B, L_own, D]."""
        shift, scale, gate = self.modulation(temb)
        context_in, own_in = modulate(context, shift, scale), modulate(own, shift, scale)
        heads = attend_causally(
            self.attention(context_in, layout.context_rope),
            self.attention(own_in, layout.own_rope),
            layout,
            self.implementation,
        )
        with jax.named_scope("mlp"):
            return tuple(
                gated(x, gate, self.out.from_heads(h, jax.nn.gelu(self.mlp(u))))
                for x, u, h in zip((context, own), (context_in, own_in), heads, strict=True)
            )


class Transformer(Denoiser):
    """Double blocks, then single blocks over text, history and own tokens."""

    def add_blocks(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the two stacks."""
        self.double_blocks = stacked(partial(DoubleBlock, config), config.double_blocks, rngs=rngs)
        self.single_blocks = stacked(partial(SingleBlock, config), config.single_blocks, rngs=rngs)

    def run_blocks(
        self, text: Array, history: Array, own: Array, temb: Array, layout: Layout
    ) -> Array:
        """Text [B, L, D], history [B, L_history, D] and own tokens [B, L_own, D] to the last."""
        text, history, own = repeat(self.double_blocks, (text, history, own), temb, layout)
        context = jnp.concatenate([text, history], axis=1)
        return repeat(self.single_blocks, (context, own), temb, layout)[1]
