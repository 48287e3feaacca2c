"""What a search asks for, one round at a time.

A preset is a Python generator: it yields rounds, and gets the nodes of each back, scored. It knows
the outline of the video and the scores, and nothing of models or devices.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tts_jax.search.paths import Path
from tts_jax.search.tree import Node


class SearchConfigError(ValueError):
    """A search that cannot be run as configured; the message is one sentence."""


@dataclass(frozen=True)
class Neighbour:
    """Children that keep the parent's noise but for a small step on its sphere (arXiv 2501.09732).

    Every draw n made after it becomes |n| (s u + sqrt(1 - s^2) w), where u is the direction of n
    and w that of fresh noise made orthogonal to it.

    Attributes:
      strength: s, in [0, 1]; 1 changes nothing.
    """

    strength: float


@dataclass(frozen=True)
class Renoise:
    """Children whose state is noised again.

    Attributes:
      to: depth whose noise level they go back to; at the parent's own depth s * sigma of fresh
        noise is added, with sigma the level's standard deviation.
      strength: s.
    """

    to: int
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """Expand, advance, estimate, score: one step of a search.

    Attributes:
      parents: nodes that were given back before and are still held, or `ROOT`.
      to: segments done at its end.
      children: of each parent, at the first segment or by `propose`; one child at each later one.
      first_child: index of the first of them; a restart from a prefix takes unused ones.
      propose: how children come about; None: each draws fresh noise from its own key.
      along: instead of children, whole paths to grow, each from the parent that begins it.
      estimate: what is judged: "committed", the segments that are finished; "clean", the clean
        estimate of the segment's noisy state too; a number: that many steps look ahead for it.
      judges: "panel", all verifiers, "image", those of single images, which see the last frame of
        what is judged; None: nothing is decoded or scored.
      stage: which stage prompt they judge by; None for the whole prompt.
      aggregation: of the panel for this round, instead of its own.
      hold: further nodes that later rounds go on from. States that no round holds are forgotten.
      fidelity: "draft" for the generator's version of fewer steps.
      label: how the parents were chosen, for records.
    """

    parents: Sequence[Node]
    to: int
    children: int | Sequence[int] = 1
    first_child: int | Sequence[int] = 0
    propose: Neighbour | Renoise | None = None
    along: Sequence[Path] = ()
    estimate: Literal["committed", "clean"] | int = "committed"
    judges: Literal["panel", "image"] | None = None
    stage: int | None = None
    aggregation: str | None = None
    hold: Sequence[Node] = ()
    fidelity: Literal["full", "draft"] = "full"
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """All that a search knows of a generator.

    Attributes:
      units: segments of each unit: latent units if autoregressive, else one unit.
      nfe: denoiser calls of each segment of a branch alone.
      parent_nfe: of these, those that children advanced together share; none if left out.
      stochastic: whether later segments of a unit draw noise; else a fork there is no fork.
      renoises: whether `Renoise` is possible.
      renoise_nfe: denoiser calls of going back, (depth, to) -> calls.
      look_ahead: denoiser calls of an estimate after a segment that looks so many steps ahead,
        (segment, steps) -> calls; None if `estimate` may be no number.
      draft_nfe: denoiser calls of each segment of the draft generator; None without one.
    """

    units: tuple[int, ...]
    nfe: tuple[int, ...]
    stochastic: bool = False
    renoises: bool = False
    renoise_nfe: Callable[[int, int], int] = lambda depth, to: 0
    look_ahead: Callable[[int, int], int] | None = None
    draft_nfe: tuple[int, ...] | None = None
    parent_nfe: tuple[int, ...] = ()

    @property
    def num_segments(self) -> int:
        """Segments of a video."""
        return sum(self.units)

    @property
    def unit_ends(self) -> tuple[int, ...]:
        """Segments done at the end of each unit."""
        return tuple(sum(self.units[: i + 1]) for i in range(len(self.units)))


# What a preset's `search(config, outline, rng)` returns. It ends with None, or with the
# log-weights of complete videos by path.
Rounds = Generator[Round, list[Node], dict[Path, float] | None]


def per_parent(value: int | Sequence[int], parents: Sequence[Any]) -> list[int]:
    """One number for each parent.

    Raises:
      SearchConfigError: a sequence of another length.
    """
    numbers = [value] * len(parents) if isinstance(value, int) else list(value)
    if len(numbers) != len(parents):
        raise SearchConfigError(f"{len(numbers)} numbers for {len(parents)} parents")
    return numbers
