"""MUSIQ (arXiv 2108.05997): the quality of an image, seen in patches at several sizes.

The network is that of https://github.com/google-research/google-research/tree/master/musiq. VBench
runs it as the pyiqa package (https://github.com/chaofengc/IQA-PyTorch) has it, which differs in
three places, followed here: images are resized by cubic interpolation, the standard deviation of a
kernel is that of a sample, and GELU is the one of the error function.

The originals fill the tokens of a size up to the most that it can have, and hide what they filled
in; here there are none to hide, and the class token is the same.

B batch  H W image size  P side of a patch  L patches at all sizes  D width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.conv import GroupNorm
from tts_jax.nn.encoder import EncoderConfig, run, stack
from tts_jax.vision.preprocess import cubic_weights
from tts_jax.vision.resize import neighbour_means


@dataclass(frozen=True, kw_only=True)
class MUSIQConfig:
    """Sizes of the network.

    Attributes:
      patch: P, pixels; a multiple of 4.
      sides: longer sides of the resized images, pixels, from small to large; the image as it is
        comes after them.
      grid: rows and columns of the table of positions, whatever the number of patches.
      stem: channels of the first convolution.
      groups: of the stem's norms.
    """

    patch: int = 32
    sides: tuple[int, ...] = (224, 384)
    grid: int = 10
    stem: int = 64
    groups: int = 32
    width: int
    heads: int
    layers: int
    mlp: int
    epsilon: float = 1e-6

    @classmethod
    def musiq_spaq(cls) -> "MUSIQConfig":
        """musiq_spaq_ckpt-358bb6af.pth, as used by VBench's imaging quality."""
        return cls(width=384, heads=6, layers=14, mlp=1152)

    @property
    def encoder(self) -> EncoderConfig:
        """The part that concerns the blocks."""
        return EncoderConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            mlp=self.mlp,
            activation="gelu",
            epsilon=self.epsilon,
        )


def size_at(height: int, width: int, longer: int) -> tuple[int, int]:
    """The size of an image whose longer side is made `longer`.

    Raises:
      ValueError: nothing would be left of the other side.
    """
    ratio = longer / max(height, width)
    size = round(height * ratio), round(width * ratio)
    if not all(size):
        raise ValueError(f"an image of {height}x{width} is too narrow to be resized to {longer}")
    return size


def hashed_positions(rows: int, columns: int, grid: int) -> np.ndarray:
    """Where in a grid's table each of `rows` x `columns` patches looks: [rows * columns] int."""
    row, column = (
        np.floor(np.arange(n, dtype=np.float32) * np.float32(grid / n)).astype(int)
        for n in (rows, columns)
    )
    return (row[:, None] * grid + column).reshape(-1)


def cut(x: Array, patch: int) -> Array:
    """Patches of images that are framed by zeros to whole ones, the smaller half first.

    Args:
      x: [B, H, W, 3].
      patch: P.

    Returns:
      [B, L, P, P, 3], row by row.
    """
    need = [(-n) % patch for n in x.shape[1:3]]
    x = jnp.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in need), (0, 0)])
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch, patch, channels)


class StandardisedConv(nnx.Module):
    """A convolution without bias whose kernels have zero mean and unit deviation."""

    def __init__(self, size: int, inputs: int, outputs: int, stride: int = 1, *, rngs: nnx.Rngs):
        initial = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (size, size, inputs, outputs)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        """[B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), O]."""
        kernel = self.kernel[...]
        kernel = kernel - kernel.mean((0, 1, 2))
        kernel = kernel / (kernel.std((0, 1, 2), ddof=1) + 1e-5)
        strides = (self.stride, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)


