"""The causal video VAE of Pyramid-Flow (arXiv 2410.05954), as published with both its denoisers.

Clips of 1 + a*k frames become 1 + k latent frames: the first frame stands alone, so that an image
is a clip of one frame. Norms and attention are per frame; only convolutions look back in time.

B batch  T frames  H W size  C channels. Channels last, pixels in [-1, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.autoencoder import silu
from tts_jax.nn.conv import CausalConv3d, GroupNorm, Window
from tts_jax.nn.stack import in_turn
from tts_jax.nn.tiling import Past, in_tiles, in_windows

_OVERLAP = 0.25  # of neighbouring tiles


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the VAE, in the reference's reading of its lists.

    Channels run from the image side in both halves: block i of the decoder has
    `decoder_channels[-1 - i]`. Layers and flags are in the order in which the blocks run.
    """

    image_channels: int = 3
    latent_channels: int
    encoder_channels: tuple[int, ...]
    encoder_layers: tuple[int, ...]
    encoder_spatial_down: tuple[bool, ...]
    encoder_temporal_down: tuple[bool, ...]
    encoder_groups: int
    decoder_channels: tuple[int, ...]
    decoder_layers: tuple[int, ...]
    decoder_spatial_up: tuple[bool, ...]
    decoder_temporal_up: tuple[bool, ...]
    decoder_groups: int

    def __post_init__(self):
        for half in ("encoder", "decoder"):
            names = [
                n for n in self.__dataclass_fields__ if n.startswith(half) and "groups" not in n
            ]
            for name in names:
                object.__setattr__(self, name, tuple(getattr(self, name)))
            if len({len(getattr(self, name)) for name in names}) != 1:
                raise ValueError(f"the lists {', '.join(names)} differ in length")

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** sum(self.decoder_spatial_up)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.decoder_temporal_up)

    def whole_windows(self, frames: int) -> int:
        """Latent frames that the decoder needs to show so many: no more."""
        return frames

    @classmethod
    def published(cls) -> "VAEConfig":
        """`causal_video_vae` of rain1011/pyramid-flow-miniflux and rain1011/pyramid-flow-sd3."""
        down = (True, True, True, False)
        return cls(
            latent_channels=16,
            encoder_channels=(128, 256, 512, 512),
            encoder_layers=(2, 2, 2, 2),
            encoder_spatial_down=down,
            encoder_temporal_down=down,
            encoder_groups=32,
            decoder_channels=(128, 256, 512, 512),
            decoder_layers=(3, 3, 3, 3),
            decoder_spatial_up=down,
            decoder_temporal_up=down,
            decoder_groups=32,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "VAEConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that no published checkpoint has.
        """
        fixed = {
            "encoder_act_fn": "silu",
            "decoder_act_fn": "silu",
            "encoder_double_z": True,
            "add_post_quant_conv": True,
            "interpolate": False,
            "decoder_in_channels": config["encoder_out_channels"],
            "decoder_out_channels": config["encoder_in_channels"],
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if odd:
            raise ValueError(f"unsupported Pyramid-Flow VAE settings: {', '.join(odd)}")
        return cls(
            image_channels=config["encoder_in_channels"],
            latent_channels=config["encoder_out_channels"],
            encoder_channels=config["encoder_block_out_channels"],
            encoder_layers=config["encoder_layers_per_block"],
            encoder_spatial_down=config["encoder_spatial_down_sample"],
            encoder_temporal_down=config["encoder_temporal_down_sample"],
            encoder_groups=config["encoder_norm_num_groups"],
            decoder_channels=config["decoder_block_out_channels"],
            decoder_layers=config["decoder_layers_per_block"],
            decoder_spatial_up=config["decoder_spatial_up_sample"],
            decoder_temporal_up=config["decoder_temporal_up_sample"],
            decoder_groups=config["decoder_norm_num_groups"],
        )


class ResnetBlock(nnx.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, groups)
        self.conv1 = CausalConv3d(inputs, outputs, rngs=rngs)
        self.norm2 = GroupNorm(outputs, groups)
        self.conv2 = CausalConv3d(outputs, outputs, rngs=rngs)
        changes = inputs != outputs
        self.shortcut = CausalConv3d(inputs, outputs, (1, 1, 1), rngs=rngs) if changes else None

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        h = self.conv1(silu(self.norm1(x)), window)
        h = self.conv2(silu(self.norm2(h)), window)
        return h + (x if self.shortcut is None else self.shortcut(x))


class FrameAttention(nnx.Module):
    """Residual attention of one head over the positions of each frame."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups)
        self.q = nnx.Linear(channels, channels, rngs=rngs)
        self.k = nnx.Linear(channels, channels, rngs=rngs)
        self.v = nnx.Linear(channels, channels, rngs=rngs)
        self.out = nnx.Linear(channels, channels, rngs=rngs)

    @jax.named_scope("attention")
    def __call__(self, x: Array) -> Array:
        batch, frames, height, width, channels = x.shape
        tokens = self.norm(x).reshape(batch * frames, height * width, 1, channels)
        mixed = jax.nn.dot_product_attention(self.q(tokens), self.k(tokens), self.v(tokens))
        return x + self.out(mixed.reshape(x.shape))


class MidBlock(nnx.Module):
    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            [ResnetBlock(channels, channels, groups, rngs=rngs) for _ in range(2)]
        )
        self.attention = FrameAttention(channels, groups, rngs=rngs)

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        before, after = self.resnets
        return after(self.attention(before(x, window)), window)


