"""What a search found, and what is kept of one between rounds.

T frames  H W frame size.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tts_jax.search import paths
from tts_jax.search.ledger import Ledger
from tts_jax.search.loop import Done
from tts_jax.search.paths import Path
from tts_jax.search.pools import Name
from tts_jax.search.rounds import Round
from tts_jax.search.tree import Node


@dataclass(frozen=True, kw_only=True)
class Video:
    """One complete branch.

    Attributes:
      path: its steps.
      latents: its estimate.
      frames: [T, H, W, 3] float32 in [0, 1].
    """

    path: Path
    latents: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found and what it took.

    Attributes:
      best: the winner.
      nodes: every branch at the end of every round, by round and path.
      requests: the rounds as they were executed.
      candidates: the complete videos among the nodes, with frames and latents.
      incumbents: the best video so far, each time it changed.
      weights: log-weights of complete videos, if the preset has any.
      cut: whether the budget ended the search or made a round smaller.
      ledger: the cost of this search.
    """

    best: Video
    nodes: tuple[Node, ...]
    requests: tuple[Round, ...]
    candidates: tuple[Node, ...]
    incumbents: tuple[Node, ...]
    weights: dict[Path, float] | None
    cut: bool
    ledger: Ledger

    def to_json(self) -> dict:
        """The tree with its costs; equal for equal seeds, so that it holds no times."""
        return {
            "best": paths.to_json(self.best.path),
            "rounds": [
                {
                    "to": r.to,
                    "parents": len(r.parents),
                    "judges": r.judges,
                    "stage": r.stage,
                    "label": r.label,
                }
                for r in self.requests
            ],
            "nodes": [node.to_json() for node in self.nodes],
            "incumbents": [
                {"round": node.round, "path": paths.to_json(node.path)} for node in self.incumbents
            ],
            "cut": self.cut,
            "cost": self.ledger.to_json(repeatable=True),
        }


@dataclass(frozen=True)
class Saved:
    """A search between two rounds.

    Attributes:
      rounds: those executed, with the frames and latents that their nodes hold.
      states: of every held branch with its keys, the leaves.
      ledger: the cost so far.
    """

    rounds: list[Done]
    states: dict[Name, list[np.ndarray]]
    ledger: Ledger


class Store(Protocol):
    """Where a search is kept between rounds."""

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was.

        Raises:
          SearchFault: it cannot be read, or is of another search.
        """
        ...

    def save(self, saved: Saved) -> None:
        """Keeps this instead of what was saved before, atomically.

        Args:
          saved: the search that was loaded or saved before, some rounds later.

        Raises:
          SearchFault: it cannot be written.
        """
        ...
