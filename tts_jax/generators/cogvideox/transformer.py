"""The CogVideoX denoiser (arXiv 2408.06072), as published in THUDM/CogVideoX-2b and -5b.

Text and video tokens go through the same weights and attend to each other freely; only the
modulation by the diffusion time tells them apart.

B batch  T latent frames  H W latent size  C latent channels  L tokens  D width  N heads
K head size. Channels last.
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
from tts_jax.nn.embeddings import frequencies, rotate_halves, timestep_sinusoid
from tts_jax.nn.linear import Linear, evens_first
from tts_jax.nn.mlp import FeedForward
from tts_jax.nn.norms import LayerNorm
from tts_jax.nn.sequence import by_sequence
from tts_jax.nn.stack import stacked
from tts_jax.reference import refuse_others

QK_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of one CogVideoX denoiser.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K; the width D is N * K.
      layers: blocks.
      latent_channels: C.
      patch: side of a token in latents.
      text_width: width of the text states.
      time_width: width of the embedded diffusion time.
      rotary: whether queries and keys are rotated by their positions (5B); otherwise sinusoids of
        the positions are added to the tokens (2B).
      base_height, base_width: latent size on whose coordinates other sizes are laid (rotary).
      space_scale, time_scale: divide the coordinates (sinusoids).
      epsilon: of the layer norms over D.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    layers: int
    latent_channels: int
    patch: int = 2
    text_width: int
    time_width: int
    rotary: bool
    base_height: int = 60
    base_width: int = 90
    space_scale: float = 1.875
    time_scale: float = 1.0
    epsilon: float = 1e-5
    attention: str = "auto"

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    @classmethod
    def cogvideox_2b(cls) -> "TransformerConfig":
        """THUDM/CogVideoX-2b."""
        return cls(
            heads=30,
            head_size=64,
            layers=30,
            latent_channels=16,
            text_width=4096,
            time_width=512,
            rotary=False,
        )

    @classmethod
    def cogvideox_5b(cls) -> "TransformerConfig":
        """THUDM/CogVideoX-5b."""
        return cls(
            heads=48,
            head_size=64,
            layers=42,
            latent_channels=16,
            text_width=4096,
            time_width=512,
            rotary=True,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that neither checkpoint has.
        """
        fixed = {
            "out_channels": config["in_channels"],
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "ofs_embed_dim": None,
            "attention_bias": True,
            "patch_size_t": None,
            "activation_fn": "gelu-approximate",
            "timestep_activation_fn": "silu",
            "norm_elementwise_affine": True,
            "use_learned_positional_embeddings": False,
            "patch_bias": True,
        }
        refuse_others("CogVideoX denoiser settings", config, fixed)
        return cls(
            heads=config["num_attention_heads"],
            head_size=config["attention_head_dim"],
            layers=config["num_layers"],
            latent_channels=config["in_channels"],
            patch=config["patch_size"],
            text_width=config["text_embed_dim"],
            time_width=config["time_embed_dim"],
            rotary=config["use_rotary_positional_embeddings"],
            base_height=config["sample_height"],
            base_width=config["sample_width"],
            space_scale=config["spatial_interpolation_scale"],
            time_scale=config["temporal_interpolation_scale"],
            epsilon=config["norm_eps"],
        )


def sinusoid_positions(grid: tuple[int, int, int], config: TransformerConfig) -> np.ndarray:
    """What is added to the video tokens when positions are not rotary.

    Args:
      grid: frames, token rows and token columns.
      config: sizes of the model.

    Returns:
      [frames * rows * columns, D] float32: D/4 channels for the frame, then 3D/8 each for the
      column and the row; each sines first, then cosines.
    """
    widths = config.width // 4, 3 * config.width // 8, 3 * config.width // 8
    scales = config.time_scale, config.space_scale, config.space_scale

    def sinusoids(size, width, scale):
        angles = (np.arange(size, dtype=np.float32) / scale)[:, None] * frequencies(width // 2)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    frame, row, column = (
        sinusoids(size, width, scale)
        for size, width, scale in zip(grid, widths, scales, strict=True)
    )
    return _over_grid(grid, (frame, row, column), order=(0, 2, 1))