def _spatial_down(channels: int, *, rngs: nnx.Rngs) -> CausalConv3d:
    return CausalConv3d(channels, channels, space_stride=2, rngs=rngs)


def _temporal_down(channels: int, *, rngs: nnx.Rngs) -> CausalConv3d:
    return CausalConv3d(channels, channels, time_stride=2, rngs=rngs)


class SpatialUp(nnx.Module):
    """Doubles H and W: a convolution to 4C channels ordered (c, row, column), then a shuffle."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = CausalConv3d(channels, 4 * channels, rngs=rngs)

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        batch, frames, height, width, channels = x.shape
        x = self.conv(x, window).reshape(batch, frames, height, width, channels, 2, 2)
        x = x.transpose(0, 1, 2, 5, 3, 6, 4)
        return x.reshape(batch, frames, 2 * height, 2 * width, channels)


class TemporalUp(nnx.Module):
    """Doubles T: a convolution to 2C channels ordered (c, frame); a first frame stays one."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = CausalConv3d(channels, 2 * channels, rngs=rngs)

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        batch, frames, height, width, channels = x.shape
        x = self.conv(x, window).reshape(batch, frames, height, width, channels, 2)
        x = x.transpose(0, 1, 5, 2, 3, 4).reshape(batch, 2 * frames, height, width, channels)
        return x[:, 1:] if window is None or window.first else x


