"""The denoiser of Latte-1 (arXiv 2401.03048), text to video.

Blocks come in pairs: in the first, the tokens of a frame see each other and the text, in the second
the tokens of a place see each other over the frames.

B batch  F frames  H W latent size  C latent channels  P tokens of a frame  L tokens of a text
D width  N heads  K head size. Channels last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend
from tts_jax.nn.embeddings import position_grid, position_sinusoids, timestep_sinusoid
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import FeedForward
from tts_jax.nn.norms import layer_norm
from tts_jax.nn.patches import patchify, unpatchify
from tts_jax.nn.sequence import by_sequence
from tts_jax.nn.stack import stacked

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
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if odd:
            raise ValueError(f"unsupported Latte denoiser settings: {', '.join(odd)}")
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


class KeysValues(NamedTuple):
    """Keys and values of a text in every layer, [layers, B, L, N, K] each."""

    keys: Array
    values: Array


class Attention(nnx.Module):
    """Projections of attention."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q, self.k, self.v, self.out = (Linear(width, width, rngs=rngs) for _ in range(4))
        self.heads = config.heads, config.head_size
        self.implementation = config.attention

    def keys_values(self, x: Array) -> tuple[Array, Array]:
        """[B, L, D] -> two [B, L, N, K]."""
        return self._split(self.k(x)), self._split(self.v(x))

    def __call__(self, x: Array, seen: tuple[Array, Array], mask: Array | None = None) -> Array:
        """What tokens [B, L, D] see of keys and values; the mask is as of `attend`."""
        q = self._split(self.q(x))
        y = attend(q, *seen, mask, implementation=self.implementation)
        return self.out(y.reshape(x.shape))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], *self.heads)