def rotary_angles(grid: tuple[int, int, int], config: TransformerConfig) -> np.ndarray:
    """Angles by which queries and keys of the video tokens are rotated.

    Frames count 0, 1, 2, ...; rows and columns are laid on the centred part of the base grid that
    has the video's aspect ratio.

    Args:
      grid: frames, token rows and token columns.
      config: sizes of the model.

    Returns:
      [frames * rows * columns, K/2] float32: K/8 angles for the frame, 3K/16 each for row and
      column.
    """
    frames, rows, columns = grid
    base = config.base_height // config.patch, config.base_width // config.patch
    if rows / columns > base[0] / base[1]:
        fitted = base[0], round(base[0] / rows * columns)
    else:
        fitted = round(base[1] / columns * rows), base[1]

    def positions(size, fit, whole):
        start = round((whole - fit) / 2.0)
        return np.linspace(start, (start + fit) * (size - 1) / size, size)

    sizes = config.head_size // 4, config.head_size // 8 * 3, config.head_size // 8 * 3
    axes = (
        np.arange(frames),
        positions(rows, fitted[0], base[0]),
        positions(columns, fitted[1], base[1]),
    )
    angles = [
        axis[:, None] * frequencies(size // 2) for axis, size in zip(axes, sizes, strict=True)
    ]
    return _over_grid(grid, angles, order=(0, 1, 2))


def _over_grid(grid, parts, order) -> np.ndarray:
    """Joins tables of frame, row and column, each [size, width], in an order of channels."""
    frame, row, column = parts
    wide = frame[:, None, None], row[None, :, None], column[None, None, :]
    wide = [np.broadcast_to(part, (*grid, part.shape[-1])) for part in wide]
    table = np.concatenate([wide[i] for i in order], axis=-1)
    return table.reshape(-1, table.shape[-1]).astype(np.float32)


def patchify(latents: Array, patch: int) -> Array:
    """Tokens of p x p latents, channel slowest: [B, T, H, W, C] -> [B, T*H/p*W/p, C*p*p]."""
    b, t, h, w, c = latents.shape
    patches = latents.reshape(b, t, h // patch, patch, w // patch, patch, c)
    return patches.transpose(0, 1, 2, 4, 6, 3, 5).reshape(b, -1, c * patch * patch)


def unpatchify(tokens: Array, grid: tuple[int, int, int], patch: int) -> Array:
    """The inverse of `patchify` for a grid of frames, token rows and token columns."""
    b, (t, h, w) = tokens.shape[0], grid
    patches = tokens.reshape(b, t, h, w, -1, patch, patch)
    return patches.transpose(0, 1, 2, 5, 3, 6, 4).reshape(b, t, h * patch, w * patch, -1)


class ModulatedNorm(nnx.Module):
    """Layer norm whose output is scaled and shifted by the diffusion time."""

    def __init__(self, config: TransformerConfig, count: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.width, eps=config.epsilon)
        self.linear = Linear(
            config.time_width,
            count * config.width,
            kernel_init=nnx.initializers.zeros_init(),
            rngs=rngs,
        )
        self.count = count

    def modulation(self, temb: Array) -> list[Array]:
        """[B, D_time] -> `count` arrays [B, 1, D], float32."""
        values = self.linear(jax.nn.silu(temb)).astype(jnp.float32)
        return jnp.split(values[:, None], self.count, axis=-1)


class JointNorm(ModulatedNorm):
    """Modulated norm of text and video tokens, each with its own shift, scale and gate."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, 6, rngs=rngs)

    @jax.named_scope("norm")
    def __call__(self, x: Array, temb: Array, length: int) -> tuple[Array, Array]:
        """Normalises the joint sequence, whose first `length` tokens are text.

        Args:
          x: [B, L, D].
          temb: [B, D_time].
          length: text tokens.

        Returns:
          [B, L, D] in the dtype of `x`, and the gate of every token, [B, L, D] float32.
        """
        values = self.modulation(temb)
        # Chosen for every token; split and joined, all of them would be copied.
        is_text = (jnp.arange(x.shape[1]) < length)[:, None]
        shift, scale, gate = (
            jnp.where(is_text, text, video)
            for video, text in zip(values[:3], values[3:], strict=True)
        )
        return (self.norm(x) * (1 + scale) + shift).astype(x.dtype), gate


class Attention(nnx.Module):
    """Self-attention over all tokens, with layer norms of queries and keys."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.q_norm = LayerNorm(config.head_size, eps=QK_EPSILON)
        self.k_norm = LayerNorm(config.head_size, eps=QK_EPSILON)
        self.heads = (config.heads, config.head_size)
        self.implementation = config.attention

    @jax.named_scope("attention")
    def __call__(self, x: Array, rope: tuple[Array, Array] | None) -> Array:
        """[B, L, D] -> [B, L, D]; `rope` is cosines and sines [L, K/2], or None."""
        layers = self.q, self.k, self.q_norm, self.k_norm
        if rope is not None:
            layers = (evens_first(layer, self.heads[1]) for layer in layers)
        to_q, to_k, q_norm, k_norm = layers
        q, k, v = (layer.to_heads(x, self.heads) for layer in (to_q, to_k, self.v))
        q, k = q_norm(q), k_norm(k)
        if rope is not None:
            q, k = rotate_halves(q, *rope), rotate_halves(k, *rope)
        q, k = q.astype(v.dtype), k.astype(v.dtype)
        return self.out.from_heads(attend(q, k, v, implementation=self.implementation))


class Block(nnx.Module):
    """Attention, then a feed-forward layer, each behind a modulated norm and a gate."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.norm1 = JointNorm(config, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = JointNorm(config, rngs=rngs)
        self.mlp = FeedForward((width, 4 * width, width), jax.nn.gelu, rngs=rngs)

    def __call__(
        self, x: Array, temb: Array, rope: tuple[Array, Array] | None, length: int
    ) -> Array:
        """Updates the joint sequence [B, L, D], whose first `length` tokens are text."""
        y, gate = self.norm1(x, temb, length)
        x = x + (gate * self.attention(y, rope)).astype(x.dtype)
        y, gate = self.norm2(x, temb, length)
        return x + (gate * self.mlp(y)).astype(x.dtype)


class Transformer(nnx.Module):
    """Velocity of noisy latents, given the text."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, token = config.width, config.patch**2 * config.latent_channels
        self.config = config
        self.time_embed = FeedForward(
            (width, config.time_width, config.time_width), jax.nn.silu, rngs=rngs
        )
        self.text_embed = Linear(config.text_width, width, rngs=rngs)
        self.latent_embed = Linear(token, width, rngs=rngs)
        self.blocks = stacked(partial(Block, config), config.layers, rngs=rngs)
        self.norm_final = LayerNorm(width, eps=config.epsilon)
        self.norm_out = ModulatedNorm(config, 2, rngs=rngs)
        self.out = Linear(width, token, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def __call__(self, latents: Array, text: Array, time: Array) -> Array:
        """Predicts the velocity.

        Args:
          latents: noisy latents, [B, T, H, W, C]; H and W are multiples of the patch.
          text: text encoder states, [B, L, D_text].
          time: diffusion time in [0, 1000), [B]; traced, so that one executable serves every step.

        Returns:
          Velocity, [B, T, H, W, C], float32.
        """
        config = self.config
        frames, height, width = latents.shape[1:4]
        grid = frames, height // config.patch, width // config.patch
        sinusoid = timestep_sinusoid(time, config.width)
        temb = self.time_embed(sinusoid.astype(self.dtype))
        text = self.text_embed(text.astype(self.dtype))
        video = self.latent_embed(patchify(latents.astype(self.dtype), config.patch))
        length, rope = text.shape[1], None
        if config.rotary:
            # text is at angle 0, which leaves it as it is
            angles = np.pad(rotary_angles(grid, config), ((length, 0), (0, 0)))
            rope = jnp.cos(angles), jnp.sin(angles)
        else:
            video = video + jnp.asarray(sinusoid_positions(grid, config), self.dtype)

        def step(x, block):
            return block(x, temb, rope, length), None

        tokens = by_sequence(jnp.concatenate([text, video], axis=1))
        tokens, _ = jax.lax.scan(step, tokens, self.blocks)
        video = self.norm_final(tokens[:, length:]).astype(self.dtype)
        shift, scale = self.norm_out.modulation(temb)
        video = (self.norm_out.norm(video) * (1 + scale) + shift).astype(self.dtype)
        return unpatchify(self.out(video).astype(jnp.float32), grid, config.patch)
