"""The record of a search: every branch, how it was judged, and whether it went on.

T frames  H W frame size.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from tts_jax.search import paths
from tts_jax.search.paths import Path


@dataclass(eq=False)
class Node:
    """A branch at the end of a round.

    Attributes:
      path: its steps.
      parent: the path at the start of the round.
      round: index of the round.
      scores: by verifier, possibly not finite; empty if the round does not judge.
      value: what the panel made of the scores among the round's branches; None if unjudged.
      kept: whether a later round went on from it, or it won.
      fidelity: "full", or "draft" for one made with fewer steps.
      frames: what the verifiers saw, [T, H, W, 3] float32 in [0, 1], if the search kept it.
      latents: the same before decoding; of complete videos only.
    """

    path: Path
    parent: Path
    round: int
    scores: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    kept: bool = False
    fidelity: str = "full"
    frames: np.ndarray | None = field(default=None, repr=False)
    latents: np.ndarray | None = field(default=None, repr=False)

    @property
    def depth(self) -> int:
        """Segments done."""
        return paths.depth(self.path)

    def to_json(self) -> dict:
        """Plain lists and numbers; a score that is not finite is null."""
        return {
            "path": paths.to_json(self.path),
            "parent": paths.to_json(self.parent),
            "round": self.round,
            "scores": {name: _plain(score) for name, score in self.scores.items()},
            "value": None if self.value is None else _plain(self.value),
            "kept": self.kept,
            **({} if self.fidelity == "full" else {"fidelity": self.fidelity}),
        }


# Where every search begins.
ROOT = Node(path=(), parent=(), round=-1)


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
