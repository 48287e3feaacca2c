"""Frames to the inputs of VBench's networks (https://github.com/Vchitect/VBench).

Sizes, interpolation, rounding and crops are those of the original, which differ from network to
network. T frames  H W frame size  S side of a network's input.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.verifiers.viclip import middle_frames
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD, cubic_weights
from tts_jax.vision.resize import neighbour_means, normalise_levels, resize_matrix

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def fit_shorter(height: int, width: int, size: int) -> tuple[int, int]:
    """The size whose shorter side is `size`; the other is rounded down."""
    short = min(height, width)
    return tuple(size if n == short else int(size * n / short) for n in (height, width))


def _centre(x: Array, size: int) -> Array:
    top, left = (round((n - size) / 2) for n in x.shape[-3:-1])
    return x[..., top : top + size, left : left + size, :]


@functools.partial(jax.jit, static_argnames=("size", "kernel", "antialias", "quantise"))
def _resize(
    x: Array, size: tuple[int, int], kernel: str, *, antialias: bool = False, quantise: bool = False
) -> Array:
    """As `tts_jax.vision.resize.resize`, whose kernels it takes, on the host.

    Args:
      x: [..., H, W, C].
      size: rows and columns of the result.
      kernel: "bilinear", "bicubic", or "tensor" for the cubic one of plain tensors.
      antialias, quantise: as there; the kernel of tensors has neither.

    Returns:
      [..., *size, C] float32.
    """
    x = x.astype(jnp.float32)
    for axis, wanted in ((-2, size[1]), (-3, size[0])):
        if x.shape[axis] != wanted:
            if kernel == "tensor":
                weights = cubic_weights(x.shape[axis], wanted)
            else:
                weights = resize_matrix(x.shape[axis], wanted, kernel, antialias)
            x = neighbour_means(x, weights, axis)
            x = jnp.clip(jnp.floor(x + 0.5), 0, 255) if quantise else x
            x = jax.lax.optimization_barrier(x)  # or the first pass is repeated for every neighbour
    return x


@functools.partial(jax.jit, static_argnames=("size", "picture"))
def dino_input(frames: Array, size: int = 224, *, picture: bool = False) -> Array:
    """Frames for DINO: whole, with the shorter side made `size`.

    Args:
      frames: [T, H, W, 3] uint8.
      size: of the shorter side.
      picture: resize as Pillow does, which a folder of pictures gets, and not as plain tensors.

    Returns:
      [T, h, w, 3] float32.
    """
    target = fit_shorter(*frames.shape[1:3], size)
    x = _resize(frames, target, "bilinear", antialias=picture, quantise=picture)
    return normalise_levels(x, IMAGENET_MEAN, IMAGENET_STD)


@functools.partial(jax.jit, static_argnames=("size", "variant"))
def clip_frames(frames: Array, size: int = 224, variant: str = "float") -> Array:
    """Frames for CLIP and ViCLIP: the middle square of frames whose shorter side is `size`.

    Args:
      frames: [T, H, W, 3] uint8.
      size: S.
      variant: "float" (the consistency of backgrounds and the aesthetic quality), "uint8", which
        rounds the resized frames to bytes (ViCLIP), or "picture", which resizes as Pillow does
        (the appearance style, and a folder of pictures).

    Returns:
      [T, S, S, 3] float32.

    Raises:
      ValueError: another variant.
    """
    if variant not in ("float", "uint8", "picture"):
        raise ValueError(f"variant must be float, uint8 or picture, not {variant!r}")
    target = fit_shorter(*frames.shape[1:3], size)
    if variant == "picture":
        x = _resize(frames, target, "bicubic", antialias=True, quantise=True)
    else:
        x = _resize(frames, target, "tensor")
    x = _centre(x, size)
    if variant == "uint8":
        x = jnp.round(jnp.clip(x, 0, 255))
    return normalise_levels(x, CLIP_MEAN, CLIP_STD)


def viclip_input(frames: np.ndarray, size: int = 224, count: int = 8) -> Array:
    """Middle frames for ViCLIP, [T, H, W, 3] uint8 -> [count, S, S, 3] float32."""
    return clip_frames(frames[middle_frames(len(frames), count)], size, "uint8")


def _linear_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right neighbours of one axis, and the right one's weight in 2048ths."""
    position = ((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5).astype(np.float32)
    left = np.floor(position).astype(int)
    weight = position - left
    weight[left < 0], weight[left >= size_in - 1] = 0, 0
    left = np.clip(left, 0, size_in - 1)
    return left, np.minimum(left + 1, size_in - 1), np.rint(weight * 2048).astype(np.int32)


def resize_bytes(frames: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation without antialiasing in whole numbers, as OpenCV does it.

    Weights are 2048ths; four bits are dropped between the passes and the end is rounded.

    Args:
      frames: [..., H, W, 3] uint8.
      size: rows and columns of the result.

    Returns:
      [..., *size, 3] uint8.
    """
    x = frames.astype(jnp.int32)
    left, right, weight = _linear_taps(x.shape[-2], size[1])
    weight = weight[:, None]
    x = jnp.take(x, left, -2) * (2048 - weight) + jnp.take(x, right, -2) * weight
    x = jax.lax.optimization_barrier(x) >> 4
    above, below, weight = _linear_taps(x.shape[-3], size[0])
    weight = weight[:, None, None]
    upper = (jnp.take(x, above, -3) * (2048 - weight)) >> 16
    lower = (jnp.take(x, below, -3) * weight) >> 16
    return ((upper + lower + 2) >> 2).clip(0, 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames="size")
def _umt_frames(frames: Array, size: int) -> Array:
    target = fit_shorter(*frames.shape[1:3], size * 8 // 7)
    x = _centre(resize_bytes(frames, target), size)
    return normalise_levels(x, IMAGENET_MEAN, IMAGENET_STD)


def umt_input(frames: np.ndarray, size: int = 224, count: int = 16) -> Array:
    """Middle frames for UMT: the shorter side 8/7 of the square that is cut out.

    Args:
      frames: [T, H, W, 3] uint8.
      size: S.
      count: frames.

    Returns:
      [count, S, S, 3] float32.
    """
    return _umt_frames(frames[middle_frames(len(frames), count)], size)


def imaging_size(height: int, width: int, mode: str = "longer") -> tuple[int, int]:
    """The size at which MUSIQ sees frames.

    Args:
      height, width: in pixels.
      mode: "longer" (VBench's) bounds the longer side by 512; "shorter" bounds the shorter side;
        "shorter_centercrop" then cuts the middle square out.

    Raises:
      ValueError: another mode.
    """
    sides = {"longer": max, "shorter": min, "shorter_centercrop": min}
    if mode not in sides:
        raise ValueError(f"mode must be one of {', '.join(sides)}, not {mode!r}")
    side = sides[mode](height, width)
    if side <= 512:
        return height, width
    if mode == "shorter_centercrop":
        return 512, 512
    return int(512 / side * height), int(512 / side * width)


@jax.jit
def imaging_input(frames: Array) -> Array:
    """Frames for MUSIQ, [T, H, W, 3] uint8 -> [T, h, w, 3] float32 in [0, 1]."""
    return _resize(frames, imaging_size(*frames.shape[1:3]), "bilinear") / 255


def pad_to(frames: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats edge pixels until both sides are multiples; the smaller half comes first.

    Args:
      frames: [T, H, W, C].
      multiple: 8 for RAFT, 16 for AMT.
    """
    need = [(-n) % multiple for n in frames.shape[1:3]]
    pad = jnp.pad if isinstance(frames, Array) else np.pad
    return pad(frames, [(0, 0), *((n // 2, n - n // 2) for n in need), (0, 0)], mode="edge")


def unpad(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Undoes `pad_to`: [T, h, w, C] -> [T, height, width, C]."""
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:, top : top + height, left : left + width]
