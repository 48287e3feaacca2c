"""The denoiser of Open-Sora 1.2 (STDiT3, arXiv 2412.20404) for text to video.

Blocks of two kinds take turns: in one the tokens of a frame see each other, in the other those at
one place of all frames. Both see the text.

B batch  F latent frames  H W latent size  C latent channels  P tokens of a frame  L text tokens
D width  N heads  K head size. Channels last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend
from tts_jax.nn.embeddings import frequencies, position_grid, rotate_pairs, timestep_sinusoid
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import FeedForward
from tts_jax.nn.norms import RMSNorm
from tts_jax.nn.sequence import by_sequence
from tts_jax.nn.stack import stacked
from tts_jax.nn.video_tokens import (
    gated,
    modulate,
    modulation_table,
    modulations,
    patchify,
    unpatchify,
    within,
)
from tts_jax.reference import refuse_others


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of one STDiT3 denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      layers: blocks of each kind.
      mlp: hidden width of the feed-forward layers.
      latent_channels: C; twice as many are predicted.
      patch: side of a token in latents.
      text_width: width of the text states.
      text_length: tokens of the null caption.
      time_width: channels of the sinusoids of diffusion time and frame rate.
      base_side: side in pixels of a square video whose positions count tokens.
      epsilon: of all norms.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    layers: int
    mlp: int
    latent_channels: int = 4
    patch: int = 2
    text_width: int = 4096
    text_length: int = 300
    time_width: int = 256
    base_side: int = 512
    epsilon: float = 1e-6
    attention: str = "auto"

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_size

    @classmethod
    def stdit3_xl_2(cls) -> "TransformerConfig":
        """hpcai-tech/OpenSora-STDiT-v3."""
        return cls(heads=16, head_size=72, layers=28, mlp=4608)

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that the published checkpoint has not.
        """
        time, height, width = config.get("patch_size", (1, 2, 2))
        fixed = {"pred_sigma": True, "qk_norm": True, "skip_y_embedder": False}
        odd = []
        if time != 1 or height != width:
            odd.append(f"patch_size={[time, height, width]}")
        size, heads = config["hidden_size"], config["num_heads"]
        if size % heads or size // heads % 2 or size % 4:
            odd.append(f"hidden_size={size} with num_heads={heads}")
        refuse_others("Open-Sora denoiser settings", config, fixed, odd)
        return cls(
            heads=heads,
            head_size=size // heads,
            layers=config["depth"],
            mlp=int(size * config.get("mlp_ratio", 4.0)),
            latent_channels=config.get("in_channels", 4),
            patch=height,
            text_width=config.get("caption_channels", 4096),
            text_length=config.get("model_max_length", 300),
            base_side=config.get("input_sq_size", 512),
        )


def position_table(
    config: TransformerConfig, rows: int, columns: int, size: tuple[float, float]
) -> np.ndarray:
    """Sines and cosines of a frame's tokens, of the column first and then of the row.

    Both axes are as long as a square frame of as many tokens would be, and shorter where the video
    has more pixels.

    Args:
      config: sizes of the model.
      rows, columns: tokens of a frame.
      size: height and width of the video in pixels.

    Returns:
      Float32 [rows * columns, D].
    """
    side = round((rows * columns) ** 0.5) * config.base_side / (size[0] * size[1]) ** 0.5
    axes = (np.arange(count) * side / count for count in (rows, columns))
    return position_grid(*axes, config.width).reshape(rows * columns, -1).astype(np.float32)


class Block(nnx.Module):
    """Attention within groups of video tokens, attention to the text, and a feed-forward layer."""

    def __init__(self, config: TransformerConfig, *, over_time: bool, rngs: nnx.Rngs):
        width = config.width
        self.qkv = Linear(width, 3 * width, rngs=rngs)
        self.q_norm = RMSNorm(config.head_size, eps=config.epsilon, rngs=rngs)
        self.k_norm = RMSNorm(config.head_size, eps=config.epsilon, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.cross_q = Linear(width, width, rngs=rngs)
        self.cross_kv = Linear(width, 2 * width, rngs=rngs)
        self.cross_out = Linear(width, width, rngs=rngs)
        self.mlp = FeedForward((width, config.mlp, width), jax.nn.gelu, rngs=rngs)
        self.modulation = modulation_table(6, width, rngs=rngs)
        self.heads = config.heads, config.head_size
        self.over_time = over_time
        self.epsilon = config.epsilon
        self.implementation = config.attention

    def __call__(
        self, x: Array, frames: int, modulation: Array, text: Array, mask: Array | None
    ) -> Array:
        """Updates tokens, frame after frame.

        Args:
          x: [B, F*P, D].
          frames: F.
          modulation: of every frame, [B, F, 6, D] float32; one frame if all are alike.
          text: [B, L, D].
          mask: which of these count, bool [B, 1, L] or [1, 1, L]; all without.

        Returns:
          [B, F*P, D].
        """
        values = modulations(self.modulation, modulation)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = values
        with jax.named_scope("attention"):
            y = modulate(x, shift, scale, self.epsilon)
            y = self.out(within(y, frames, self.over_time, self._attend))
            x = x + gated(y, gate)
        with jax.named_scope("cross_attention"):
            x = x + self._attend_to(text, x, mask)
        y = modulate(x, mlp_shift, mlp_scale, self.epsilon)
        return x + gated(self.mlp(y), mlp_gate)

    def _attend(self, x: Array) -> Array:
        """What the tokens of a group [G, L, D] see of each other."""
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:2], 3, *self.heads), 2, 0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.over_time:
            angles = np.arange(x.shape[1])[:, None] * frequencies(self.heads[1] // 2)
            cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))
            q, k = rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)
        return attend(q, k, v, implementation=self.implementation).reshape(x.shape)

    def _attend_to(self, text: Array, x: Array, mask: Array | None) -> Array:
        q = self.cross_q(x).reshape(*x.shape[:2], *self.heads)
        k, v = jnp.moveaxis(self.cross_kv(text).reshape(*text.shape[:2], 2, *self.heads), 2, 0)
        y = attend(q, k, v, mask, implementation=self.implementation)
        return self.cross_out(y.reshape(x.shape))


