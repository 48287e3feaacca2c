"""The causal video autoencoder of NOVA, that of Open-Sora-Plan v1.2 (arXiv 2412.00131).

Clips of 1 + 4k frames become 1 + k latent frames. Long clips are processed in windows that share a
frame with the one before and are otherwise independent: norms take their statistics over a window,
so that windows are part of the result. Windows that are not filled are dropped.

B batch  T frames  H W size  C channels. Channels last, pixels in [-1, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.autoencoder import MidBlock, ResnetBlock, silu
from tts_jax.nn.conv import CausalConv3d, GroupNorm
from tts_jax.reference import refuse_others

ENCODER_WINDOW = 17  # frames
DECODER_WINDOW = 5  # latent frames
SHARED = 1  # frames, or latent frames, of neighbouring windows


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the autoencoder.

    Attributes:
      image_channels: of a frame.
      latent_channels: C of the latents.
      channels: of each block, from the image side in both halves.
      layers: residual blocks of each encoder block; those of the decoder have one more.
      groups: of the group norms.
      flat: blocks of the encoder, nearest to the image, that treat every frame by itself; the last
        of them and those after it halve the frames.
      scale: the transformer's latents are those of the autoencoder times this.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...]
    layers: int
    groups: int = 32
    flat: int = 2
    scale: float = 0.18215

    def __post_init__(self):
        if not 1 <= self.flat < len(self.channels):
            raise ValueError(
                f"{self.flat} of {len(self.channels)} blocks treat every frame by itself; "
                "the last cannot, and the first must"
            )

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** (len(self.channels) - 1)

    @property
    def temporal_levels(self) -> int:
        """Blocks of each half that halve or double the frames."""
        return len(self.channels) - self.flat

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return 2**self.temporal_levels

    def whole_windows(self, frames: int) -> int:
        """Latent frames that the decoder's windows need to show so many, at least as many."""
        stride = DECODER_WINDOW - SHARED
        return frames if frames <= DECODER_WINDOW else 1 + stride * -(-(frames - 1) // stride)

    @classmethod
    def published(cls) -> "VAEConfig":
        """The autoencoder of nova-d48w1024-osp480."""
        return cls(channels=(128, 256, 512, 512), layers=2)

    @classmethod
    def from_reference(cls, config: Mapping) -> "VAEConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that the published autoencoder has not.
        """
        down, up = list(config["down_block_types"]), list(config["up_block_types"])
        flat = down.count("DownEncoderBlock2D")
        kinds = ["DownEncoderBlock2D"] * flat + ["DownEncoderBlock3D"] * (len(down) - flat)
        fixed = {
            "down_block_types": kinds,
            "up_block_types": ["UpDecoderBlock3D"] * len(down),
            "out_channels": config["in_channels"],
            "shift_factor": None,
            "act_fn": "silu",
        }
        given = {name: config[name] for name in fixed if name in config}
        given |= {"down_block_types": down, "up_block_types": up}
        refuse_others("settings of NOVA's VAE", given, fixed)
        return cls(
            image_channels=config["in_channels"],
            latent_channels=config["latent_channels"],
            channels=tuple(config["block_out_channels"]),
            layers=config["layers_per_block"],
            groups=config.get("norm_num_groups", 32),
            flat=flat,
            scale=config.get("scaling_factor", 0.18215),
        )


class DownBlock(nnx.Module):
    def __init__(self, level: int, config: VAEConfig, *, rngs: nnx.Rngs):
        outputs, last = config.channels[level], len(config.channels) - 1
        inputs, flat = config.channels[max(level - 1, 0)], level < config.flat
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config.groups, flat=flat, rngs=rngs)
                for i in range(config.layers)
            ]
        )
        over_time = level >= config.flat - 1
        self.conv = (
            None
            if level == last
            else CausalConv3d(
                outputs,
                outputs,
                (3 if over_time else 1, 3, 3),
                time_stride=2 if over_time else 1,
                space_stride=2,
                repeat_first=True,
                padding=(0, 1),
                rngs=rngs,
            )
        )

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.conv is None else self.conv(x)


class UpBlock(nnx.Module):
    def __init__(self, level: int, config: VAEConfig, *, rngs: nnx.Rngs):
        channels, last = config.channels[::-1], len(config.channels) - 1
        outputs, inputs = channels[level], channels[max(level - 1, 0)]
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config.groups, flat=False, rngs=rngs)
                for i in range(config.layers + 1)
            ]
        )
        self.over_time = level < config.temporal_levels
        size = (3 if self.over_time else 1, 3, 3)
        self.conv = (
            None
            if level == last
            else CausalConv3d(outputs, outputs, size, repeat_first=True, rngs=rngs)
        )

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        if self.conv is None:
            return x
        return self.conv(_grow(x) if self.over_time else _nearest(x))


def _nearest(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)


def _grow(x: Array) -> Array:
    """Twice the rows and columns, and twice the frames but the first, all linearly."""
    x = _double(_double(x, 2), 3)
    return jnp.concatenate([x[:, :1], _double(x[:, 1:], 1)], axis=1)


def _double(x: Array, axis: int) -> Array:
    """Linear interpolation at half-pixel centres; beyond the ends the outermost values go on."""
    size = x.shape[axis]
    if not size:
        return x
    ends = [jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1)]
    wide = jnp.concatenate([ends[0], x, ends[1]], axis=axis)
    before, after = (jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in (0, 2))
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :]).astype(x.dtype)


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.channels
        self.conv_in = CausalConv3d(config.image_channels, channels[0], (1, 3, 3), rngs=rngs)
        self.down = nnx.List([DownBlock(i, config, rngs=rngs) for i in range(len(channels))])
        self.mid = MidBlock(channels[-1], config.groups, flat=False, rngs=rngs)
        self.norm_out = GroupNorm(channels[-1], config.groups, over_time=True)
        self.conv_out = CausalConv3d(
            channels[-1], 2 * config.latent_channels, repeat_first=True, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(x)
        for block in (*self.down, self.mid):
            x = block(x)
        return self.conv_out(silu(self.norm_out(x)))


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.channels[::-1]
        self.conv_in = CausalConv3d(
            config.latent_channels, channels[0], repeat_first=True, rngs=rngs
        )
        self.mid = MidBlock(channels[0], config.groups, flat=False, rngs=rngs)
        self.up = nnx.List([UpBlock(i, config, rngs=rngs) for i in range(len(channels))])
        self.norm_out = GroupNorm(channels[-1], config.groups, over_time=True)
        self.conv_out = CausalConv3d(
            channels[-1], config.image_channels, repeat_first=True, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(x)
        for block in (self.mid, *self.up):
            x = block(x)
        return self.conv_out(silu(self.norm_out(x)))


class CausalVideoVAE(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        latent = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.quant = CausalConv3d(2 * latent, 2 * latent, (1, 1, 1), rngs=rngs)
        self.post_quant = CausalConv3d(latent, latent, (1, 1, 1), rngs=rngs)

    def encode(self, pixels: Array) -> Array:
        """Posterior moments.

        Args:
          pixels: [B, T, H, W, 3] in [-1, 1]; of T above a window, 1 + 16k frames count.

        Returns:
          Mean and log-variance (not clamped) on channels, [B, 1 + (T-1)/4, H/8, W/8, 2C], float32.
        """
        x = pixels.astype(self._dtype)
        return self.quant(_in_windows(self.encoder, x, ENCODER_WINDOW)).astype(jnp.float32)

    def decode(self, latents: Array) -> Array:
        """Pixels.

        Args:
          latents: [B, T, h, w, C], in the autoencoder's own scale; of T above a window, 1 + 4k
            frames count.

        Returns:
          [B, 4(T-1) + 1, 8h, 8w, 3], nominally in [-1, 1] but not clipped, float32.
        """
        x = self.post_quant(latents.astype(self._dtype))
        return _in_windows(self.decoder, x, DECODER_WINDOW).astype(jnp.float32)

    @property
    def _dtype(self) -> jnp.dtype:
        return self.decoder.conv_in.kernel.dtype


def _in_windows(run: Callable[[Array], Array], x: Array, size: int) -> Array:
    """Runs over windows that share a frame, and drops its result from each but the first."""
    stride = size - SHARED
    count = 1 + (x.shape[1] - size) // stride
    if count <= 1:
        return run(x[:, :size])
    windows = jnp.stack([x[:, i * stride : i * stride + size] for i in range(count)])
    out = jax.lax.map(run, windows)
    later = jnp.moveaxis(out[1:, :, SHARED:], 0, 1)
    later = later.reshape(later.shape[0], -1, *later.shape[3:])
    return jnp.concatenate([out[0], later], axis=1)
