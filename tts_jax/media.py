"""Videos and pictures on disk: mp4, gif and png, by atomic rename.

Equal frames give equal bytes. T frames  H W frame size.
"""

import contextlib
import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

_BT709 = 1  # the value that H.273 gives matrix, primaries and transfer alike


class MediaError(OSError):
    """A file that cannot be written: no room, no permission, no such folder."""


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes a file that is either whole or not there.

    Args:
      path: the file; its folder must exist.
      data: what to write.

    Raises:
      MediaError: the file cannot be written; the message names it and says why.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise MediaError(f"cannot write {path}: {error.strerror or error}") from error


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as bytes, rounded to nearest; what is not a number becomes black.

    Args:
      frames: [..., H, W, 3], float.

    Returns:
      [..., H, W, 3], uint8.
    """
    frames = np.nan_to_num(np.asarray(frames, np.float32), nan=0.0)
    return np.round(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)


def enlarge(pixels: np.ndarray, size: int) -> np.ndarray:
    """Repeats every pixel so often that the longer side comes near `size` without exceeding it.

    Args:
      pixels: [..., H, W, 3].
      size: wanted length of the longer side, in pixels.

    Returns:
      [..., H * n, W * n, 3] with n >= 1, an integer, so that pixels stay square and sharp.
    """
    times = max(1, size // max(pixels.shape[-3:-1]))
    return pixels.repeat(times, axis=-3).repeat(times, axis=-2)


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be [T, H, W, 3] and not empty, not {list(frames.shape)}")
    return frames


def write_mp4(path: Path | str, frames: np.ndarray, *, fps: float = 8, size: int = 256) -> None:
    """Writes an H.264 video that browsers play.

    Args:
      path: the file to write.
      frames: [T, H, W, 3], float, in [0, 1].
      fps: frames a second.
      size: small videos are enlarged by whole pixels to at most this long a side; 0 keeps them.

    Raises:
      MediaError: the file cannot be written.
    """
    pixels = enlarge(to_uint8(_checked(frames)), size)
    odd = [(0, n % 2) for n in pixels.shape[1:3]]
    pixels = np.pad(pixels, [(0, 0), *odd, (0, 0)], mode="edge")
    data = _encode(pixels, fps)
    # Of pictures below a macroblock x264 makes other bytes in one of some thousand calls, if other
    # threads compute: what it makes twice is what it always makes.
    while min(pixels.shape[1:3]) < 16 and (again := _encode(pixels, fps)) != data:
        data = again
    write_bytes(path, data)


def _encode(pixels: np.ndarray, fps: float) -> bytes:
    """H.264 in an mp4 file, of uint8 [T, H, W, 3] with even sides."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14", "preset": "medium", "tune": "animation"}
        context = stream.codec_context
        context.thread_count = 1  # more would let the bytes depend on the machine's cores
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        for image in pixels:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_gif(
    path: Path | str | io.BytesIO, frames: np.ndarray, *, fps: float = 8, size: int = 256
) -> None:
    """Writes an endlessly looping gif with one palette for all frames, so that nothing flickers.

    Args:
      path: the file to write, or a buffer.
      frames: [T, H, W, 3], float, in [0, 1].
      fps: frames a second; the format counts in hundredths of a second.
      size: small videos are enlarged by whole pixels to at most this long a side; 0 keeps them.

    Raises:
      MediaError: the file cannot be written.
    """
    pixels = to_uint8(_checked(frames))
    tall = Image.fromarray(pixels.reshape(-1, *pixels.shape[2:]))
    palette = tall.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    enlarged = enlarge(pixels, size)
    dither = Image.Dither.NONE if enlarged.shape != pixels.shape else Image.Dither.FLOYDSTEINBERG
    images = [Image.fromarray(image).quantize(palette=palette, dither=dither) for image in enlarged]
    _save(
        path,
        lambda buffer: images[0].save(
            buffer,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=round(100 / fps) * 10,
            loop=0,
            disposal=1,
        ),
    )


def write_png(path: Path | str, image: np.ndarray | Image.Image) -> None:
    """Writes one picture.

    Args:
      path: the file to write.
      image: [H, W, 3], uint8, or float in [0, 1]; or a Pillow image.

    Raises:
      MediaError: the file cannot be written.
    """
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        image = Image.fromarray(image if image.dtype == np.uint8 else to_uint8(image))
    _save(path, lambda buffer: image.save(buffer, format="PNG"))


def _save(path: Path | str | io.BytesIO, save: Callable[[io.BytesIO], None]) -> None:
    if isinstance(path, io.BytesIO):
        return save(path)
    buffer = io.BytesIO()
    save(buffer)
    write_bytes(path, buffer.getvalue())


def read_image(path: Path | str, height: int, width: int) -> np.ndarray:
    """A picture resized by bicubic interpolation.

    Args:
      path: a file of any format that Pillow reads.
      height, width: in pixels.

    Returns:
      [H, W, 3] uint8.

    Raises:
      ValueError: it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            size = width, height
            return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    except OSError as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error


def read_video(path: Path | str) -> tuple[np.ndarray, float]:
    """All frames of an mp4 or gif file, in the colours its tags say.

    Args:
      path: a file of any format that ffmpeg reads.

    Returns:
      [T, H, W, 3] uint8, and the frames a second that the file gives, 0 if it gives none.

    Raises:
      ValueError: it cannot be read, or holds no frame.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"video {path} cannot be read: {error}") from error
    if not frames:
        raise ValueError(f"video {path} holds no frame")
    return np.stack(frames), rate
