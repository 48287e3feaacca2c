"""Pages that open from disk with nothing beside them: data and pictures are inside.

A page is `templates/<name>.html` with the shared style and script, its own script, and its data as
JSON. T frames  H W frame size.
"""

import base64
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tts_jax.media import to_uint8

_TEMPLATES = Path(__file__).parent / "templates"
# Up to this many pixels a frame is kept as it is, without loss.
_SMALL = 64


def sprite(frames: np.ndarray, *, size: int = 160, count: int = 16) -> dict[str, object]:
    """A video as one picture, its frames side by side.

    Args:
      frames: [T, H, W, 3], float, in [0, 1].
      size: the longer side of a frame, in pixels, at most; small frames keep every pixel.
      count: frames at most, evenly chosen.

    Returns:
      `bytes` of a WebP picture, `frames`, and `width` and `height` of one of them.

    Raises:
      ValueError: no frames.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(f"frames must be [T, H, W, 3] and not empty, not {list(frames.shape)}")
    if len(frames) > count:
        frames = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = frames.shape[1:3]
    exact = max(height, width) <= _SMALL
    if not exact:
        scale = min(1.0, size / max(height, width))
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    images = [Image.fromarray(pixels) for pixels in to_uint8(frames)]
    strip = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(image, (i * width, 0))
    buffer = io.BytesIO()
    options = {"lossless": True} if exact else {"quality": 80}
    strip.save(buffer, format="WEBP", method=6, **options)
    return {"bytes": buffer.getvalue(), "frames": len(images), "width": width, "height": height}


def embedded(picture: Mapping) -> dict[str, object]:
    """A sprite for a page's data: its `bytes` as the data URI `src`."""
    text = base64.b64encode(picture["bytes"]).decode()
    rest = {name: value for name, value in picture.items() if name != "bytes"}
    return {"src": f"data:image/webp;base64,{text}", **rest}


def render(name: str, title: str, data: Mapping) -> bytes:
    """A page.

    Args:
      name: of the template, "run" or "sweep".
      title: of the page, any text.
      data: what the page shows; plain values, all numbers finite.

    Raises:
      ValueError: a number that is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": title.replace("&", "&amp;").replace("<", "&lt;"),
        "style": _read("style.css"),
        "data": text.replace("<", "\\u003c"),
        "script": _read("common.js") + _read(f"{name}.js"),
    }
    places = re.compile(r"\{\{ (title|style|script|data) \}\}")
    return places.sub(lambda place: parts[place[1]], _read(f"{name}.html")).encode()


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8")
