"""AMT-S (arXiv 2304.09790), the frame interpolation that VBench's motion smoothness compares with.

Written anew from the paper's description and the names and shapes of the published weights.

B batch  H W image size  h w size of a level  C channels  K flows per pixel. Channels last; a flow
is (x, y) in pixels of its own level, and leads from the new frame to one of the two given ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.vision.flow import (
    STRIDE,
    Encoder,
    Norm,
    Skip,
    check_size,
    conv,
    correlate,
    grid,
    lookup,
    pyramid,
    turn,
)
from tts_jax.vision.resize import resize

NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class AMTConfig:
    """Sizes of the network.

    Attributes:
      stages, features: widths of the encoder of what is correlated, and of its output.
      levels, radius: of the correlation's pyramids, and of the windows looked up in them.
      pyramid: widths of the features that are warped, at a half, ..., a sixteenth of the size.
      side: channels of a decoder's block that pass two more convolutions.
      correlation, motion, joined, hidden: widths of the update's layers on the windows, on the
        flows, on both, and of what reads changes from them.
      flows: for every pixel.
      combine: width of the layer that combines the warped frames.
    """

    stages: tuple[int, ...]
    features: int
    levels: int
    radius: int
    pyramid: tuple[int, ...]
    side: int
    correlation: int
    motion: int
    joined: int
    hidden: int
    flows: int
    combine: int

    @classmethod
    def amt_s(cls) -> "AMTConfig":
        """amt-s.pth, as used by VBench's motion smoothness."""
        return cls(
            stages=(32, 64, 96),
            features=84,
            levels=4,
            radius=3,
            pyramid=(20, 32, 44, 56),
            side=20,
            correlation=64,
            motion=20,
            joined=68,
            hidden=76,
            flows=3,
            combine=18,
        )


def warp(x: Array, flow: Array) -> Array:
    """What lies where a flow leads: between pixels linearly, outside as at the edge.

    Args:
      x: [B, H, W, C].
      flow: [B, H, W, 2].

    Returns:
      [B, H, W, C].
    """
    batch, height, width, channels = x.shape
    last = jnp.asarray([width - 1, height - 1])
    places = jnp.clip(grid(height, width) + flow, 0, last)
    low = jnp.floor(places).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    right, down = jnp.split(places - low, 2, axis=-1)
    pixels = x.reshape(batch, height * width, channels)

    def take(column: Array, row: Array) -> Array:
        index = (row * width + column).reshape(batch, height * width, 1)
        return jnp.take_along_axis(pixels, index, axis=1).reshape(x.shape)

    upper = (1 - right) * take(low[..., 0], low[..., 1]) + right * take(high[..., 0], low[..., 1])
    lower = (1 - right) * take(low[..., 0], high[..., 1]) + right * take(high[..., 0], high[..., 1])
    return (1 - down) * upper + down * lower


def _scale(x: Array, factor: float) -> Array:
    """Resizes rows and columns linearly, without antialiasing; [B, h, w, C]."""
    size = tuple(round(n * factor) for n in x.shape[1:3])
    return resize(x, size, "bilinear", antialias=False).astype(x.dtype)


def _beside(x: Array) -> Array:
    """Two halves of a batch, [2 B, h, w, C], as channels, [B, h, w, 2 C]."""
    return jnp.concatenate(jnp.split(x, 2), axis=-1)


def _apart(x: Array) -> Array:
    """Two halves of the channels as a batch, the reverse of `_beside`."""
    return jnp.concatenate(jnp.split(x, 2, axis=-1))


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, NEGATIVE_SLOPE)


class PReLU(nnx.Module):
    """A rectifier whose negative side has a learned slope for every channel."""

    def __init__(self, channels: int):
        self.slope = nnx.Param(jnp.full(channels, 0.25))

    def __call__(self, x: Array) -> Array:
        """[..., C] to the same."""
        return jnp.where(x >= 0, x, self.slope[...] * x)


class Layer(nnx.Module):
    """A 3x3 convolution and its rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, (3, 3), stride, rngs=rngs)
        self.act = PReLU(outputs)

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to [B, h / stride, w / stride, outputs]."""
        return self.act(self.conv(x))