class Block(nnx.Module):
    """Attention of tokens to each other, attention to the text or none, a feed-forward layer."""

    def __init__(self, config: TransformerConfig, *, text: bool, rngs: nnx.Rngs):
        width = config.width
        self.attention = Attention(config, rngs=rngs)
        self.cross_attention = Attention(config, rngs=rngs) if text else None
        self.mlp = FeedForward((width, 4 * width, width), jax.nn.gelu, rngs=rngs)
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, width)) / width**0.5)
        self.epsilon = config.epsilon

    def __call__(
        self,
        x: Array,
        modulation: Array,
        axis: int,
        text: tuple[Array, Array] | None = None,
        mask: Array | None = None,
    ) -> Array:
        """Updates tokens.

        Args:
          x: [B, F, P, D].
          modulation: of the diffusion time, [B, 6, D] float32.
          axis: along which tokens see each other, 1 or 2.
          text: keys and values [B, L, N, K], if the block has attention to the text.
          mask: which of them are seen, as of `attend`.

        Returns:
          [B, F, P, D].
        """
        values = (self.modulation[...].astype(jnp.float32) + modulation)[:, :, None, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.moveaxis(values, 1, 0)
        y = jnp.moveaxis(self._modulate(x, shift, scale), axis, 2)
        rows = y.reshape(-1, *y.shape[2:])
        seen = self.attention(rows, self.attention.keys_values(rows)).reshape(y.shape)
        x = x + (gate * jnp.moveaxis(seen, 2, axis)).astype(x.dtype)
        if self.cross_attention is not None:
            tokens = x.reshape(x.shape[0], -1, x.shape[-1])
            x = x + self.cross_attention(tokens, text, mask).reshape(x.shape)
        y = self.mlp(self._modulate(x, mlp_shift, mlp_scale))
        return x + (mlp_gate * y).astype(x.dtype)

    def _modulate(self, x: Array, shift: Array, scale: Array) -> Array:
        return (layer_norm(x, self.epsilon) * (1 + scale) + shift).astype(x.dtype)


class Pair(nnx.Module):
    """A block over the places of every frame and one over the frames of every place."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.spatial = Block(config, text=True, rngs=rngs)
        self.temporal = Block(config, text=False, rngs=rngs)


class Transformer(nnx.Module):
    """Noise in noisy latents, given the text."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, token = config.width, config.patch**2 * config.latent_channels
        self.config = config
        self.latent_embed = Linear(token, width, rngs=rngs)
        self.text_embed = FeedForward((config.text_width, width, width), jax.nn.gelu, rngs=rngs)
        self.time_embed = FeedForward((TIME_WIDTH, width, width), jax.nn.silu, rngs=rngs)
        self.time_modulation = Linear(width, 6 * width, rngs=rngs)
        self.pairs = stacked(partial(Pair, config), config.layers, rngs=rngs)
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (2, width)) / width**0.5)
        self.out = Linear(width, 2 * token, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def read(self, text: Array) -> KeysValues:
        """Keys and values of a text in every layer, which depend on nothing else.

        Args:
          text: text encoder states, [B, L, D_text].
        """
        states = self.text_embed(text.astype(self.dtype))

        def step(_, pair):
            return None, pair.spatial.cross_attention.keys_values(states)

        return KeysValues(*jax.lax.scan(step, None, self.pairs)[1])

    def __call__(
        self,
        latents: Array,
        text: Array | KeysValues,
        time: Array,
        mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """Predicts the noise, and what the model learned of its variance.

        Args:
          latents: noisy latents, [B, F, H, W, C]; H and W are multiples of the patch.
          text: text encoder states, [B, L, D_text], or what `read` made of them.
          time: diffusion timestep, [B]; traced, so that one executable serves every step.
          mask: tokens of the text that are seen, bool [B, L]; all if None.

        Returns:
          Two of [B, F, H, W, C], float32; samplers of the mean use the first alone.

        Raises:
          ValueError: neither one frame nor as many as the model has positions for.
        """
        config = self.config
        frames, *grid = latents.shape[1], *(side // config.patch for side in latents.shape[2:4])
        if frames not in (1, config.frames):
            raise ValueError(f"{frames} frames; the denoiser takes {config.frames}, or 1")
        text = text if isinstance(text, KeysValues) else self.read(text)
        mask = None if mask is None else mask[:, None]
        temb = self.time_embed(timestep_sinusoid(time, TIME_WIDTH).astype(self.dtype))
        modulation = self.time_modulation(jax.nn.silu(temb)).astype(jnp.float32)
        modulation = modulation.reshape(temb.shape[0], 6, -1)

        tokens = self.latent_embed(patchify(latents.astype(self.dtype), config.patch))
        x = by_sequence(tokens).reshape(tokens.shape[0], frames, -1, config.width)
        x = x + self._places(*grid).astype(x.dtype)
        moments = self._moments(frames).astype(x.dtype)

        def step(x, layer):
            pair, text, first = layer
            x = pair.spatial(x, modulation, 2, text, mask)
            x = jnp.where(first, x + moments, x)
            return pair.temporal(x, modulation, 1), None

        first = jnp.arange(config.layers) == 0
        x, _ = jax.lax.scan(step, x, (self.pairs, tuple(text), first))
        values = self.modulation[...].astype(jnp.float32) + temb.astype(jnp.float32)[:, None]
        shift, scale = (values[:, i, None, None] for i in range(2))
        x = (layer_norm(x, FINAL_EPSILON) * (1 + scale) + shift).astype(self.dtype)
        tokens = self.out(x.reshape(tokens.shape)).astype(jnp.float32)
        return tuple(jnp.split(unpatchify(tokens, (frames, *grid), config.patch), 2, axis=-1))

    def _places(self, rows: int, columns: int) -> Array:
        """What tells the places of a frame apart, [P, D]."""
        axes = (np.arange(n) * (self.config.extent / n) for n in (rows, columns))
        table = position_grid(*axes, self.config.width)
        return jnp.asarray(table.reshape(rows * columns, -1), jnp.float32)

    def _moments(self, frames: int) -> Array:
        """What tells the frames apart, [F, 1, D]; nothing tells one frame."""
        table = position_sinusoids(np.arange(frames), self.config.width)
        return jnp.asarray(table * (frames > 1), jnp.float32)[:, None]