class Level(nnx.Module):
    """Residual blocks, then, where they are asked for, a change of H and W and one of T."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        groups: int,
        *,
        spatial: Callable[..., nnx.Module] | None,
        temporal: Callable[..., nnx.Module] | None,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, groups, rngs=rngs)
                for i in range(layers)
            ]
        )
        self.spatial = spatial and spatial(outputs, rngs=rngs)
        self.temporal = temporal and temporal(outputs, rngs=rngs)

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        x = in_turn(self.resnets, x, window)
        if self.spatial is not None:
            x = self.spatial(x, window)
        if self.temporal is not None:
            x = self.temporal(x, window)
        return x


def _levels(
    channels: Sequence[int],
    layers: Sequence[int],
    groups: int,
    spatial: Sequence[Callable | None],
    temporal: Sequence[Callable | None],
    rngs: nnx.Rngs,
) -> nnx.List:
    before = channels[0], *channels[:-1]
    each = zip(before, channels, layers, spatial, temporal, strict=True)
    return nnx.List(
        [Level(i, o, n, groups, spatial=s, temporal=t, rngs=rngs) for i, o, n, s, t in each]
    )


def _where(flags: Sequence[bool], build: Callable) -> list[Callable | None]:
    return [build if flag else None for flag in flags]


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, groups = config.encoder_channels, config.encoder_groups
        self.conv_in = CausalConv3d(config.image_channels, channels[0], rngs=rngs)
        self.down = _levels(
            channels,
            config.encoder_layers,
            groups,
            _where(config.encoder_spatial_down, _spatial_down),
            _where(config.encoder_temporal_down, _temporal_down),
            rngs,
        )
        self.mid = MidBlock(channels[-1], groups, rngs=rngs)
        self.norm_out = GroupNorm(channels[-1], groups)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: Array, window: Window | None = None) -> Array:
        x = self.conv_in(x, window)
        for block in self.down:
            x = block(x, window)
        x = self.mid(x, window)
        return self.conv_out(silu(self.norm_out(x)), window)


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, groups = config.decoder_channels[::-1], config.decoder_groups
        self.conv_in = CausalConv3d(config.latent_channels, channels[0], rngs=rngs)
        self.mid = MidBlock(channels[0], groups, rngs=rngs)
        self.up = _levels(
            channels,
            config.decoder_layers,
            groups,
            _where(config.decoder_spatial_up, SpatialUp),
            _where(config.decoder_temporal_up, TemporalUp),
            rngs,
        )
        self.norm_out = GroupNorm(channels[-1], groups)
        self.conv_out = CausalConv3d(channels[-1], config.image_channels, rngs=rngs)

    def __call__(self, z: Array, window: Window | None = None) -> Array:
        x = self.mid(self.conv_in(z, window), window)
        for block in self.up:
            x = block(x, window)
        return self.conv_out(silu(self.norm_out(x)), window)


class CausalVideoVAE(nnx.Module):
    """Encoder, decoder and the two 1x1x1 convolutions between them."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        latent = config.latent_channels
        self.spatial_factor = config.spatial_factor
        self.temporal_factor = config.temporal_factor
        self.encoder = Encoder(config, rngs=rngs)
        self.quant = CausalConv3d(2 * latent, 2 * latent, (1, 1, 1), rngs=rngs)
        self.post_quant = CausalConv3d(latent, latent, (1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, pixels: Array) -> Array:
        """Posterior moments of a whole clip.

        Args:
          pixels: [B, 1 + a*k, H, W, 3] in [-1, 1], `a` the temporal factor.

        Returns:
          Mean and log-variance (not clamped) on channels, [B, 1 + k, H/s, W/s, 2C], float32.

        Raises:
          ValueError: another number of frames.
        """
        self._check_frames(pixels.shape[1] - 1)
        return self._encode(pixels, None)

    def decode(self, latents: Array) -> Array:
        """Pixels of a whole clip of latents.

        Args:
          latents: [B, 1 + k, h, w, C], in the VAE's own scale.

        Returns:
          [B, 1 + a*k, s*h, s*w, 3], nominally in [-1, 1] but not clipped, float32.
        """
        return self._decode(latents, None)

    def encode_chunked(self, pixels: Array, window: int = 8) -> Array:
        """`encode` in temporal windows: the same moments from less memory.

        Args:
          pixels: [B, 1 + a*k, H, W, 3] in [-1, 1].
          window: frames per window, a multiple of the temporal factor; the first has one more.

        Raises:
          ValueError: another number of frames, or such a window.
        """
        self._check_frames(pixels.shape[1] - 1)
        self._check_frames(window)
        return in_windows(self._encode_window, pixels, window + 1, window)

    def decode_chunked(self, latents: Array, window: int = 1) -> Array:
        """`decode` in temporal windows: the same pixels from less memory.

        Args:
          latents: [B, 1 + k, h, w, C], in the VAE's own scale.
          window: latent frames per window; the first has one more.
        """
        return in_windows(self._decode_window, latents, window + 1, window)

    def encode_tiled(self, pixels: Array, tile: int = 256, window: int | None = None) -> Array:
        """Moments blended from overlapping square tiles; unlike windows, tiles change the result.

        Args:
          pixels: [B, 1 + a*k, H, W, 3] in [-1, 1]; encoded in one piece when no larger than a tile.
          tile: side of a tile in pixels.
          window: frames per temporal window inside a tile; None for whole clips.
        """
        run = self.encode if window is None else lambda x: self.encode_chunked(x, window)
        small = tile // self.spatial_factor
        blend = int(small * _OVERLAP)
        stride = int(tile * (1 - _OVERLAP))
        return _in_squares(run, pixels, tile, stride=stride, blend=blend, keep=small - blend)

    def decode_tiled(self, latents: Array, tile: int = 256, window: int | None = None) -> Array:
        """Pixels blended from overlapping square tiles; unlike windows, tiles change the result.

        The published pipeline decodes with (tile 256, window 1) to save memory, else (512, 2).

        Args:
          latents: [B, 1 + k, h, w, C]; decoded in one piece when no larger than a tile.
          tile: side of a tile in pixels.
          window: latent frames per temporal window inside a tile; None for whole clips.
        """
        run = self.decode if window is None else lambda z: self.decode_chunked(z, window)
        small = tile // self.spatial_factor
        blend = int(tile * _OVERLAP)
        stride = int(small * (1 - _OVERLAP))
        return _in_squares(run, latents, small, stride=stride, blend=blend, keep=tile - blend)

    def _check_frames(self, frames: int) -> None:
        if frames % self.temporal_factor:
            raise ValueError(
                f"after the first, frames come in multiples of {self.temporal_factor}; got {frames}"
            )

    def _encode(self, pixels: Array, window: Window | None) -> Array:
        pixels = pixels.astype(self.quant.kernel.dtype)
        return self.quant(self.encoder(pixels, window)).astype(jnp.float32)

    def _decode(self, latents: Array, window: Window | None) -> Array:
        latents = latents.astype(self.post_quant.kernel.dtype)
        return self.decoder(self.post_quant(latents), window).astype(jnp.float32)

    def _encode_window(self, pixels: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        return self._encode(pixels, window), window.kept

    def _decode_window(self, latents: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        return self._decode(latents, window), window.kept


@dataclass(frozen=True, kw_only=True)
class LatentFactors:
    """Affine map between VAE latents and the denoiser's: model = (vae - shift) * scale.

    The first frame of a clip, encoded as an image, has other statistics than those that follow.
    """

    first_shift: float
    first_scale: float
    shift: float
    scale: float

    @classmethod
    def flux(cls) -> "LatentFactors":
        """The factors of pyramid-flow-miniflux."""
        return cls(first_shift=-0.04, first_scale=1 / 1.8726, shift=-0.2343, scale=1 / 3.0986)

    @classmethod
    def mmdit(cls) -> "LatentFactors":
        """The factors of pyramid-flow-sd3."""
        return cls(first_shift=0.1490, first_scale=1 / 1.8415, shift=-0.2343, scale=1 / 3.0986)

    def to_model(self, latents: Array) -> Array:
        """VAE latents, [..., T, h, w, C] with frame 0 the clip's first, to the denoiser's."""
        shift, scale = self._per_frame(latents)
        return (latents - shift) * scale

    def to_vae(self, latents: Array) -> Array:
        """Denoiser latents, [..., T, h, w, C] with frame 0 the clip's first, to the VAE's."""
        shift, scale = self._per_frame(latents)
        return latents / scale + shift

    def _per_frame(self, latents: Array) -> tuple[Array, Array]:
        first = (jnp.arange(latents.shape[-4]) == 0)[:, None, None, None]
        return (
            jnp.where(first, self.first_shift, self.shift),
            jnp.where(first, self.first_scale, self.scale),
        )


def decode_latent(
    decode: Callable[[Array], Array], latents: Array, factors: LatentFactors
) -> Array:
    """8-bit frames of denoiser latents, as the published pipeline returns them.

    Args:
      decode: VAE latents to pixels in [-1, 1]: one of the VAE's decoding methods.
      latents: [B, T, h, w, C] in the denoiser's scale.
      factors: the scale of that denoiser.

    Returns:
      [B, T', H, W, 3], uint8.
    """
    return to_uint8(decode(factors.to_vae(latents)))


def to_uint8(pixels: Array) -> Array:
    """Pixels in [-1, 1] to grey levels; truncates, as the reference does, and does not round."""
    return jnp.clip(127.5 * pixels + 127.5, 0.0, 255.0).astype(jnp.uint8)


def _in_squares(run: Callable[[Array], Array], x: Array, size: int, **lengths: int) -> Array:
    both = {name: (length, length) for name, length in lengths.items()}
    return in_tiles(run, x, (size, size), **both)
