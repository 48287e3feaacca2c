"""The Pyramid-Flow denoiser, SD3 variant (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

Rows and columns are told by a table added to the tokens, frames by a rotation of the heads.

B batch  T latent frames  H W latent size  C latent channels  L tokens  D width  N heads
K head size. Channels last.
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
    Stream,
    attend_from_own,
    modulate,
    repeat,
    token_grid,
)
from tts_jax.nn.embeddings import position_table
from tts_jax.nn.stack import stacked


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Sizes of one SD3 denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      blocks: blocks; the last updates the own tokens alone.
      latent_channels: C; a token is a patch of 2 x 2 latents, 4C values.
      text_width: width of the text states.
      pooled_width: width of the pooled text vector.
      table_size: rows and columns of the position table.
      base_size: tokens along a side for which the table's positions are whole numbers.
      mlp_ratio: hidden width of the feed-forward layers over D.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    blocks: int
    latent_channels: int
    text_width: int
    pooled_width: int
    table_size: int
    base_size: int
    mlp_ratio: int = 4
    attention: str = "xla"

    qk_epsilon: ClassVar[float] = 1e-5

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    @property
    def rope_axes(self) -> tuple[int, int, int]:
        return self.head_size, 0, 0

    @classmethod
    def published(cls) -> "MMDiTConfig":
        """The denoisers of rain1011/pyramid-flow-sd3 (384p and 768p share one architecture)."""
        return cls(
            heads=24,
            head_size=64,
            blocks=24,
            latent_channels=16,
            text_width=4096,
            pooled_width=2048,
            table_size=192,
            base_size=64,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "MMDiTConfig":
        """The sizes in a published `config.json`, already parsed.

        Raises:
          ValueError: the file asks for something that no published checkpoint has.
        """
        heads, head_size = config["num_attention_heads"], config["attention_head_dim"]
        fixed = {
            "patch_size": PATCH,
            "caption_projection_dim": heads * head_size,
            "pos_embed_type": "sincos",
            "qk_norm": "rms_norm",
            "use_temporal_causal": True,
            "add_temp_pos_embed": True,
            "temp_pos_embed_type": "rope",
            "use_t5_mask": True,
            "interp_condition_pos": True,
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if odd:
            raise ValueError(f"unsupported Pyramid-Flow denoiser settings: {', '.join(odd)}")
        return cls(
            heads=heads,
            head_size=head_size,
            blocks=config["num_layers"],
            latent_channels=config["in_channels"],
            text_width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
            table_size=config["pos_embed_max_size"],
            base_size=config["sample_size"] // PATCH,
        )


class LastText(nnx.Module):
    """The text's side of the last block: only keys and values are used, queries are stored."""

    def __init__(self, config: MMDiTConfig, *, rngs: nnx.Rngs):
        self.modulation = Modulation(config.width, 2, rngs=rngs)
        self.attention = Projection(config, rngs=rngs)


class LastBlock(nnx.Module):
    """A double block that leaves text and history as they are."""

    def __init__(self, config: MMDiTConfig, *, rngs: nnx.Rngs):
        self.text = LastText(config, rngs=rngs)
        self.image = Stream(config, rngs=rngs)
        self.implementation = config.attention

    def __call__(
        self, text: Array, history: Array, own: Array, temb: Array, layout: Layout
    ) -> Array:
        """Updates the own tokens [B, L_own, D]; text is [B, L, D], history [B, L_history, D]."""
        scale, shift = self.text.modulation(temb)
        modulation = self.image.modulation(temb)
        text_heads = self.text.attention(modulate(text, shift, scale), None)
        history_heads = self.image.attention(
            modulate(history, *modulation[:2]), layout.history_rope(text.shape[1])
        )
        own_heads = self.image.attention(modulate(own, *modulation[:2]), layout.own_rope)
        context_heads = [
            jnp.concatenate(pair, axis=1) for pair in zip(text_heads, history_heads, strict=True)
        ]
        heads = attend_from_own(context_heads, own_heads, layout, self.implementation)
        return self.image.update(own, heads, modulation)


class MMDiT(Denoiser):
    """Double blocks over text and latents."""

    def add_blocks(self, config: MMDiTConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the position table, the stack and the block after it."""
        table = position_table(config.table_size, config.width, config.base_size)
        self.positions = nnx.Param(jnp.asarray(table, jnp.float32))
        self.blocks = stacked(partial(DoubleBlock, config), config.blocks - 1, rngs=rngs)
        self.last_block = LastBlock(config, rngs=rngs)

    def embed_clip(self, latents: Array, own_grid: tuple[int, int]) -> Array:
        """Tokens of a clip with their places; see `Denoiser.embed_clip`.

        The middle of the table, as large as the noisy clip, is resized to other clips.

        Raises:
          ValueError: the noisy clip is larger than the table.
        """
        if max(own_grid) > self.config.table_size:
            raise ValueError(f"{own_grid} tokens, the table has {self.config.table_size} a side")
        tokens = super().embed_clip(latents, own_grid)
        grid, width = token_grid(latents.shape), self.config.width
        top, left = ((self.config.table_size - size) // 2 for size in own_grid)
        middle = self.positions[top : top + own_grid[0], left : left + own_grid[1]]
        middle = middle.astype(jnp.float32)
        places = jax.image.resize(middle, (*grid, width), "linear", antialias=False)
        places = places.reshape(1, 1, -1, width)
        framed = tokens.reshape(*latents.shape[:2], -1, width) + places.astype(tokens.dtype)
        return framed.reshape(tokens.shape)

    def run_blocks(
        self, text: Array, history: Array, own: Array, temb: Array, layout: Layout
    ) -> Array:
        """Text [B, L, D], history [B, L_history, D] and own tokens [B, L_own, D] to the last."""
        streams = repeat(self.blocks, (text, history, own), temb, layout)
        return self.last_block(*streams, temb, layout)
