"""The autoencoder of images of Stable Diffusion (arXiv 2112.10752), for frames of a video.

B batch  T frames  H W size  h w latent size  C latent channels. Channels last.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.autoencoder import MidBlock, ResnetBlock, silu
from tts_jax.nn.conv import CausalConv3d, GroupNorm, pointwise


class Sizes(Protocol):
    """Those of an autoencoder of images.

    Attributes:
      image_channels: of a frame.
      latent_channels: C.
      channels: of each level, from the image side in both halves.
      layers: residual blocks of a level of the encoder; the decoder's have one more.
      groups: of the group norms.
    """

    image_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    layers: int
    groups: int


class ImageConv(CausalConv3d):
    """3x3 convolution of every frame."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, **more):
        super().__init__(inputs, outputs, (1, 3, 3), rngs=rngs, **more)


class DownBlock(nnx.Module):
    """Residual blocks, then, except at the last level, half the rows and columns."""

    def __init__(self, level: int, config: Sizes, *, rngs: nnx.Rngs):
        channels, last = config.channels, len(config.channels) - 1
        inputs, outputs = channels[max(level - 1, 0)], channels[level]
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config.groups, flat=True, rngs=rngs)
                for i in range(config.layers)
            ]
        )
        self.conv = (
            None
            if level == last
            else ImageConv(outputs, outputs, space_stride=2, padding=(0, 1), rngs=rngs)
        )

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.conv is None else self.conv(x)


class UpBlock(nnx.Module):
    """Residual blocks, then, except at the last level, twice the rows and columns."""

    def __init__(self, level: int, config: Sizes, *, rngs: nnx.Rngs):
        channels, last = config.channels[::-1], len(config.channels) - 1
        inputs, outputs = channels[max(level - 1, 0)], channels[level]
        self.resnets = nnx.List(
            [
                ResnetBlock(outputs if i else inputs, outputs, config.groups, flat=True, rngs=rngs)
                for i in range(config.layers + 1)
            ]
        )
        self.conv = None if level == last else ImageConv(outputs, outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        if self.conv is None:
            return x
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


class ImageEncoder(nnx.Module):
    """Frames to posterior moments of their latents."""

    def __init__(self, config: Sizes, *, rngs: nnx.Rngs):
        channels, moments = config.channels, 2 * config.latent_channels
        self.conv_in = ImageConv(config.image_channels, channels[0], rngs=rngs)
        self.down = nnx.List([DownBlock(i, config, rngs=rngs) for i in range(len(channels))])
        self.mid = MidBlock(channels[-1], config.groups, flat=True, rngs=rngs)
        self.norm_out = GroupNorm(channels[-1], config.groups)
        self.conv_out = ImageConv(channels[-1], moments, rngs=rngs)
        self.quant = pointwise(moments, moments, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, T, H, W, 3] -> [B, T, h, w, 2C]."""
        x = self.conv_in(x)
        for block in (*self.down, self.mid):
            x = block(x)
        return self.quant(self.conv_out(silu(self.norm_out(x))))


class ImageDecoder(nnx.Module):
    """Latents to frames."""

    def __init__(self, config: Sizes, *, rngs: nnx.Rngs):
        channels, latent = config.channels[::-1], config.latent_channels
        self.post_quant = pointwise(latent, latent, rngs=rngs)
        self.conv_in = ImageConv(latent, channels[0], rngs=rngs)
        self.mid = MidBlock(channels[0], config.groups, flat=True, rngs=rngs)
        self.up = nnx.List([UpBlock(i, config, rngs=rngs) for i in range(len(channels))])
        self.norm_out = GroupNorm(channels[-1], config.groups)
        self.conv_out = ImageConv(channels[-1], config.image_channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, T, h, w, C] -> [B, T, H, W, 3]."""
        x = self.conv_in(self.post_quant(x))
        for block in (self.mid, *self.up):
            x = block(x)
        return self.conv_out(silu(self.norm_out(x)))


def by_frames(run: Callable[[Array], Array], x: Array, batch: int) -> Array:
    """Runs over every frame by itself, some at a time; blank ones fill the last batch.

    Args:
      run: of frames [n, 1, ...].
      x: [B, T, ...].
      batch: frames at a time, at most.

    Returns:
      [B, T, ...].
    """
    frames = x.reshape(-1, 1, *x.shape[2:])
    batches = -(-len(frames) // batch)
    blank = -len(frames) % batches
    frames = jnp.pad(frames, ((0, blank), *[(0, 0)] * (frames.ndim - 1)))
    out = jax.lax.map(run, frames.reshape(batches, -1, *frames.shape[1:]))
    out = out.reshape(-1, *out.shape[3:])
    return out[: len(out) - blank].reshape(*x.shape[:2], *out.shape[1:])
