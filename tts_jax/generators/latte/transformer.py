"""The denoiser of Latte-1 (arXiv 2401.03048), text to video.

Blocks come in pairs: in the first, the tokens of a frame see each other and the text, in the second
the tokens of a place see each other over the frames.

B batch  F frames  H W latent size  C latent channels  P tokens of a frame  L tokens of a text
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
from tts_jax.nn.embeddings import position_grid, position_sinusoids, timestep_sinusoid
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import FeedForward
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

TIME_WIDTH = 256  # channels of the sinusoids of the diffusion time
FINAL_EPSILON = 1e-6  # of the last norm


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      layers: pairs of blocks.
      latent_channels: C.
      patch: side of a token in latents.
      text_width: width of the text states.
      frames: of a video; a single frame is possible too.
      extent: what the positions of rows and of columns go up to, whatever their number.
      epsilon: of the norms in blocks.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    layers: int
    latent_channels: int = 4
    patch: int = 2
    text_width: int = 4096
    frames: int = 16
    extent: float = 32.0
    epsilon: float = 1e-6
    attention: str = "auto"

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_size

    @classmethod
    def latte_1(cls) -> "TransformerConfig":
        """maxin-cn/Latte-1."""
        return cls(heads=16, head_size=72, layers=28)

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that the published model has not.
        """
        width = config["num_attention_heads"] * config["attention_head_dim"]
        size, patch = config["sample_size"], config["patch_size"]
        fixed = {
            "out_channels": 2 * config["in_channels"],
            "cross_attention_dim": width,
            "attention_bias": True,
            "activation_fn": "gelu-approximate",
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
        }
        refuse_others("Latte denoiser settings", config, fixed)
        return cls(
            heads=config["num_attention_heads"],
            head_size=config["attention_head_dim"],
            layers=config["num_layers"],
            latent_channels=config["in_channels"],
            patch=patch,
            text_width=config["caption_channels"],
            frames=config["video_length"],
            extent=(size // patch) / max(size // 64, 1),
            epsilon=config["norm_eps"],
        )


class Attention(nnx.Module):
    """Projections of attention."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q, self.k, self.v, self.out = (Linear(width, width, rngs=rngs) for _ in range(4))
        self.heads = config.heads, config.head_size
        self.implementation = config.attention

    def __call__(self, x: Array, seen: Array, mask: Array | None = None) -> Array:
        """What tokens [B, L, D] see of others, [B, L', D]; the mask is as of `attend`."""
        q, k, v = self._split(self.q(x)), self._split(self.k(seen)), self._split(self.v(seen))
        y = attend(q, k, v, mask, implementation=self.implementation)
        return self.out(y.reshape(x.shape))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], *self.heads)


class Block(nnx.Module):
    """Attention within groups of video tokens, to the text if of places, a feed-forward layer."""

    def __init__(self, config: TransformerConfig, *, over_time: bool, rngs: nnx.Rngs):
        width = config.width
        self.attention = Attention(config, rngs=rngs)
        self.cross_attention = None if over_time else Attention(config, rngs=rngs)
        self.mlp = FeedForward((width, 4 * width, width), jax.nn.gelu, rngs=rngs)
        self.modulation = modulation_table(6, width, rngs=rngs)
        self.over_time = over_time
        self.epsilon = config.epsilon

    def __call__(
        self,
        x: Array,
        frames: int,
        modulation: Array,
        text: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """Updates tokens, frame after frame.

        Args:
          x: [B, F*P, D].
          frames: F.
          modulation: of the diffusion time, [B, 1, 6, D] float32.
          text: [B, L, D], for blocks of places.
          mask: which tokens of it are seen, bool [B, 1, L]; all without.

        Returns:
          [B, F*P, D].
        """
        values = modulations(self.modulation, modulation)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = values
        y = modulate(x, shift, scale, self.epsilon)
        y = within(y, frames, self.over_time, lambda tokens: self.attention(tokens, tokens))
        x = x + gated(y, gate)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, text, mask)
        y = modulate(x, mlp_shift, mlp_scale, self.epsilon)
        return x + gated(self.mlp(y), mlp_gate)


class Transformer(nnx.Module):
    """Noise in noisy latents, given the text."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, token = config.width, config.patch**2 * config.latent_channels
        self.config = config
        self.latent_embed = Linear(token, width, rngs=rngs)
        self.text_embed = FeedForward((config.text_width, width, width), jax.nn.gelu, rngs=rngs)
        self.time_embed = FeedForward((TIME_WIDTH, width, width), jax.nn.silu, rngs=rngs)
        self.time_modulation = Linear(width, 6 * width, rngs=rngs)
        for name, over_time in (("space", False), ("time", True)):
            build = partial(Block, config, over_time=over_time)
            setattr(self, f"{name}_blocks", stacked(build, config.layers, rngs=rngs))
        self.modulation = modulation_table(2, width, rngs=rngs)
        self.out = Linear(width, 2 * token, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def __call__(
        self,
        latents: Array,
        text: Array,
        time: Array,
        mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """Predicts the noise, and what the model learned of its variance.

        Args:
          latents: noisy latents, [B, F, H, W, C]; H and W are multiples of the patch.
          text: text encoder states, [B, L, D_text].
          time: diffusion timestep, [B]; traced, so that one executable serves every step.
          mask: tokens of the text that are seen, bool [B, L]; all if None.

        Returns:
          Two of [B, F, H, W, C], float32; samplers of the mean use the first alone.

        Raises:
          ValueError: neither one frame nor as many as the model has positions for.
        """
        config, frames = self.config, latents.shape[1]
        if frames not in (1, config.frames):
            raise ValueError(f"{frames} frames; the denoiser takes {config.frames}, or 1")
        grid = frames, *(side // config.patch for side in latents.shape[2:4])
        text = self.text_embed(text.astype(self.dtype))
        mask = None if mask is None else mask[:, None]
        temb = self.time_embed(timestep_sinusoid(time, TIME_WIDTH).astype(self.dtype))
        modulation = self.time_modulation(jax.nn.silu(temb)).astype(jnp.float32)
        modulation = modulation.reshape(temb.shape[0], 1, 6, -1)
        places, moments = self._positions(*grid)

        def step(x, layer):
            space, time, first = layer
            x = space(x, frames, modulation, text, mask)
            x = jnp.where(first, x + moments, x)
            return time(x, frames, modulation), None

        first = np.arange(config.layers) == 0
        layers = self.space_blocks, self.time_blocks, first
        tokens = self.latent_embed(patchify(latents.astype(self.dtype), config.patch))
        tokens, _ = jax.lax.scan(step, by_sequence(tokens + places), layers)
        shift, scale = modulations(self.modulation, temb.astype(jnp.float32)[:, None, None])
        tokens = self.out(modulate(tokens, shift, scale, FINAL_EPSILON)).astype(jnp.float32)
        noise, variance = jnp.split(unpatchify(tokens, grid, config.patch), 2, axis=-1)
        return noise, variance

    def _positions(self, frames: int, rows: int, columns: int) -> tuple[Array, Array]:
        """What tells the places of a frame apart, and the frames, [F*P, D] each.

        A single frame has no position.
        """
        config, tokens = self.config, rows * columns
        axes = (np.arange(count) * (config.extent / count) for count in (rows, columns))
        places = position_grid(*axes, config.width).reshape(tokens, -1)
        moments = position_sinusoids(np.arange(frames), config.width) * (frames > 1)
        places, moments = (jnp.asarray(x, self.dtype) for x in (places, moments))
        return jnp.tile(places, (frames, 1)), jnp.repeat(moments, tokens, axis=0)
