"""The denoiser of Wan 2.1 (arXiv 2503.20314) for text to video, and its causal form.

The causal form (Self-Forcing, arXiv 2506.08009) has the same parameters. It makes a video chunk by
chunk: a chunk's tokens see each other and the keys and values of all clean chunks before it, which
lie in arrays of their own, so that siblings share those of their parent.

B batch  F latent frames  H W latent size  C latent channels  P tokens of a frame  L tokens  D width
N heads  K head size  S places for past tokens. Channels last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend, attend_by_frames, attend_in_parts
from tts_jax.nn.embeddings import frequencies, norm_and_turn, timestep_sinusoid
from tts_jax.nn.linear import Linear, evens_first
from tts_jax.nn.mlp import FeedForward
from tts_jax.nn.norms import LayerNorm, RMSNorm
from tts_jax.nn.sequence import by_sequence
from tts_jax.nn.stack import stacked
from tts_jax.nn.video_tokens import (
    gated,
    modulate,
    modulation_table,
    modulations,
    patchify,
    unpatchify,
)

POSITIONS = 1024  # of an axis


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of one Wan denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      layers: blocks.
      mlp: hidden width of the feed-forward layers.
      latent_channels: C.
      patch: side of a token in latents.
      text_width: width of the text states.
      time_width: channels of the sinusoids of the diffusion time.
      epsilon: of all norms.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int = 128
    layers: int
    mlp: int
    latent_channels: int = 16
    patch: int = 2
    text_width: int = 4096
    time_width: int = 256
    epsilon: float = 1e-6
    attention: str = "auto"

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_size

    @cached_property
    def axes(self) -> tuple[int, int, int]:
        """Rotated channels of a head for the frame, the row and the column; they sum to K."""
        side = 2 * (self.head_size // 6)
        return self.head_size - 2 * side, side, side

    @classmethod
    def wan_1_3b(cls) -> "TransformerConfig":
        """Wan-AI/Wan2.1-T2V-1.3B, and Self-Forcing, which is trained from it."""
        return cls(heads=12, layers=30, mlp=8960)

    @classmethod
    def wan_14b(cls) -> "TransformerConfig":
        """Wan-AI/Wan2.1-T2V-14B."""
        return cls(heads=40, layers=40, mlp=13824)

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the weights in the layout of diffusers.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that no text-to-video checkpoint has.
        """
        time, height, width = config["patch_size"]
        fixed = {
            "out_channels": config["in_channels"],
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "image_dim": None,
            "added_kv_proj_dim": None,
            "pos_embed_seq_len": None,
            "rope_max_seq_len": POSITIONS,
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if time != 1 or height != width:
            odd.append(f"patch_size={list(config['patch_size'])}")
        if odd:
            raise ValueError(f"unsupported Wan denoiser settings: {', '.join(odd)}")
        return cls(
            heads=config["num_attention_heads"],
            head_size=config["attention_head_dim"],
            layers=config["num_layers"],
            mlp=config["ffn_dim"],
            latent_channels=config["in_channels"],
            patch=height,
            text_width=config["text_dim"],
            time_width=config["freq_dim"],
            epsilon=config["eps"],
        )

    @classmethod
    def from_original(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the weights as Wan publishes them.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that no text-to-video checkpoint has.
        """
        time, height, width = config.get("patch_size", (1, 2, 2))
        fixed = {
            "model_type": "t2v",
            "out_dim": config["in_dim"],
            "qk_norm": True,
            "cross_attn_norm": True,
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if time != 1 or height != width:
            odd.append(f"patch_size={[time, height, width]}")
        if config["dim"] % config["num_heads"]:
            odd.append(f"dim={config['dim']} with num_heads={config['num_heads']}")
        if odd:
            raise ValueError(f"unsupported Wan denoiser settings: {', '.join(odd)}")
        return cls(
            heads=config["num_heads"],
            head_size=config["dim"] // config["num_heads"],
            layers=config["num_layers"],
            mlp=config["ffn_dim"],
            latent_channels=config["in_dim"],
            patch=height,
            text_width=config.get("text_dim", 4096),
            time_width=config["freq_dim"],
            epsilon=config["eps"],
        )


class KeysValues(NamedTuple):
    """Keys, normalised, and values of every layer, [layers, B, L, N, K] each.

    Keys of the video are rotated, their channels in the order of `evens_first`.
    """

    keys: Array
    values: Array


class Past(NamedTuple):
    """Keys and values of clean chunks.

    Attributes:
      kept: with S places.
      filled: places that are taken, the first ones; int32 scalar.
    """

    kept: KeysValues
    filled: Array

    @classmethod
    def empty(cls, config: TransformerConfig, batch: int, places: int, dtype=jnp.float32) -> "Past":
        """One with nothing in it.

        Args:
          config: sizes of the denoiser.
          batch: B.
          places: S.
          dtype: of keys and values.
        """
        shape = config.layers, batch, places, config.heads, config.head_size
        return cls(KeysValues(*jnp.zeros((2, *shape), dtype)), jnp.int32(0))

    def append(self, own: KeysValues, sink: int = 0) -> "Past":
        """With a further chunk; where places do not suffice, the oldest after `sink` go.

        Args:
          own: of the chunk, of which too the first tokens go if it must be.
          sink: first places that are never given up.

        Raises:
          ValueError: more of these than places.
        """
        places, length = self.kept.keys.shape[2], own.keys.shape[2]
        if not 0 <= sink <= places:
            raise ValueError(f"{sink} places are never given up, but there are {places}")
        dropped = jnp.maximum(self.filled + length - places, 0)
        place = jnp.arange(places)
        place = jnp.where(place < sink, place, place + dropped)  # of old and new in a row
        new = places + jnp.clip(place - self.filled, 0, length - 1)
        source = jnp.where(place < self.filled, place, new)

        def moved(kept, new):
            return jnp.take(jnp.concatenate([kept, new.astype(kept.dtype)], 2), source, axis=2)

        return Past(KeysValues(*map(moved, self.kept, own)), self.filled + length - dropped)


class Rope(NamedTuple):
    """Cosines and sines, [L, K/2] each."""

    cos: Array
    sin: Array


def rotary_tables(
    config: TransformerConfig, frames: int | np.ndarray, rows: int, columns: int, first=0
) -> Rope:
    """What queries and keys are rotated by.

    Args:
      config: sizes of the model.
      frames: F, or the positions of the frames.
      rows, columns: tokens of a frame.
      first: position of the first frame, which may be traced, if `frames` is a number.

    Returns:
      Tables over frames, rows and columns; angles are computed in float64.
    """
    time, row, column = (
        np.arange(POSITIONS)[:, None] * frequencies(size // 2) for size in config.axes
    )
    positions = frames if np.ndim(frames) else first + jnp.arange(frames)
    grid = len(positions), rows, columns

    def table(function):
        parts = (
            jnp.asarray(function(time), jnp.float32)[positions][:, None, None],
            jnp.asarray(function(row[:rows]), jnp.float32)[None, :, None],
            jnp.asarray(function(column[:columns]), jnp.float32)[None, None],
        )
        wide = [jnp.broadcast_to(part, (*grid, part.shape[-1])) for part in parts]
        return jnp.concatenate(wide, axis=-1).reshape(-1, config.head_size // 2)

    return Rope(table(np.cos), table(np.sin))


class Attention(nnx.Module):
    """Projections of attention; queries and keys are normalised over the whole width."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.q_norm = RMSNorm(width, eps=config.epsilon, rngs=rngs)
        self.k_norm = RMSNorm(width, eps=config.epsilon, rngs=rngs)
        self.heads = (config.heads, config.head_size)

    def queries(self, x: Array, rope: Rope | None = None) -> Array:
        """[B, L, D] -> [B, L, N, K]; if rotated, with channels in the order of `evens_first`."""
        return self._normed(self.q, self.q_norm, x, rope)

    def keys_values(self, x: Array, rope: Rope | None = None) -> tuple[Array, Array]:
        """[B, L, D] -> two [B, L, N, K], the keys like the queries."""
        keys = self._normed(self.k, self.k_norm, x, rope)
        return keys, self.v.to_heads(x, self.heads)

    def _normed(self, layer: Linear, norm: RMSNorm, x: Array, rope: Rope | None) -> Array:
        count, size = self.heads
        if rope is not None:
            layer, norm = (evens_first(part, size) for part in (layer, norm))
        return norm_and_turn(norm, layer.to_heads(x, (count, 2, size // 2)), rope, axes=3)


class Block(nnx.Module):
    """Attention to the video, attention to the text, and a feed-forward layer."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.self_attention = Attention(config, rngs=rngs)
        self.cross_norm = LayerNorm(width, eps=config.epsilon)
        self.cross_attention = Attention(config, rngs=rngs)
        self.mlp = FeedForward((width, config.mlp, width), jax.nn.gelu, rngs=rngs)
        self.modulation = modulation_table(6, width, rngs=rngs)
        self.epsilon = config.epsilon
        self.implementation = config.attention

    def __call__(
        self,
        x: Array,
        modulation: Array,
        rope: Rope,
        text: KeysValues,
        seen: np.ndarray | None = None,
        past: tuple[Array, Array, Array] | None = None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Updates tokens.

        Args:
          x: [B, L, D].
          modulation: of every frame, [B, F, 6, D] float32; one frame if all are alike.
          rope: of the tokens.
          text: keys and values of the text in this layer.
          seen: bool [F, F], which frames see which; all see all without.
          past: keys and values [B, S, N, K] of this layer that all tokens see too, and which places
            are taken, bool [S].

        Returns:
          [B, L, D], and the tokens' own keys and values, [B, L, N, K] each.
        """
        values = modulations(self.modulation, modulation)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = values
        y = modulate(x, shift, scale, self.epsilon)
        with jax.named_scope("attention"):
            q = self.self_attention.queries(y, rope)
            k, v = self.self_attention.keys_values(y, rope)
            if past is not None:
                parts = [past, (k, v, None)]
                y = attend_in_parts(q, parts, implementation=self.implementation, kept=True)
            elif seen is not None:
                y = attend_by_frames(q, k, v, seen, implementation=self.implementation)
            else:
                y = attend(q, k, v, implementation=self.implementation)
            x = x + gated(self.self_attention.out.from_heads(y), gate)
        with jax.named_scope("cross_attention"):
            q = self.cross_attention.queries(self.cross_norm(x).astype(x.dtype))
            y = attend(q, *text, implementation=self.implementation)
            x = x + self.cross_attention.out.from_heads(y)
        y = modulate(x, mlp_shift, mlp_scale, self.epsilon)
        return x + gated(self.mlp(y), mlp_gate), (k, v)


class Transformer(nnx.Module):
    """Velocity of noisy latents, given the text."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, token = config.width, config.patch**2 * config.latent_channels
        self.config = config
        self.latent_embed = Linear(token, width, rngs=rngs)
        self.text_embed = FeedForward((config.text_width, width, width), jax.nn.gelu, rngs=rngs)
        self.time_embed = FeedForward((config.time_width, width, width), jax.nn.silu, rngs=rngs)
        self.time_modulation = Linear(width, 6 * width, rngs=rngs)
        self.blocks = stacked(partial(Block, config), config.layers, rngs=rngs)
        self.modulation = modulation_table(2, width, rngs=rngs)
        self.out = Linear(width, token, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def read(self, text: Array) -> KeysValues:
        """Keys and values of a text in every layer, which depend on nothing else.

        Args:
          text: text encoder states, [B, L, D_text]; all rows are seen, padding too.
        """
        states = self.text_embed(text.astype(self.dtype))

        def step(_, block):
            return None, block.cross_attention.keys_values(states)

        return KeysValues(*jax.lax.scan(step, None, self.blocks)[1])

    def embed_time(self, time: Array) -> tuple[Array, Array]:
        """The embedded time [B, F, D] and the modulation [B, F, 6, D] of times [B, F]; float32."""
        sinusoid = timestep_sinusoid(time.reshape(-1), self.config.time_width)
        temb = self.time_embed(sinusoid.astype(self.dtype))
        modulation = self.time_modulation(jax.nn.silu(temb)).astype(jnp.float32)
        shape = time.shape
        return temb.astype(jnp.float32).reshape(*shape, -1), modulation.reshape(*shape, 6, -1)

    def __call__(
        self,
        latents: Array,
        text: Array | KeysValues,
        time: Array,
        *,
        positions: np.ndarray | None = None,
        frame_mask: np.ndarray | None = None,
    ) -> Array:
        """Predicts the velocity of all frames at once.

        Args:
          latents: noisy latents, [B, F, H, W, C]; H and W are multiples of the patch.
          text: text encoder states, [B, L, D_text], or what `read` made of them.
          time: diffusion time in [0, 1000], [B] or of every frame [B, F]; traced, so that one
            executable serves every step.
          positions: of the frames, ints [F]; 0, 1, 2, ... if None.
          frame_mask: bool [F, F], which frames see which; all see all if None.

        Returns:
          Velocity, [B, F, H, W, C], float32.
        """
        frames = latents.shape[1]
        where = np.arange(frames) if positions is None else np.asarray(positions)
        return self._run(latents, text, time, where, 0, frame_mask, None)[0]

    def read_clean(
        self, latents: Array, text: Array | KeysValues, time: Array, frame_mask: np.ndarray
    ) -> KeysValues:
        """Keys and values of clean frames, as a later chunk sees them.

        Args:
          latents: clean latents, [B, F, H, W, C].
          text: as of `__call__`.
          time: diffusion time that they are read at, [B].
          frame_mask: bool [F, F], which frames see which.
        """
        frames = np.arange(latents.shape[1])
        return self._run(latents, text, time, frames, 0, frame_mask, None)[1]

    def chunk(
        self, latents: Array, text: Array | KeysValues, time: Array, past: Past, first: int | Array
    ) -> tuple[Array, KeysValues]:
        """Predicts the velocity of a chunk's frames, which see each other and the past.

        Args:
          latents: noisy latents of the chunk, [B, F, H, W, C].
          text: as of `__call__`.
          time: diffusion time in [0, 1000], [B] or of every frame [B, F].
          past: keys and values of the clean chunks before; without a place if there are none.
          first: position of the chunk's first frame in the video, which may be traced.

        Returns:
          Velocity, [B, F, H, W, C], float32, and the chunk's own keys and values.
        """
        return self._run(latents, text, time, latents.shape[1], first, None, past)

    def _run(self, latents, text, time, frames, first, seen, past) -> tuple[Array, KeysValues]:
        config = self.config
        grid = latents.shape[1], *(side // config.patch for side in latents.shape[2:4])
        text = text if isinstance(text, KeysValues) else self.read(text)
        temb, modulation = self.embed_time(time.reshape(time.shape[0], -1))
        rope = rotary_tables(config, frames, *grid[1:], first)
        tokens = self.latent_embed(patchify(latents.astype(self.dtype), config.patch))
        kept = there = None
        if past is not None and past.kept.keys.shape[2]:
            kept, there = past.kept, jnp.arange(past.kept.keys.shape[2]) < past.filled

        def step(x, layer):
            block, text, kept = layer
            before = None if kept is None else (*kept, there)
            return block(x, modulation, rope, text, seen, before)

        tokens, own = jax.lax.scan(step, by_sequence(tokens), (self.blocks, text, kept))
        shift, scale = modulations(self.modulation, temb[:, :, None])
        tokens = self.out(modulate(tokens, shift, scale, config.epsilon)).astype(jnp.float32)
        return unpatchify(tokens, grid, config.patch), KeysValues(*own)
