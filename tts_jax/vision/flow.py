"""What networks of optical flow share: feature encoders, all-pairs correlation and its look-up.

Definition: RAFT (arXiv 2003.12039), https://github.com/princeton-vl/RAFT.

B batch  H W feature rows and columns  h w those of a level  C channels  R radius of a window.
Channels last; a flow or a place is (x, y), in pixels of its own grid.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

EPSILON = 1e-5
STRIDE = 8  # pixels a feature


def conv(inputs: int, outputs: int, size: Sequence[int], stride: int = 1, *, rngs) -> nnx.Conv:
    """A convolution with half a kernel of zeros on all sides."""
    padding = [(k // 2, k // 2) for k in size]
    return nnx.Conv(inputs, outputs, tuple(size), stride, padding=padding, rngs=rngs)


@jax.named_scope("norm")
def instance_norm(x: Array) -> Array:
    """Zero mean and unit variance of every channel of every image, [B, H, W, C]."""
    x -= x.mean((1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + EPSILON)


class FrozenBatchNorm(nnx.Module):
    """Batch norm by the statistics of training."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.Param(jnp.zeros(channels))
        self.variance = nnx.Param(jnp.ones(channels))

    @jax.named_scope("norm")
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis, [..., C]."""
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return (x - self.mean[...]) * scale + self.bias[...]


Norm = Callable[[int], Callable[[Array], Array]]  # channels to a norm


def unlearned(channels: int) -> Callable[[Array], Array]:
    """Instance norm, which has no parameters."""
    return instance_norm


class Block(nnx.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, *, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, outputs, (3, 3), stride, rngs=rngs)
        self.conv2 = conv(outputs, outputs, (3, 3), rngs=rngs)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.skip = Skip(inputs, outputs, stride, norm, rngs=rngs) if stride > 1 else None

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, H / stride, W / stride, C']."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        return jax.nn.relu((x if self.skip is None else self.skip(x)) + y)


class Skip(nnx.Module):
    """What a block with a stride adds to its input's place."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, *, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, (1, 1), stride, rngs=rngs)
        self.norm = norm(outputs)

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, H / stride, W / stride, C']."""
        return self.norm(self.conv(x))


class Encoder(nnx.Module):
    """Features of images at an eighth of their size."""

    def __init__(
        self,
        stages: Sequence[int],
        outputs: int,
        norm: Norm = unlearned,
        block: type[nnx.Module] = Block,
        *,
        rngs: nnx.Rngs,
    ):
        """Three stages of two blocks, of these widths; all but the first halve the size."""
        inner, middle, outer = stages
        self.stem = conv(3, inner, (7, 7), 2, rngs=rngs)
        self.norm = norm(inner)
        self.blocks = nnx.List(
            block(inputs, width, stride, norm, rngs=rngs)
            for inputs, width, stride in (
                (inner, inner, 1),
                (inner, inner, 1),
                (inner, middle, 2),
                (middle, middle, 1),
                (middle, outer, 2),
                (outer, outer, 1),
            )
        )
        self.out = conv(outer, outputs, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, 8 H, 8 W, 3] to [B, H, W, C]."""
        x = jax.nn.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def check_size(height: int, width: int, levels: int, multiple: int = STRIDE) -> None:
    """Refuses frames that a pyramid of so many levels cannot be made of.

    Raises:
      ValueError: the coarsest level would have fewer than two rows or columns, among which the
        original finds no place, or a side is no multiple.
    """
    least = STRIDE * 2**levels
    if min(height, width) < least:
        raise ValueError(f"flow needs sides of at least {least} pixels, not {height} x {width}")
    if height % multiple or width % multiple:
        raise ValueError(f"sides must be multiples of {multiple}, not {height} x {width}")


def grid(height: int, width: int) -> Array:
    """The place of every feature, [H, W, 2]."""
    x, y = jnp.meshgrid(jnp.arange(width), jnp.arange(height))
    return jnp.stack([x, y], axis=-1).astype(jnp.float32)


def correlate(first: Array, second: Array) -> Array:
    """Scaled products of all pairs of features, [B, H, W, C] each, to [B, H W, H, W]."""
    batch, height, width, channels = first.shape
    rows = first.reshape(batch, height * width, channels)
    return jnp.einsum("blc,bhwc->blhw", rows, second) / jnp.sqrt(channels)


def turn(volume: Array) -> Array:
    """The correlation of the second map with the first, from that of the first with the second."""
    batch, places = volume.shape[:2]
    return volume.reshape(batch, places, places).swapaxes(1, 2).reshape(volume.shape)


def pyramid(volume: Array, levels: int) -> list[Array]:
    """A correlation, and its means over squares of 2, 4, ... cells.

    Args:
      volume: [B, L, H, W].
      levels: how many volumes; odd rows and columns are dropped on the way.

    Returns:
      [B, L, h, w] each.
    """
    found = [volume]
    for _ in range(levels - 1):
        height, width = (size // 2 for size in found[-1].shape[2:])
        x = found[-1][:, :, : 2 * height, : 2 * width]
        found.append(x.reshape(*x.shape[:2], height, 2, width, 2).mean((3, 5)))
    return found


def _hats(centres: Array, radius: int, size: int) -> Array:
    """Weights of linear interpolation at whole steps around places; none outside the map.

    As products with these are what matrix units are made for, and gathering single cells is not.

    Args:
      centres: [B, L].
      radius: steps to either side.
      size: cells of the axis.

    Returns:
      [B, L, 2 R + 1, size].
    """
    places = centres[..., None] + jnp.arange(-radius, radius + 1)
    return jnp.maximum(1 - jnp.abs(places[..., None] - jnp.arange(size)), 0)


@jax.named_scope("lookup")
def lookup(volumes: Sequence[Array], places: Array, radius: int) -> Array:
    """Correlation in a window around a place, for every feature and every level.

    Args:
      volumes: what `pyramid` returns.
      places: in the finest map, [B, H, W, 2].
      radius: of the windows, in cells of their level.

    Returns:
      [B, H, W, levels (2 R + 1)^2]: level by level, and in a window column by column, for it is
      the offset of x that the published networks count slowest. Zero outside the map.
    """
    batch, height, width, _ = places.shape
    found = []
    for level, volume in enumerate(volumes):
        x, y = jnp.moveaxis(places.reshape(batch, height * width, 2) / 2**level, -1, 0)
        rows, columns = volume.shape[2:]
        across, down = _hats(x, radius, columns), _hats(y, radius, rows)
        window = jnp.einsum("blyh,blhw->blyw", down, volume, precision="highest")
        window = jnp.einsum("blxw,blyw->blxy", across, window, precision="highest")
        found.append(window.reshape(batch, height, width, -1))
    return jnp.concatenate(found, axis=-1)
