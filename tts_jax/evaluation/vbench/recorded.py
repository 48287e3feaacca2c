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
            if fault := _fault(kind, frames):
                raise ValueError(f"{kind} of {name!r} in {path}: {fault}")
    return content


def _fault(kind: str, frames: object) -> str | None:
    if not isinstance(frames, list) or len(frames) != FRAMES:
        return f"a list with one item for each of {FRAMES} frames is needed"
    if kind == "captions":
        return None if all(isinstance(text, str) for text in frames) else "captions must be texts"
    first, second = _LISTS[kind]
    for index, frame in enumerate(frames):
        lists = [frame.get(key) for key in (first, second)] if isinstance(frame, Mapping) else [0]
        if not all(isinstance(x, list) for x in lists) or len(lists[0]) != len(lists[1]):
            return f"frame {index} needs equally long lists {first!r} and {second!r}"
        texts = lists[0] + (lists[1] if second == "caption" else [])
        if not all(isinstance(text, str) for text in texts):
            return f"frame {index}: classes and captions must be texts"
        if second == "box" and not all(map(_is_box, lists[1])):
            return f"frame {index}: a box is four numbers: left, top, right, bottom"
    return None


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