class Bottleneck(nnx.Module):
    """A residual block, a quarter as wide inside."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, *, rngs: nnx.Rngs):
        inner = outputs // 4
        self.conv1 = conv(inputs, inner, (1, 1), rngs=rngs)
        self.conv2 = conv(inner, inner, (3, 3), stride, rngs=rngs)
        self.conv3 = conv(inner, outputs, (1, 1), rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(inner), norm(inner), norm(outputs)
        self.skip = Skip(inputs, outputs, stride, norm, rngs=rngs) if stride > 1 else None

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to [B, h / stride, w / stride, outputs]."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = jax.nn.relu(self.norm3(self.conv3(y)))
        return jax.nn.relu((x if self.skip is None else self.skip(x)) + y)


class SideBlock(nnx.Module):
    """A residual block, of which some channels pass two convolutions more."""

    def __init__(self, width: int, side: int, *, rngs: nnx.Rngs):
        self.whole1, self.whole2 = (Layer(width, width, rngs=rngs) for _ in range(2))
        self.part1, self.part2 = (Layer(side, side, rngs=rngs) for _ in range(2))
        self.out = conv(width, width, (3, 3), rngs=rngs)
        self.act = PReLU(width)
        self.side = side

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to the same."""
        y = x
        for whole, part in ((self.whole1, self.part1), (self.whole2, self.part2)):
            y = whole(y)
            rest, last = y[..., : -self.side], y[..., -self.side :]
            y = jnp.concatenate([rest, part(last)], axis=-1)
        return self.act(x + self.out(y))


class Grow(nnx.ConvTranspose):
    """A 4x4 convolution that doubles the size.

    Of the four pixels that a cell becomes each sees four cells, so that a 2x2 convolution gives all
    four, and no product is with the zeros between cells.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, (4, 4), 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to [B, 2 h, 2 w, outputs]."""
        batch, height, width, inputs = x.shape
        kernel = self.kernel.reshape(2, 2, 2, 2, inputs, -1)  # cell and pixel, down and across
        kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, -1)
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=layout
        )
        y = y.reshape(batch, height + 1, width + 1, 2, 2, -1)
        y = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
        y = jnp.stack([y[:, :, :, :-1, 0], y[:, :, :, 1:, 1]], axis=4)
        return y.reshape(batch, 2 * height, 2 * width, -1) + self.bias[...]


class Decoder(nnx.Module):
    """Flows and features of the next finer level."""

    def __init__(self, inputs: int, width: int, outputs: int, side: int, *, rngs: nnx.Rngs):
        self.enter = Layer(inputs, width, rngs=rngs)
        self.block = SideBlock(width, side, rngs=rngs)
        self.grow = Grow(width, outputs, rngs=rngs)

    def __call__(self, *x: Array) -> Array:
        """Features, [B, h, w, C] each, to [B, 2 h, 2 w, outputs]."""
        return self.grow(self.block(self.enter(jnp.concatenate(x, axis=-1))))


