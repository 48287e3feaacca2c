"""The record of a search: every path, how it was judged, and where it ended.

T frames  H W frame size.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from tts_jax.search.selection import Path


@dataclass
class Node:
    """A branch at the end of a round.

    Attributes:
      path: child indices, one per segment gone.
      parent: the path at the start of the round.
      round: index of the round.
      scores: by verifier, possibly not finite; empty if the round does not judge.
      value: what the panel made of the scores among the round's branches; None if unjudged.
      kept: whether it went on, or won.
      frames: what the verifiers saw, [T, H, W, 3] float32 in [0, 1], if the search kept it.
      latents: the same before decoding; of complete videos only.
    """

    path: Path
    parent: Path
    round: int
    scores: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    kept: bool = True
    frames: np.ndarray | None = None
    latents: np.ndarray | None = None

    def to_json(self) -> dict:
        """Plain lists and numbers; a score that is not finite is null."""
        return {
            "path": list(self.path),
            "parent": list(self.parent),
            "round": self.round,
            "scores": {name: _plain(score) for name, score in self.scores.items()},
            "value": None if self.value is None else _plain(self.value),
            "kept": self.kept,
        }


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
