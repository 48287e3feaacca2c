"""The causal 3-D VAE of CogVideoX (arXiv 2408.06072), as published in THUDM/CogVideoX-2b and -5b.

Clips of 1 + 4k frames become 1 + k latent frames. A clip is always processed in temporal windows,
8 frames or 2 latent frames each, between which convolutions remember: norms take their statistics
over a window, so that windows are part of the result. A first frame of its own is only split off
where the window that holds it has an odd number of frames; 1 + 8k frames are decoded to as many.

B batch  T frames  H W size  C channels. Channels last, pixels in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.autoencoder import silu
from tts_jax.nn.conv import CausalConv3d, GroupNorm, Window
from tts_jax.nn.stack import in_turn
from tts_jax.nn.tiling import Past, in_tiles, in_windows

ENCODER_WINDOW = 8  # frames
DECODER_WINDOW = 2  # latent frames
OVERLAP = (1 / 6, 1 / 5)  # of neighbouring tiles, in rows and columns


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the VAE.

    Attributes:
      image_channels: of a frame.
      latent_channels: C of the latents.
      channels: of each block, from the image side in both halves.
      layers: residual blocks of each encoder block; those of the decoder have one more.
      groups: of the group norms.
      epsilon: of the group norms inside the encoder's residual blocks.
      temporal_factor: frames per latent frame; the blocks nearest to the image that resample time.
      tile: rows and columns of a tile in pixels.
      scale: the denoiser's latents are those of the VAE times this.
    """

    image_channels: int = 3
    latent_channels: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    epsilon: float = 1e-6
    temporal_factor: int = 4
    tile: tuple[int, int] = (240, 360)
    scale: float

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** (len(self.channels) - 1)

    @property
    def temporal_levels(self) -> int:
        """Blocks of each half that halve or double the frames."""
        return self.temporal_factor.bit_length() - 1

    @classmethod
    def published(cls, scale: float) -> "VAEConfig":
        """The VAE of all checkpoints, whose latents' scale is another in each."""
        return cls(
            latent_channels=16, channels=(128, 256, 256, 512), layers=3, groups=32, scale=scale
        )

    @classmethod
    def cogvideox_2b(cls) -> "VAEConfig":
        """THUDM/CogVideoX-2b."""
        return cls.published(1.15258426)

    @classmethod
    def cogvideox_5b(cls) -> "VAEConfig":
        """THUDM/CogVideoX-5b."""
        return cls.published(0.7)

    @classmethod
    def from_reference(cls, config: Mapping) -> "VAEConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that neither checkpoint has.
        """
        factor = config["temporal_compression_ratio"]
        fixed = {
            "out_channels": config["in_channels"],
            "act_fn": "silu",
            "shift_factor": None,
            "latents_mean": None,
            "latents_std": None,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "invert_scale_latents": False,
            "temporal_compression_ratio": 2 ** (int(factor).bit_length() - 1),
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config.get(k, v) != v]
        if odd:
            raise ValueError(f"unsupported CogVideoX VAE settings: {', '.join(odd)}")
        return cls(
            image_channels=config["in_channels"],
            latent_channels=config["latent_channels"],
            channels=tuple(config["block_out_channels"]),
            layers=config["layers_per_block"],
            groups=config["norm_num_groups"],
            epsilon=config["norm_eps"],
            temporal_factor=int(factor),
            tile=(config["sample_height"] // 2, config["sample_width"] // 2),
            scale=config["scaling_factor"],
        )


class FrameConv(nnx.Module):
    """3x3 convolution of each frame."""

    def __init__(self, channels: int, *, stride: int, padding: tuple[int, int], rngs: nnx.Rngs):
        shape = (3, 3, channels, channels)
        self.kernel = nnx.Param(jax.nn.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.stride = stride
        self.padding = padding

    @jax.named_scope("conv")
    def __call__(self, x: Array) -> Array:
        """[B, T, H, W, C] -> [B, T, H', W', C]."""
        out = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            self.kernel[...].astype(x.dtype),
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out.reshape(*x.shape[:2], *out.shape[1:]) + self.bias[...].astype(x.dtype)


class LatentNorm(nnx.Module):
    """Group norm whose scale and bias are linear in the latents (arXiv 2209.09002)."""

    def __init__(self, channels: int, config: VAEConfig, *, rngs: nnx.Rngs):
        def linear():
            return CausalConv3d(config.latent_channels, channels, (1, 1, 1), rngs=rngs)

        self.norm = GroupNorm(channels, config.groups, over_time=True)
        self.scale, self.shift = linear(), linear()

    @jax.named_scope("norm")
    def __call__(self, x: Array, latents: Array) -> Array:
        """[B, T, H, W, C], with the window's latents, -> [B, T, H, W, C]."""
        scale, shift = (_stretch(linear(latents), x) for linear in (self.scale, self.shift))
        return self.norm(x) * scale + shift