class Pair(nnx.Module):
    """Two 3x3 convolutions with a leaky rectifier between them."""

    def __init__(self, inputs: int, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, (3, 3), rngs=rngs)
        self.conv2 = conv(width, outputs, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to [B, h, w, outputs]."""
        return self.conv2(_leaky(self.conv1(x)))


class Update(nnx.Module):
    """Changes of a level's flows and features by the correlation that is found along the flows.

    It works at an eighth of the image's size, whatever that of the level.
    """

    def __init__(self, config: AMTConfig, width: int, scale: int, *, rngs: nnx.Rngs):
        windows = 2 * config.levels * (2 * config.radius + 1) ** 2
        hidden = config.hidden
        self.corr = conv(windows, config.correlation, (1, 1), rngs=rngs)
        self.flow1 = conv(4, 2 * config.motion, (7, 7), rngs=rngs)
        self.flow2 = conv(2 * config.motion, config.motion, (3, 3), rngs=rngs)
        self.join = conv(config.correlation + config.motion, config.joined, (3, 3), rngs=rngs)
        self.mix = Pair(config.joined + 4 + width, hidden, hidden, rngs=rngs)
        self.features = Pair(hidden, hidden, width, rngs=rngs)
        self.flow = Pair(hidden, hidden, 4, rngs=rngs)
        self.scale = scale  # cells of the level in one of the correlation

    def __call__(self, features: Array, flow: Array, found: Array) -> tuple[Array, Array]:
        """Changes.

        Args:
          features: of the level, [B, h, w, C].
          flow: both, at an eighth of the size, [B, H / 8, W / 8, 4].
          found: windows of the correlation, [B, H / 8, W / 8, windows].

        Returns:
          Changes of the features, [B, h, w, C], and of both flows, [B, h, w, 4].
        """
        x, y = _leaky(self.corr(found)), _leaky(self.flow2(_leaky(self.flow1(flow))))
        x = _leaky(self.join(jnp.concatenate([x, y], axis=-1)))
        x = self.mix(jnp.concatenate([x, flow, _scale(features, 1 / self.scale)], axis=-1))
        return (
            _scale(self.features(x), self.scale),
            self.scale * _scale(self.flow(x), self.scale),
        )


class Interpolation(NamedTuple):
    """What lies between two frames.

    Attributes:
      frame: [B, H, W, 3] in [0, 1].
      flows: from the coarsest level, an eighth of the size, to the whole size; to the first frame
        and to the last, [2, B, h, w, 2], and [2, B, H, W, K, 2] at the last level.
    """

    frame: Array
    flows: list[Array]


class AMT(nnx.Module):
    """Refines flows to both frames level by level; every pixel has several at last."""

    def __init__(self, config: AMTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.features = Encoder(config.stages, config.features, block=Bottleneck, rngs=rngs)
        widths = config.pyramid
        self.pyramid = nnx.List(
            nnx.List([Layer(inputs, width, 2, rngs=rngs), Layer(width, width, rngs=rngs)])
            for inputs, width in zip((3, *widths), widths, strict=False)
        )
        *finer, coarsest = widths
        outputs = [8 * config.flows, *(4 + width for width in finer)]
        sizes = [(3 * width + 4, 3 * width) for width in finer]
        sizes.append((2 * coarsest + 1, 2 * coarsest))
        self.decoders = nnx.List(
            Decoder(*size, out, config.side, rngs=rngs)
            for size, out in zip(sizes, outputs, strict=True)
        )
        self.updates = nnx.List(
            Update(config, width, STRIDE // 2 ** (level + 1), rngs=rngs)
            for level, width in enumerate(finer)
        )
        self.combine = nnx.List(
            [
                Layer(3 * config.flows, config.combine, rngs=rngs),
                conv(config.combine, 3, (3, 3), rngs=rngs),
            ]
        )

    def _pyramid(self, x: Array) -> list[Array]:
        """Features of frames at a half, ..., a sixteenth of its size."""
        found = []
        for shrink, keep in self.pyramid:
            x = keep(shrink(x))
            found.append(x)
        return found

    def interpolate(self, first: Array, last: Array, time: float = 0.5) -> Interpolation:
        """A frame between two, and how it was found.

        Args:
          first, last: in [0, 1], [B, H, W, 3] each; sides are multiples of 16.
          time: place of the new frame between them, from 0 to 1 without these.

        Raises:
          ValueError: a side is too short for the correlation's pyramid, or no multiple of 16.
        """
        config = self.config
        batch, height, width, _ = first.shape
        check_size(height, width, config.levels, 2 * STRIDE)
        mean = (first.mean((1, 2, 3), keepdims=True) + last.mean((1, 2, 3), keepdims=True)) / 2
        frames = jnp.concatenate([first - mean, last - mean])
        one, two = jnp.split(self.features(frames), 2)
        volume = correlate(one, two)
        volumes = pyramid(jnp.concatenate([turn(volume), volume]), config.levels)
        cells = grid(*one.shape[1:3])
        levels = self._pyramid(frames)

        # From one frame to the other the way is longer than from the new frame to either.
        part = jnp.repeat(jnp.asarray([time, 1 - time]), batch)[:, None, None, None]
        coarsest = _beside(levels[-1])
        moment = jnp.full((*coarsest.shape[:3], 1), time, coarsest.dtype)
        x = self.decoders[-1](coarsest, moment)
        flows, found = 0.0, []
        for level in reversed(range(len(self.updates))):
            flows += _apart(x[..., :4])
            features, update = x[..., 4:], self.updates[level]
            small = _scale(flows, 1 / update.scale) / update.scale
            back, onward = jnp.split(lookup(volumes, cells + small / part, config.radius), 2)
            seen = jnp.concatenate([onward, back], axis=-1)
            change, moved = update(features, _beside(small), seen)
            features += change
            flows += _apart(moved)
            found.append(flows)
            warped = warp(levels[level], flows)
            x = self.decoders[level](features, _beside(warped), _beside(flows))
            flows = 2 * _scale(flows, 2)

        count = config.flows
        moved, share, rest = jnp.split(x, [4 * count, 5 * count], axis=-1)
        flows = flows[..., None, :] + _apart(moved).reshape(2 * batch, height, width, count, 2)
        found.append(flows)
        near, far = jnp.split(jax.vmap(warp, in_axes=(None, 3), out_axes=3)(frames, flows), 2)
        share = jax.nn.sigmoid(share)[..., None]
        mixed = share * near + (1 - share) * far + mean[..., None]
        mixed += rest.reshape(mixed.shape)
        enter, leave = self.combine
        frame = mixed.mean(3) + leave(enter(mixed.reshape(batch, height, width, -1)))
        return Interpolation(
            jnp.clip(frame, 0, 1), [x.reshape(2, batch, *x.shape[1:]) for x in found]
        )

    def __call__(self, first: Array, last: Array) -> Array:
        """The frame in the middle of two, [B, H, W, 3]; see `interpolate`."""
        return self.interpolate(first, last).frame