class Stem(nnx.Module):
    """The beginning of a residual network: a convolution, a pooling, a unit of three more."""

    def __init__(self, config: MUSIQConfig, *, rngs: nnx.Rngs):
        channels, wide = config.stem, 4 * config.stem

        def norm(channels, epsilon=1e-4):
            return GroupNorm(channels, config.groups, epsilon=epsilon)

        self.root = StandardisedConv(7, 3, channels, 2, rngs=rngs)
        self.root_norm = norm(channels, 1e-6)
        self.conv1 = StandardisedConv(1, channels, channels, rngs=rngs)
        self.norm1 = norm(channels)
        self.conv2 = StandardisedConv(3, channels, channels, rngs=rngs)
        self.norm2 = norm(channels)
        self.conv3 = StandardisedConv(1, channels, wide, rngs=rngs)
        self.norm3 = norm(wide)
        self.widen = StandardisedConv(1, channels, wide, rngs=rngs)
        self.widen_norm = norm(wide)

    @jax.named_scope("stem")
    def __call__(self, x: Array) -> Array:
        """Features of patches, [B, P, P, 3] -> [B, P / 4, P / 4, 4 * stem]."""
        x = jax.nn.relu(self.root_norm(self.root(x)))
        pools, steps = (1, 3, 3, 1), (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, pools, steps, "SAME")
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        return jax.nn.relu(self.norm3(self.conv3(y)) + self.widen_norm(self.widen(x)))


class MUSIQ(nnx.Module):
    """Patches of all sizes in one sequence behind a class token, blocks, norm, one number."""

    def __init__(self, config: MUSIQConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal, width = nnx.initializers.normal(0.02), config.width
        self.stem = Stem(config, rngs=rngs)
        self.embedding = nnx.Linear(4 * config.stem * (config.patch // 4) ** 2, width, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros(width))
        self.position = nnx.Param(normal(rngs.params(), (config.grid**2, width)))
        self.scale = nnx.Param(normal(rngs.params(), (len(config.sides) + 1, width)))
        self.blocks = stack(config.encoder, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs)
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def tokens(self, x: Array) -> tuple[Array, np.ndarray, np.ndarray]:
        """Patches of images at all sizes.

        Args:
          x: images in [0, 1], [B, H, W, 3].

        Returns:
          Patches in [-1, 1], if cubic interpolation does not leave it, [B, L, P, P, 3]; their rows
          in the table of positions and in that of sizes, [L] each.

        Raises:
          ValueError: an image too narrow to be resized.
        """
        config = self.config
        x = 2 * x.astype(jnp.float32) - 1
        height, width = x.shape[1:3]
        sizes = [*(size_at(height, width, side) for side in config.sides), (height, width)]
        patches, positions, scales = [], [], []
        for scale, (rows, columns) in enumerate(sizes):
            seen = x
            if scale < len(config.sides):
                seen = neighbour_means(seen, cubic_weights(height, rows), 1)
                seen = jax.lax.optimization_barrier(seen)  # the next pass reads it several times
                seen = neighbour_means(seen, cubic_weights(width, columns), 2)
            patches.append(cut(seen, config.patch))
            counts = (-(-n // config.patch) for n in (rows, columns))
            positions.append(hashed_positions(*counts, config.grid))
            scales.append(np.full(len(positions[-1]), scale))
        return jnp.concatenate(patches, 1), np.concatenate(positions), np.concatenate(scales)

    def __call__(self, x: Array) -> Array:
        """Quality of images.

        Args:
          x: images in [0, 1] of any size, [B, H, W, 3].

        Returns:
          [B]; from 0 to 100 of a network that was trained for SPAQ.

        Raises:
          ValueError: an image too narrow to be resized.
        """
        patches, positions, scales = self.tokens(x)
        batch, count = patches.shape[:2]
        dtype = self.embedding.kernel.dtype
        x = self.stem(patches.reshape(-1, *patches.shape[2:]).astype(dtype))
        x = self.embedding(x.reshape(batch, count, -1))
        x = x + self.position[positions] + self.scale[scales]
        first = jnp.broadcast_to(self.class_token[...], (batch, 1, self.config.width))
        x = run(self.blocks, jnp.concatenate([first, x], axis=1))
        return self.head(self.norm(x[:, 0]))[:, 0]