class Transformer(nnx.Module):
    """Velocity of noisy latents, given the text."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, patch = config.width, config.patch**2
        time = config.time_width, width, width
        self.config = config
        self.latent_embed = Linear(patch * config.latent_channels, width, rngs=rngs)
        self.time_embed = FeedForward(time, jax.nn.silu, rngs=rngs)
        self.rate_embed = FeedForward(time, jax.nn.silu, rngs=rngs)
        self.time_modulation = Linear(width, 6 * width, rngs=rngs)
        self.text_embed = FeedForward((config.text_width, width, width), jax.nn.gelu, rngs=rngs)
        text = config.text_length, config.text_width
        self.null_text = nnx.Param(jax.random.normal(rngs.params(), text) / text[1] ** 0.5)
        for name, over_time in (("space", False), ("time", True)):
            build = partial(Block, config, over_time=over_time)
            setattr(self, f"{name}_blocks", stacked(build, config.layers, rngs=rngs))
        self.modulation = modulation_table(2, width, rngs=rngs)
        self.out = Linear(width, patch * 2 * config.latent_channels, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def embed_time(self, time: Array, rate: Array) -> tuple[Array, Array]:
        """The embedding [B, 1, D] and the modulation [B, 1, 6, D] of [B] times; float32.

        Args:
          time: in [0, 1000].
          rate: frames per second, [B].
        """
        width = self.config.time_width
        time, rate = (timestep_sinusoid(x, width).astype(self.dtype) for x in (time, rate))
        embedding = self.time_embed(time) + self.rate_embed(rate)
        modulation = self.time_modulation(jax.nn.silu(embedding)).astype(jnp.float32)
        shape = len(time), 1, 6, self.config.width
        return embedding.astype(jnp.float32)[:, None], modulation.reshape(shape)

    def __call__(
        self,
        latents: Array,
        text: Array,
        time: Array,
        *,
        rate: Array,
        size: tuple[float, float],
        text_mask: Array | None = None,
        noisy: Array | None = None,
    ) -> Array:
        """Predicts the velocity of all frames at once.

        Args:
          latents: noisy latents, [B, F, H, W, C]; blank ones make whole patches of the rest.
          text: text encoder states, [B, L, D_text].
          time: diffusion time in [0, 1000], [B]; traced, so that one executable serves every step.
          rate: frames per second, [B]; 120 for an image.
          size: height and width of the video in pixels.
          text_mask: which tokens count, bool [B, L] with one at least in every row, or one row for
            all; all count if None.
          noisy: bool [B, F], the frames that are noisy; the others are clean, with time 0. All are
            noisy if None.

        Returns:
          Velocity towards the clean latents, [B, F, H, W, 2C], float32; the second half of the
          channels is what is predicted of a variance, which nothing uses.
        """
        config = self.config
        height, width = latents.shape[2:4]
        blank = [(0, -side % config.patch) for side in (height, width)]
        latents = jnp.pad(latents, [(0, 0), (0, 0), *blank, (0, 0)])
        grid = latents.shape[1], *(side // config.patch for side in latents.shape[2:4])
        embedding, modulation = self.embed_time(time, rate)
        if noisy is not None:
            noisy = noisy[..., None]
            clean, at_zero = self.embed_time(jnp.zeros_like(time), rate)
            modulation = jnp.where(noisy[..., None], modulation, at_zero)
        mask = None if text_mask is None else text_mask[:, None]
        text = self.text_embed(text.astype(self.dtype))
        tokens = self.latent_embed(patchify(latents.astype(self.dtype), config.patch))
        places = np.tile(position_table(config, *grid[1:], size), (grid[0], 1))

        def step(x, blocks):
            for block in blocks:
                x = block(x, grid[0], modulation, text, mask)
            return x, None

        tokens = by_sequence(tokens + jnp.asarray(places, self.dtype))
        tokens = jax.lax.scan(step, tokens, (self.space_blocks, self.time_blocks))[0]
        tokens = self._finish(tokens, embedding)
        if noisy is not None:  # published so: clean frames pass the norm twice
            again = self._finish(tokens, clean)
            of_tokens = jnp.repeat(noisy, grid[1] * grid[2], axis=1)
            tokens = jnp.where(of_tokens, tokens, again)
        tokens = self.out(tokens).astype(jnp.float32)
        return unpatchify(tokens, grid, config.patch)[:, :, :height, :width]

    def _finish(self, tokens: Array, embedding: Array) -> Array:
        """The last norm, modulated by the embedded time [B, 1, D]."""
        shift, scale = modulations(self.modulation, embedding[:, :, None])
        return modulate(tokens, shift, scale, self.config.epsilon)
