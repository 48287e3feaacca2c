"""A detector or captioner of the user's own, that looks at videos while they are scored.

It is named as package.module:name, and answers in the records of
`tts_jax.evaluation.vbench.recorded`, so that what it says can be kept and needs it only once.

H W frame size.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tts_jax.evaluation.vbench.dimensions import RECORDED
from tts_jax.evaluation.vbench.recorded import FRAMES, fault, only_keys
from tts_jax.verifiers.viclip import middle_frames


class Detector(Protocol):
    """What is called once for each video, with a batch of its frames."""

    def __call__(self, frames: np.ndarray) -> Sequence:
        """Looks at the frames of one video.

        Args:
          frames: [16, H, W, 3] uint8, RGB, its middle frames at their own size; a shorter video
            repeats its last frame.

        Returns:
          One record for each frame: of objects {"class": [...], "box": [...]}, of dense captions
          {"class": [...], "caption": [...]}, of captions a text. Arrays may stand for lists.
        """


class DetectorFault(RuntimeError):
    """A detector that fails, or that gives what is no record; the message is one line."""


@dataclass
class Named:
    """A detector by its name; a class is made without arguments when it is first asked.

    Attributes:
      name: as in package.module:name.
      found: what stands under the name.
    """

    name: str
    found: Any
    _made: Detector | None = field(default=None, repr=False)

    def detect(self, kind: str, video: str, frames: np.ndarray) -> list:
        """Records of a video, as plain values that a file of recorded ones holds.

        Args:
          kind: in `RECORDED`.
          video: its name, for messages.
          frames: all of its frames, [T, H, W, 3] uint8.

        Returns:
          One record for each of its 16 middle frames.

        Raises:
          DetectorFault: see there.
        """
        try:
            if self._made is None:
                self._made = self.found() if isinstance(self.found, type) else self.found
        except Exception as error:
            raise DetectorFault(f"detector {self.name} cannot be made: {_said(error)}") from error
        try:
            answer = self._made(frames[middle_frames(len(frames), FRAMES)])
        except Exception as error:
            raise DetectorFault(
                f"detector {self.name} fails on {video} with {_said(error)}"
            ) from error
        try:
            records = json.loads(json.dumps(answer, default=_plain))
            why = fault(kind, records)
        except (TypeError, ValueError) as error:
            why = f"a list of plain records is needed, not this: {error}"
        if why:
            raise DetectorFault(f"detector {self.name} on {video}, {kind}: {why}")
        return only_keys(kind, records)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _plain(value: object) -> object:
    """An array, also another library's, as lists or a number."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no list, text or number")


def load_detectors(names: Mapping[str, str]) -> dict[str, Named]:
    """Detectors by what they find.

    Args:
      names: a kind in `RECORDED` to package.module:name. What stands for two kinds is made once,
        and its records hold the lists of both.

    Raises:
      ValueError: an unknown kind, or a name under which nothing that can be called is found.
    """
    loaded: dict[str, Named] = {}
    for kind, name in names.items():
        if kind not in RECORDED:
            raise ValueError(f"no detector finds {kind!r}; there are {', '.join(RECORDED)}")
        if name not in loaded:
            loaded[name] = Named(name, _import(name))
    return {kind: loaded[name] for kind, name in names.items()}


def _import(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"detector {name!r} is not written as package.module:name")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a module of the user's does on its way
        raise ValueError(f"detector {name}: {module} is not imported: {_said(error)}") from error
    if not hasattr(found, attribute):
        raise ValueError(f"detector {name}: {module} has nothing that is named {attribute!r}")
    found = getattr(found, attribute)
    if not callable(found):
        raise ValueError(f"detector {name} cannot be called: it is a {type(found).__name__}")
    return found
