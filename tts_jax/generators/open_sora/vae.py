"""The video autoencoder of Open-Sora 1.2 (arXiv 2412.20404), OpenSora-VAE-v1.2.

An autoencoder of images shrinks every frame by itself, then a causal one shrinks time: frames
become small frames of pixels / 8, and these become latents, of which there is one for four frames.
Time is worked on in chunks of 17 frames or 5 latents, which know nothing of each other: norms take
their statistics over a chunk and every chunk is padded in front, so that chunks are part of the
result.

B batch  T frames  H W size  C channels. Channels last, pixels in [-1, 1].
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.autoencoder import (
    ResnetBlock,
    posterior_mode,
    posterior_sample,
    silu,
)
from tts_jax.nn.conv import CausalConv3d, GroupNorm, pointwise
from tts_jax.nn.image_autoencoder import ImageDecoder, ImageEncoder, by_frames
from tts_jax.reference import refuse_others

TEMPORAL_EPSILON = 1e-5  # of the group norms of the temporal half
SPATIAL_SCALE = 0.18215  # small frames are the image autoencoder's latents times this


@dataclass(frozen=True, kw_only=True)
class OpenSoraVAEConfig:
    """Sizes of the autoencoder.

    Attributes:
      image_channels: of a frame.
      latent_channels: C, of small frames and of latents.
      channels: of each level of the spatial half, from the image side.
      layers: residual blocks of a level of the spatial encoder; the decoder's have one more.
      groups: of the spatial half's group norms.
      temporal_channels: of each level of the temporal half, from the image side; convolutions on
        that side have those of the first.
      temporal_layers: residual blocks of each of these levels, and of the middle.
      temporal_groups: of the temporal half's group norms.
      temporal_down: for each of these levels but the last, whether it halves the frames.
      chunk: frames that are worked on at a time.
      batch: frames that the spatial half works on at a time; of no influence on the result.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...]
    layers: int
    groups: int = 32
    temporal_channels: tuple[int, ...]
    temporal_layers: int
    temporal_groups: int = 32
    temporal_down: tuple[bool, ...]
    chunk: int = 17
    batch: int = 4

    def __post_init__(self):
        if len(self.temporal_down) != len(self.temporal_channels) - 1:
            raise ValueError(
                f"{len(self.temporal_channels)} levels have {len(self.temporal_channels) - 1} "
                f"places to halve the frames; temporal_down names {len(self.temporal_down)}"
            )
        if self.chunk < 1 or self.batch < 1:
            raise ValueError(f"chunks of {self.chunk} frames, in batches of {self.batch}")

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** (len(self.channels) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent, in a chunk whose frames are a multiple of it."""
        return 2 ** sum(self.temporal_down)

    @property
    def latent_chunk(self) -> int:
        """Latents of a whole chunk."""
        return -(-self.chunk // self.temporal_factor)

    def latent_frames(self, frames: int) -> int:
        """Latents of so many frames: those of whole chunks and of the rest."""
        whole, rest = divmod(frames, self.chunk)
        return whole * self.latent_chunk - (-rest // self.temporal_factor)

    def most_frames(self, latents: int) -> int:
        """The most frames that have so many latents."""
        whole, rest = divmod(latents, self.latent_chunk)
        return whole * self.chunk + rest * self.temporal_factor

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape of the latents of a video in pixels, [T, H, W, C]; sides are rounded down."""
        factor = self.spatial_factor
        latents = self.latent_frames(frames)
        return latents, height // factor, width // factor, self.latent_channels

    @classmethod
    def published(cls) -> "OpenSoraVAEConfig":
        """hpcai-tech/OpenSora-VAE-v1.2."""
        return cls(
            channels=(128, 256, 512, 512),
            layers=2,
            temporal_channels=(128, 256, 256, 512),
            temporal_layers=4,
            temporal_down=(False, True, True),
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "OpenSoraVAEConfig":
        """Reads a `config.json`: the published one, or one that spells both halves out.

        Args:
          config: the parsed file. The published one names both halves under `vae_2d` and
            `vae_temporal`; the other has what they are made with under `spatial_vae` and
            `temporal_vae`. Shift and scale stand with the weights.

        Raises:
          ValueError: the file asks for something that the published autoencoder has not.
        """
        if "vae_2d" in config:
            fixed = {"vae_2d": "VideoAutoencoderKL", "vae_temporal": "VAE_Temporal_SD"}
            found = {name: config[name]["type"] for name in fixed}
            _refuse_others(found, fixed)
            sizes = dataclasses.asdict(cls.published())
        else:
            sizes = _read_halves(config["spatial_vae"], config["temporal_vae"])
        return cls(**sizes | {"chunk": config["micro_frame_size"]})


def _refuse_others(found: Mapping, fixed: Mapping) -> None:
    values = {name: found.get(name, value) for name, value in fixed.items()}
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    refuse_others("settings of Open-Sora's VAE", values, fixed)


def _read_halves(spatial: Mapping, temporal: Mapping) -> dict:
    """Sizes, of the constructor arguments of both halves; asks for no others."""
    channels, latent = tuple(spatial["block_out_channels"]), spatial["latent_channels"]
    fixed = {
        "out_channels": spatial["in_channels"],
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "mid_block_add_attention": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    _refuse_others(spatial, fixed)
    names = "in_out_channels", "latent_embed_dim", "embed_dim"
    _refuse_others(temporal, dict.fromkeys(names, latent))
    filters = temporal["filters"]
    return {
        "image_channels": spatial["in_channels"],
        "latent_channels": latent,
        "channels": channels,
        "layers": spatial["layers_per_block"],
        "groups": spatial["norm_num_groups"],
        "temporal_channels": tuple(filters * m for m in temporal["channel_multipliers"]),
        "temporal_layers": temporal["num_res_blocks"],
        "temporal_groups": temporal["num_groups"],
        "temporal_down": tuple(bool(x) for x in temporal["temporal_downsample"]),
    }


class Residuals(nnx.Module):
    """The residual blocks of one level of the temporal half."""

    def __init__(self, inputs: int, outputs: int, config: OpenSoraVAEConfig, *, rngs: nnx.Rngs):
        self.blocks = nnx.List(
            [
                ResnetBlock(
                    outputs if i else inputs,
                    outputs,
                    config.temporal_groups,
                    flat=False,
                    epsilon=TEMPORAL_EPSILON,
                    repeat_first=False,
                    bias=False,
                    rngs=rngs,
                )
                for i in range(config.temporal_layers)
            ]
        )

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


class TemporalEncoder(nnx.Module):
    """A chunk of small frames to posterior moments of latents."""

    def __init__(self, config: OpenSoraVAEConfig, *, rngs: nnx.Rngs):
        channels, moments = config.temporal_channels, 2 * config.latent_channels
        inputs = (channels[0], *channels)
        self.factor = config.temporal_factor
        self.conv_in = CausalConv3d(config.latent_channels, channels[0], bias=False, rngs=rngs)
        self.levels = nnx.List(
            [Residuals(inputs[i], c, config, rngs=rngs) for i, c in enumerate(channels)]
        )
        self.halve = nnx.List(
            [
                CausalConv3d(c, c, time_stride=2, lead=1, rngs=rngs) if halves else None
                for c, halves in zip(channels[:-1], config.temporal_down, strict=True)
            ]
        )
        self.mid = Residuals(channels[-1], channels[-1], config, rngs=rngs)
        self.norm_out = GroupNorm(
            channels[-1], config.temporal_groups, epsilon=TEMPORAL_EPSILON, over_time=True
        )
        self.conv_out = pointwise(channels[-1], moments, rngs=rngs)
        self.quant = pointwise(moments, moments, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, T, h, w, C] -> [B, T / 4 rounded up, h, w, 2C]."""
        blank = -x.shape[1] % self.factor
        x = self.conv_in(jnp.pad(x, ((0, 0), (blank, 0), (0, 0), (0, 0), (0, 0))))
        for level, halve in zip(self.levels, (*self.halve, None), strict=True):
            x = level(x)
            if halve is not None:
                x = halve(x)
        return self.quant(self.conv_out(silu(self.norm_out(self.mid(x)))))


class TemporalDecoder(nnx.Module):
    """A chunk of latents to small frames; its levels stand from the image side, as published."""

    def __init__(self, config: OpenSoraVAEConfig, *, rngs: nnx.Rngs):
        channels, latent = config.temporal_channels, config.latent_channels
        inputs = (*channels[1:], channels[-1])
        self.post_quant = pointwise(latent, latent, rngs=rngs)
        self.conv_in = CausalConv3d(latent, channels[-1], rngs=rngs)
        self.mid = Residuals(channels[-1], channels[-1], config, rngs=rngs)
        self.levels = nnx.List(
            [Residuals(inputs[i], c, config, rngs=rngs) for i, c in enumerate(channels)]
        )
        self.double = nnx.List(
            [
                CausalConv3d(c, 2 * c, rngs=rngs) if doubles else None
                for c, doubles in zip(channels[1:], config.temporal_down, strict=True)
            ]
        )
        self.norm_out = GroupNorm(
            channels[0], config.temporal_groups, epsilon=TEMPORAL_EPSILON, over_time=True
        )
        self.conv_out = CausalConv3d(channels[0], latent, rngs=rngs)

    def __call__(self, x: Array, frames: int) -> Array:
        """[B, T, h, w, C] -> the last `frames` of 4T, [B, frames, h, w, C]."""
        x = self.mid(self.conv_in(self.post_quant(x)))
        for level, double in zip(self.levels[::-1], (*self.double[::-1], None), strict=True):
            x = level(x)
            if double is not None:
                x = _channels_to_time(double(x))
        x = self.conv_out(silu(self.norm_out(x)))
        return x[:, x.shape[1] - frames :]


def _channels_to_time(x: Array) -> Array:
    """[B, T, H, W, 2C] -> [B, 2T, H, W, C]; the two frames of a channel stand side by side."""
    pairs = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 2)
    return pairs.reshape(x.shape[0], -1, *pairs.shape[3:])


class OpenSoraVAE(nnx.Module):
    """Both halves, and the shift and scale by channel that make the denoiser's latents."""

    def __init__(self, config: OpenSoraVAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.spatial_encoder = ImageEncoder(config, rngs=rngs)
        self.spatial_decoder = ImageDecoder(config, rngs=rngs)
        self.temporal_encoder = TemporalEncoder(config, rngs=rngs)
        self.temporal_decoder = TemporalDecoder(config, rngs=rngs)
        self.shift = nnx.Param(jnp.zeros(config.latent_channels))
        self.scale = nnx.Param(jnp.ones(config.latent_channels))

    def encode(self, pixels: Array, noise: tuple[Array, Array] | None = None) -> Array:
        """The denoiser's latents of a video.

        Args:
          pixels: [B, T, H, W, 3] in [-1, 1].
          noise: standard normal, for the posteriors of small frames, [B, T, h, w, C], and of
            latents, [B, T', h, w, C]; None to take means.

        Returns:
          [B, T', h, w, C], float32; `config.latent_shape` has the sizes.
        """
        spatial, temporal = (None, None) if noise is None else noise
        small = SPATIAL_SCALE * _draw(self.spatial_moments(pixels), spatial)
        latents = _draw(self.temporal_moments(small), temporal)
        return (latents - self.shift[...]) / self.scale[...]

    def decode(self, latents: Array, frames: int | None = None) -> Array:
        """Pixels of the denoiser's latents.

        Args:
          latents: [B, T', h, w, C].
          frames: T; the most that have T' latents by default.

        Returns:
          [B, T, 8h, 8w, 3], nominally in [-1, 1] but not clipped, float32.

        Raises:
          ValueError: a video of so many frames has another number of latents.
        """
        return self.spatial_decode(self.temporal_decode(latents, frames))

    def spatial_moments(self, pixels: Array) -> Array:
        """Posterior moments of small frames, [B, T, H, W, 3] -> [B, T, h, w, 2C], float32."""
        return self._by_frames(self.spatial_encoder, pixels)

    def temporal_moments(self, small: Array) -> Array:
        """Posterior moments of latents before shift and scale.

        Args:
          small: scaled small frames, [B, T, h, w, C].

        Returns:
          Mean and log-variance (not clamped) on channels, [B, T', h, w, 2C], float32.
        """
        run, size = self._encode_chunk, self.config.chunk
        return _in_chunks(run, run, small, small.shape[1] // size, size)

    def temporal_decode(self, latents: Array, frames: int | None = None) -> Array:
        """Scaled small frames of the denoiser's latents; as `decode`.

        Returns:
          [B, T, h, w, C], float32.
        """
        config, count = self.config, latents.shape[1]
        if frames is None:
            frames = config.most_frames(count)
        if config.latent_frames(frames) != count:
            raise ValueError(
                f"{frames} frames have {config.latent_frames(frames)} latent frames, not {count}"
            )
        whole, rest = divmod(frames, config.chunk)

        def decode(count: int) -> Callable[[Array], Array]:
            return lambda chunk: self._decode_chunk(chunk, count)

        latents = latents * self.scale[...] + self.shift[...]
        chunks = whole, config.latent_chunk
        return _in_chunks(decode(config.chunk), decode(rest), latents, *chunks)

    def spatial_decode(self, small: Array) -> Array:
        """Frames of scaled small frames, [B, T, h, w, C] -> [B, T, 8h, 8w, 3], float32."""
        return self._by_frames(self.spatial_decoder, small / SPATIAL_SCALE)

    @property
    def _dtype(self) -> jnp.dtype:
        return self.spatial_decoder.conv_in.kernel.dtype

    def _encode_chunk(self, small: Array) -> Array:
        return self.temporal_encoder(small.astype(self._dtype)).astype(jnp.float32)

    def _decode_chunk(self, latents: Array, frames: int) -> Array:
        return self.temporal_decoder(latents.astype(self._dtype), frames).astype(jnp.float32)

    def _by_frames(self, run: Callable[[Array], Array], x: Array) -> Array:
        def some(frames: Array) -> Array:
            return run(frames.astype(self._dtype)).astype(jnp.float32)

        return by_frames(some, x, self.config.batch)


def _draw(moments: Array, noise: Array | None) -> Array:
    return posterior_mode(moments) if noise is None else posterior_sample(moments, noise)


def _in_chunks(
    run: Callable[[Array], Array],
    finish: Callable[[Array], Array],
    x: Array,
    count: int,
    size: int,
) -> Array:
    """Runs over whole chunks of frames, each by itself, and finishes with the frames after them."""
    pieces, rest = [], x[:, count * size :]
    if count:
        chunks = x[:, : count * size].reshape(x.shape[0], count, size, *x.shape[2:])
        out = jnp.moveaxis(jax.lax.map(run, jnp.moveaxis(chunks, 1, 0)), 0, 1)
        pieces.append(out.reshape(x.shape[0], -1, *out.shape[3:]))
    if rest.shape[1]:
        pieces.append(finish(rest))
    return jnp.concatenate(pieces, axis=1)