def _stretch(z: Array, like: Array) -> Array:
    """Nearest neighbours of z on the frames, rows and columns of `like`."""
    frames = like.shape[1]
    if frames > 1 and frames % 2:
        rest = jnp.repeat(z[:, 1:], (frames - 1) // (z.shape[1] - 1), axis=1)
        z = jnp.concatenate([z[:, :1], rest], axis=1)
    else:
        z = jnp.repeat(z, frames // z.shape[1], axis=1)
    for axis in (2, 3):
        z = jnp.repeat(z, like.shape[axis] // z.shape[axis], axis=axis)
    return z


class ResnetBlock(nnx.Module):
    def __init__(
        self, inputs: int, outputs: int, config: VAEConfig, *, latent: bool, rngs: nnx.Rngs
    ):
        def norm(channels):
            if latent:
                return LatentNorm(channels, config, rngs=rngs)
            return GroupNorm(channels, config.groups, epsilon=config.epsilon, over_time=True)

        self.latent = latent
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = CausalConv3d(inputs, outputs, repeat_first=True, rngs=rngs)
        self.conv2 = CausalConv3d(outputs, outputs, repeat_first=True, rngs=rngs)
        changes = inputs != outputs
        self.shortcut = CausalConv3d(inputs, outputs, (1, 1, 1), rngs=rngs) if changes else None

    def __call__(self, x: Array, window: Window, latents: Array | None = None) -> Array:
        about = (latents,) if self.latent else ()
        h = self.conv1(silu(self.norm1(x, *about)), window)
        h = self.conv2(silu(self.norm2(h, *about)), window)
        return h + (x if self.shortcut is None else self.shortcut(x))


class DownBlock(nnx.Module):
    def __init__(
        self, inputs: int, outputs: int, config: VAEConfig, *, space: bool, time: bool, rngs
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config, latent=False, rngs=rngs)
                for i in range(config.layers)
            ]
        )
        self.conv = FrameConv(outputs, stride=2, padding=(0, 1), rngs=rngs) if space else None
        self.time = time

    def __call__(self, x: Array, window: Window) -> Array:
        x = in_turn(self.resnets, x, window)
        if self.conv is None:
            return x
        return self.conv(_halve_time(x) if self.time else x)


class UpBlock(nnx.Module):
    def __init__(
        self, inputs: int, outputs: int, config: VAEConfig, *, space: bool, time: bool, rngs
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config, latent=True, rngs=rngs)
                for i in range(config.layers + 1)
            ]
        )
        self.conv = FrameConv(outputs, stride=1, padding=(1, 1), rngs=rngs) if space else None
        self.time = time

    def __call__(self, x: Array, window: Window, latents: Array) -> Array:
        x = in_turn(self.resnets, x, window, latents)
        if self.conv is None:
            return x
        if self.time:
            x = _double_time(x)
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


def _split_first(x: Array) -> tuple[Array, Array]:
    """The frame that stands alone, none if the number of frames is even, and the others."""
    return jnp.split(x, [x.shape[1] % 2], axis=1)


