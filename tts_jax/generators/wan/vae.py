"""The causal 3-D VAE of Wan 2.1 (arXiv 2503.20314), as published with Wan2.1-T2V-1.3B and -14B.

Clips of 1 + 4k frames become 1 + k latent frames. Every layer sees a frame and those before it, and
norms take their statistics over the channels of one place: a clip decoded in temporal windows,
between which convolutions remember, is the clip decoded whole. The first frame of a clip is never
resampled in time, and no later one sees it there where time is doubled.

B batch  T frames  H W size  C channels. Channels last, pixels in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend
from tts_jax.nn.autoencoder import silu
from tts_jax.nn.conv import CausalConv3d, Window
from tts_jax.nn.linear import Linear
from tts_jax.nn.norms import RMSNorm
from tts_jax.nn.stack import in_turn
from tts_jax.nn.tiling import Past, in_tiles, in_windows

TILE = 256  # pixels of a side
TILE_STRIDE = 192
EPSILON = 1e-24  # of a mean square; published as 1e-12 of a length

PUBLISHED_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
PUBLISHED_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the VAE.

    Attributes:
      image_channels: of a frame.
      channels: of each level, from the image side in both halves.
      layers: residual blocks of each encoder level; those of the decoder have one more.
      temporal_down: for each level but the last, whether the encoder halves the frames after it.
      mean, std: of the VAE's latents, by channel: the denoiser's are (z - mean) / std.
    """

    image_channels: int = 3
    channels: tuple[int, ...]
    layers: int
    temporal_down: tuple[bool, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.temporal_down) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} levels have {len(self.channels) - 1} places to halve the "
                f"frames; temporal_down names {len(self.temporal_down)}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations of latents")
        if odd := [c for c in self.channels if c % 2]:
            raise ValueError(f"levels have even numbers of channels, not {odd}")

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return len(self.mean)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** (len(self.channels) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.temporal_down)

    @classmethod
    def published(cls) -> "VAEConfig":
        """The VAE of Wan2.1-T2V-1.3B and -14B."""
        return cls(
            channels=(96, 192, 384, 384),
            layers=2,
            temporal_down=(False, True, True),
            mean=PUBLISHED_MEAN,
            std=PUBLISHED_STD,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "VAEConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that the published VAE has not.
        """
        base, latent = config["base_dim"], config["z_dim"]
        fixed = {
            "decoder_base_dim": (None, base),
            "is_residual": (False,),
            "patch_size": (None, 1),
            "in_channels": (3,),
            "out_channels": (3,),
            "attn_scales": ([], ()),
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if k in config and config[k] not in v]
        for name in ("latents_mean", "latents_std"):
            if len(config[name]) != latent:
                odd.append(f"{len(config[name])} values of {name} for {latent} channels")
        down = tuple(bool(x) for x in config["temperal_downsample"])
        multipliers = config["dim_mult"]
        factors = {
            "scale_factor_temporal": 2 ** sum(down),
            "scale_factor_spatial": 2 ** (len(multipliers) - 1),
        }
        odd += [
            f"{k}={config[k]!r}" for k, v in factors.items() if config.get(k, v) not in (None, v)
        ]
        if odd:
            raise ValueError(f"unsupported settings of Wan's VAE: {', '.join(odd)}")
        return cls(
            channels=tuple(base * m for m in multipliers),
            layers=config["num_res_blocks"],
            temporal_down=down,
            mean=tuple(config["latents_mean"]),
            std=tuple(config["latents_std"]),
        )


def _norm(channels: int, rngs: nnx.Rngs) -> RMSNorm:
    return RMSNorm(channels, eps=EPSILON, rngs=rngs)


class ResnetBlock(nnx.Module):
    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = _norm(inputs, rngs), _norm(outputs, rngs)
        self.conv1 = CausalConv3d(inputs, outputs, rngs=rngs)
        self.conv2 = CausalConv3d(outputs, outputs, rngs=rngs)
        changes = inputs != outputs
        self.shortcut = CausalConv3d(inputs, outputs, (1, 1, 1), rngs=rngs) if changes else None

    def __call__(self, x: Array, window: Window) -> Array:
        """[B, T, H, W, C] -> [B, T, H, W, C']."""
        h = self.conv1(silu(self.norm1(x)), window)
        h = self.conv2(silu(self.norm2(h)), window)
        return h + (x if self.shortcut is None else self.shortcut(x))


class MidBlock(nnx.Module):
    """A residual block, attention inside every frame, a residual block."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.resnets = nnx.List([ResnetBlock(channels, channels, rngs=rngs) for _ in range(2)])
        self.norm = _norm(channels, rngs)
        self.qkv = Linear(channels, 3 * channels, rngs=rngs)
        self.out = Linear(channels, channels, rngs=rngs)

    def __call__(self, x: Array, window: Window) -> Array:
        """[B, T, H, W, C] -> the same shape."""
        first, second = self.resnets
        x = first(x, window)
        with jax.named_scope("attention"):
            frames = self.norm(x).reshape(x.shape[0] * x.shape[1], -1, 1, x.shape[-1])
            seen = attend(*jnp.split(self.qkv(frames), 3, axis=-1))
            x = x + self.out(seen).reshape(x.shape)
        return second(x, window)


class Downsample(nnx.Module):
    """Halves rows and columns, then, if over time, the frames after a clip's first."""

    def __init__(self, channels: int, *, over_time: bool, rngs: nnx.Rngs):
        self.space = CausalConv3d(
            channels, channels, (1, 3, 3), space_stride=2, padding=(0, 1), rngs=rngs
        )
        self.time = (
            CausalConv3d(channels, channels, (3, 1, 1), time_stride=2, rngs=rngs)
            if over_time
            else None
        )

    def __call__(self, x: Array, window: Window) -> Array:
        """[B, T, H, W, C] -> [B, T or (T + 1) / 2 or T / 2, H / 2, W / 2, C]."""
        x = self.space(x)
        if self.time is None:
            return x
        halved = self.time(x, window)
        return jnp.concatenate([x[:, :1], halved[:, 1:]], axis=1) if window.first else halved


class Upsample(nnx.Module):
    """Doubles, if over time, the frames after a clip's first; then rows and columns."""

    def __init__(self, channels: int, *, over_time: bool, rngs: nnx.Rngs):
        self.time = (
            CausalConv3d(channels, 2 * channels, (3, 1, 1), rngs=rngs) if over_time else None
        )
        self.space = CausalConv3d(channels, channels // 2, (1, 3, 3), rngs=rngs)

    def __call__(self, x: Array, window: Window) -> Array:
        """[B, T, H, W, C] -> [B, T or 2T - 1 or 2T, 2H, 2W, C / 2]."""
        if self.time is not None:
            x = self._double_time(x, window)
        return self.space(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))

    def _double_time(self, x: Array, window: Window) -> Array:
        first = x[:, :1]
        # the first frame is hidden from the convolution, as if the clip began with the second
        seen = x.at[:, 0].set(0) if window.first else x
        pairs = self.time(seen, window)
        pairs = pairs.reshape(*x.shape[:-1], 2, x.shape[-1])
        pairs = jnp.moveaxis(pairs, -2, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return jnp.concatenate([first, pairs[:, 2:]], axis=1) if window.first else pairs


class Encoder(nnx.Module):
    """Its blocks stand in one row, as published: residual ones, and what halves between levels."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, down = config.channels, []
        inputs = channels[0]
        self.conv_in = CausalConv3d(config.image_channels, inputs, rngs=rngs)
        for level, outputs in enumerate(channels):
            for _ in range(config.layers):
                down.append(ResnetBlock(inputs, outputs, rngs=rngs))
                inputs = outputs
            if level < len(channels) - 1:
                over_time = config.temporal_down[level]
                down.append(Downsample(outputs, over_time=over_time, rngs=rngs))
        self.down = nnx.List(down)
        self.mid = MidBlock(channels[-1], rngs=rngs)
        self.norm_out = _norm(channels[-1], rngs)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: Array, window: Window) -> Array:
        x = in_turn((*self.down, self.mid), self.conv_in(x, window), window)
        return self.conv_out(silu(self.norm_out(x)), window)


class UpBlock(nnx.Module):
    def __init__(self, level: int, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, over_time = config.channels[::-1], config.temporal_down[::-1]
        outputs = channels[level]
        inputs = channels[level - 1] // 2 if level else outputs
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, rngs=rngs)
                for i in range(config.layers + 1)
            ]
        )
        self.upsample = (
            Upsample(outputs, over_time=over_time[level], rngs=rngs)
            if level < len(channels) - 1
            else None
        )

    def __call__(self, x: Array, window: Window) -> Array:
        x = in_turn(self.resnets, x, window)
        return x if self.upsample is None else self.upsample(x, window)


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.channels
        self.conv_in = CausalConv3d(config.latent_channels, channels[-1], rngs=rngs)
        self.mid = MidBlock(channels[-1], rngs=rngs)
        self.up = nnx.List([UpBlock(i, config, rngs=rngs) for i in range(len(channels))])
        self.norm_out = _norm(channels[0], rngs)
        self.conv_out = CausalConv3d(channels[0], config.image_channels, rngs=rngs)

    def __call__(self, x: Array, window: Window) -> Array:
        x = self.conv_in(x, window)
        for block in (self.mid, *self.up):
            x = block(x, window)
        return self.conv_out(silu(self.norm_out(x)), window)


class CausalVideoVAE(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        latent = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.quant = CausalConv3d(2 * latent, 2 * latent, (1, 1, 1), rngs=rngs)
        self.post_quant = CausalConv3d(latent, latent, (1, 1, 1), rngs=rngs)

    def encode(self, pixels: Array, window: int | None = 1) -> Array:
        """Posterior moments.

        Args:
          pixels: [B, T, H, W, 3] in [-1, 1], T one more than a multiple of the temporal factor.
          window: latent frames that are worked on at a time, after the first; None for all. The
            result is the same, memory and time are not.

        Returns:
          Mean and log-variance (not clamped) on channels, [B, 1 + (T-1)/4, H/8, W/8, 2C], float32.

        Raises:
          ValueError: another number of frames.
        """
        frames, factor = pixels.shape[1], self.config.temporal_factor
        if (frames - 1) % factor:
            raise ValueError(
                f"{frames} frames; after the first, they come in multiples of {factor}"
            )
        size = frames if window is None else factor * window
        return in_windows(self._encode_window, pixels, 1 if window else size, size)

    def decode(self, latents: Array, window: int | None = 1) -> Array:
        """Pixels.

        Args:
          latents: [B, T, h, w, C], in the VAE's own scale.
          window: latent frames that are worked on at a time, after the first; None for all. The
            result is the same, memory and time are not.

        Returns:
          [B, 4(T-1) + 1, 8h, 8w, 3], clipped to [-1, 1] as published, float32.
        """
        return jnp.clip(self._decode(latents, window), -1.0, 1.0)

    def decode_tiled(self, latents: Array, window: int | None = 1) -> Array:
        """`decode` blended from overlapping tiles: less memory, and slightly other pixels."""
        factor = self.config.spatial_factor
        small, stride = TILE // factor, TILE_STRIDE // factor
        pixels = in_tiles(
            lambda tile: self._decode(tile, window),
            latents,
            (small, small),
            stride=(stride, stride),
            blend=(TILE - TILE_STRIDE,) * 2,
            keep=(TILE_STRIDE, TILE_STRIDE),
        )
        return jnp.clip(pixels, -1.0, 1.0)

    def encode_tiled(self, pixels: Array, window: int | None = 1) -> Array:
        """`encode` blended from overlapping tiles: less memory, and slightly other moments."""
        factor = self.config.spatial_factor
        kept, blend = TILE_STRIDE // factor, TILE // factor - TILE_STRIDE // factor
        return in_tiles(
            lambda tile: self.encode(tile, window),
            pixels,
            (TILE, TILE),
            stride=(TILE_STRIDE, TILE_STRIDE),
            blend=(blend, blend),
            keep=(kept, kept),
        )

    @property
    def _dtype(self) -> jnp.dtype:
        return self.decoder.conv_in.kernel.dtype

    def _decode(self, latents: Array, window: int | None) -> Array:
        size = window or latents.shape[1]
        return in_windows(self._decode_window, latents, 1 if window else size, size)

    def _encode_window(self, pixels: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        moments = self.quant(self.encoder(pixels.astype(self._dtype), window))
        return moments.astype(jnp.float32), window.kept

    def _decode_window(self, latents: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        pixels = self.decoder(self.post_quant(latents.astype(self._dtype)), window)
        return pixels.astype(jnp.float32), window.kept
