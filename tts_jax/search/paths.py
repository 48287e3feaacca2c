"""Paths: what a branch is called, and all that it depends on besides seed and prompt."""

import re
from collections.abc import Sequence
from typing import NamedTuple

# Children are fold_in(key, index); these tags are no child's index.
TAGS = {"neighbour": 0xFFFFFF00, "renoise": 0xFFFFFF01}


class Move(NamedTuple):
    """A step that adds no segment.

    Attributes:
      kind: "neighbour", the noise drawn from here on is moved a little, or "renoise", the state
        goes back to the noise level before segment `to`.
      index: tells the parent's moves of one kind apart.
      to: segments done after a "renoise"; 0 else.
      strength: how far, see `rounds.Neighbour` and `rounds.Renoise`.
    """

    kind: str
    index: int
    to: int
    strength: float


# An int is a child at the next segment.
Path = tuple[int | Move, ...]


def depth(path: Path) -> int:
    """Segments done by a branch."""
    done = 0
    for step in path:
        if not isinstance(step, Move):
            done += 1
        elif step.kind == "renoise":
            done = step.to
    return done


def order(path: Path) -> tuple:
    """Sorts paths: children by index, and before moves."""
    return tuple((1, *step) if isinstance(step, Move) else (0, step) for step in path)


def links(path: Path) -> int:
    """Neighbours among a path's steps."""
    return sum(isinstance(step, Move) and step.kind == "neighbour" for step in path)


def to_json(path: Path) -> list[int | str]:
    """A path as numbers and texts such as "neighbour 2 by 0.95" and "renoise 1 to 3 by 0.5"."""
    return [_text(step) if isinstance(step, Move) else int(step) for step in path]


def _text(move: Move) -> str:
    target = f" to {move.to}" if move.kind == "renoise" else ""
    return f"{move.kind} {move.index}{target} by {move.strength!r}"


_MOVE = re.compile(r"(neighbour|renoise) (\d+)(?: to (\d+))? by ([-+.\de]+)")


def from_json(steps: Sequence[int | str]) -> Path:
    """Reads what `to_json` writes.

    Raises:
      ValueError: a step that is neither a child's index nor a move.
    """
    path = []
    for step in steps:
        found = _MOVE.fullmatch(step) if isinstance(step, str) else None
        if found:
            kind, index, to, strength = found.groups()
            path.append(Move(kind, int(index), int(to or 0), float(strength)))
        elif isinstance(step, int) and step >= 0:
            path.append(step)
        else:
            raise ValueError(f"path step {step!r} is neither a child's index nor a move")
    return tuple(path)