def _halve_time(x: Array) -> Array:
    first, rest = _split_first(x)
    pairs = rest.reshape(rest.shape[0], rest.shape[1] // 2, 2, *rest.shape[2:])
    return jnp.concatenate([first, pairs.mean(2)], axis=1)


def _double_time(x: Array) -> Array:
    first, rest = _split_first(x)
    return jnp.concatenate([first, jnp.repeat(rest, 2, axis=1)], axis=1)


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, last = config.channels, len(config.channels) - 1
        self.conv_in = CausalConv3d(
            config.image_channels, channels[0], repeat_first=True, rngs=rngs
        )
        self.down = nnx.List(
            [
                DownBlock(
                    channels[max(i - 1, 0)],
                    channels[i],
                    config,
                    space=i < last,
                    time=i < config.temporal_levels,
                    rngs=rngs,
                )
                for i in range(len(channels))
            ]
        )
        self.mid = nnx.List(
            [
                ResnetBlock(channels[-1], channels[-1], config, latent=False, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.norm_out = GroupNorm(channels[-1], config.groups, over_time=True)
        self.conv_out = CausalConv3d(
            channels[-1], 2 * config.latent_channels, repeat_first=True, rngs=rngs
        )

    def __call__(self, x: Array, window: Window) -> Array:
        x = self.conv_in(x, window)
        for block in self.down:
            x = block(x, window)
        x = in_turn(self.mid, x, window)
        return self.conv_out(silu(self.norm_out(x)), window)


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, last = config.channels[::-1], len(config.channels) - 1
        self.conv_in = CausalConv3d(
            config.latent_channels, channels[0], repeat_first=True, rngs=rngs
        )
        self.mid = nnx.List(
            [
                ResnetBlock(channels[0], channels[0], config, latent=True, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.up = nnx.List(
            [
                UpBlock(
                    channels[max(i - 1, 0)],
                    channels[i],
                    config,
                    space=i < last,
                    time=i < config.temporal_levels,
                    rngs=rngs,
                )
                for i in range(len(channels))
            ]
        )
        self.norm_out = LatentNorm(channels[-1], config, rngs=rngs)
        self.conv_out = CausalConv3d(
            channels[-1], config.image_channels, repeat_first=True, rngs=rngs
        )

    def __call__(self, latents: Array, window: Window) -> Array:
        x = in_turn(self.mid, self.conv_in(latents, window), window, latents)
        for block in self.up:
            x = block(x, window, latents)
        return self.conv_out(silu(self.norm_out(x, latents)), window)


class CausalVideoVAE(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, pixels: Array) -> Array:
        """Posterior moments.

        Args:
          pixels: [B, T, H, W, 3] in [-1, 1], T one more than a multiple of the temporal factor.

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
        return _in_even_windows(self._encode_window, pixels, ENCODER_WINDOW)

    def decode(self, latents: Array) -> Array:
        """Pixels.

        Args:
          latents: [B, T, h, w, C], in the VAE's own scale.

        Returns:
          [B, 4(T-1) + 1, 8h, 8w, 3] for odd T, [B, 4T, 8h, 8w, 3] for even T; nominally in [-1, 1]
          but not clipped, float32.
        """
        return _in_even_windows(self._decode_window, latents, DECODER_WINDOW)

    def encode_tiled(self, pixels: Array) -> Array:
        """`encode` blended from overlapping tiles: less memory, and slightly other moments."""
        tile, factor = self.config.tile, self.config.spatial_factor
        small = [side // factor for side in tile]
        return in_tiles(self.encode, pixels, tile, **_tile_lengths(tile, small))

    def decode_tiled(self, latents: Array) -> Array:
        """`decode` blended from overlapping tiles: less memory, and slightly other pixels."""
        tile, factor = self.config.tile, self.config.spatial_factor
        small = tuple(side // factor for side in tile)
        return in_tiles(self.decode, latents, small, **_tile_lengths(small, tile))

    @property
    def _dtype(self) -> jnp.dtype:
        return self.decoder.conv_in.kernel.dtype

    def _encode_window(self, pixels: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        moments = self.encoder(pixels.astype(self._dtype), window)
        return moments.astype(jnp.float32), window.kept

    def _decode_window(self, latents: Array, past: Past) -> tuple[Array, Past]:
        window = Window(past)
        pixels = self.decoder(latents.astype(self._dtype), window)
        return pixels.astype(jnp.float32), window.kept


def _in_even_windows(run, x: Array, size: int) -> Array:
    """Runs over windows of `size` frames; the first also takes the frames that are left over."""
    frames = x.shape[1]
    return in_windows(run, x, min(size + frames % size, frames), size)


def _tile_lengths(inputs, outputs) -> dict[str, tuple[int, int]]:
    """Stride of tiles of the input, and blend and kept size of those of the output."""
    blend = tuple(int(side * part) for side, part in zip(outputs, OVERLAP, strict=True))
    return {
        "stride": tuple(int(side * (1 - part)) for side, part in zip(inputs, OVERLAP, strict=True)),
        "blend": blend,
        "keep": tuple(side - part for side, part in zip(outputs, blend, strict=True)),
    }
