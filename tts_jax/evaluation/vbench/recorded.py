"""Detections and captions that other programs recorded, for dimensions whose detectors are absent.

A JSON object with any of three entries, each from a video's file name to a list with one item for
each of its 16 middle frames (`tts_jax.verifiers.viclip.middle_frames`):

    {"objects":        {"a dog-0.mp4": [{"class": ["dog", "cat"],
                                         "box": [[8, 4, 60, 50], [0, 0, 9, 9]]}, ...]},
     "dense_captions": {"a red car-0.mp4": [{"class": ["car"], "caption": ["a red car"]}, ...]},
     "captions":       {"alley-0.mp4": ["a narrow alley between houses", ...]}}

A box is left, top, right, bottom in whole pixels. VBench (https://github.com/Vchitect/VBench) takes
objects and dense captions from GRiT, which sees frames whose shorter side is above 768 shrunk to
720, and captions from Tag2Text at 384 x 384.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tts_jax.evaluation.vbench.dimensions import RECORDED

FRAMES = 16
_LISTS = {"objects": ("class", "box"), "dense_captions": ("class", "caption")}


def read_recorded(path: Path | str) -> dict[str, dict[str, list]]:
    """Reads and checks such a file.

    Returns:
      By kind and file name, as in the file.

    Raises:
      ValueError: it cannot be read, or has another form; the message says where.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"detections {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content.keys() <= RECORDED.keys():
        raise ValueError(f"detections {path} must be an object of {', '.join(RECORDED)}")
    for kind, videos in content.items():
        if not isinstance(videos, dict):
            raise ValueError(f"{kind} of {path} must be an object from file names to lists")
        for name, frames in videos.items():
            if why := fault(kind, frames):
                raise ValueError(f"{kind} of {name!r} in {path}: {why}")
    return content


def fault(kind: str, frames: object) -> str | None:
    """What is wrong with the records of one video, and what is right; None if nothing is.

    Args:
      kind: in `RECORDED`.
      frames: as in the file.
    """
    if not isinstance(frames, list) or len(frames) != FRAMES:
        return f"a list with one item for each of {FRAMES} frames is needed, not {_what(frames)}"
    for index, frame in enumerate(frames):
        if why := (_caption if kind == "captions" else _lists)(kind, frame):
            return f"frame {index}{why}"
    return None


def only_keys(kind: str, frames: list) -> list:
    """The records without what their kind does not hold."""
    keys = _LISTS.get(kind)
    return frames if keys is None else [{key: frame[key] for key in keys} for frame in frames]


def _caption(kind: str, frame: object) -> str | None:
    return None if isinstance(frame, str) else f": captions must be texts, not {_what(frame)}"


def _lists(kind: str, frame: object) -> str | None:
    first, second = _LISTS[kind]
    lists = [frame.get(key) for key in (first, second)] if isinstance(frame, Mapping) else [0]
    if not all(isinstance(x, list) for x in lists) or len(lists[0]) != len(lists[1]):
        return f" needs equally long lists {first!r} and {second!r}, not {_what(frame)}"
    texts = lists[0] + (lists[1] if second == "caption" else [])
    if wrong := [text for text in texts if not isinstance(text, str)]:
        return f": classes and captions must be texts, not {_what(wrong[0])}"
    if second == "box" and (wrong := [box for box in lists[1] if not _is_box(box)]):
        return f": a box is four numbers: left, top, right, bottom, not {_what(wrong[0])}"
    return None


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _what(found: object) -> str:
    """A wrong value in few words."""
    if isinstance(found, list):
        return f"{len(found)} items" if len(repr(found)) > 60 else repr(found)
    if isinstance(found, Mapping):
        lists = [
            f"{key!r}: {f'{len(x)} items' if isinstance(x, list) else type(x).__name__}"
            for key, x in found.items()
        ]
        return f"{{{', '.join(lists)}}}"
    return repr(found)[:60]
