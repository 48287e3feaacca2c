"""The static steps of a search, and what they cost before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tts_jax.generators.protocol import Generator

if TYPE_CHECKING:
    from tts_jax.search.selection import Selection


class SearchConfigError(ValueError):
    """A search that cannot be run as configured; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Expand, advance over some segments, estimate, score, select.

    Attributes:
      segments: the segments advanced, consecutive. Every branch has `children` children at the
        first of them and one child at each of the others.
      children: K.
      propose: where a child's randomness comes from: "fresh", new noise from its own key.
      estimate: what verifiers look at: "committed", the segments that are finished.
      judges: "panel", all verifiers, or "image", those that look at the first frame only.
      stage: which stage prompt they judge by; None for the whole prompt.
      select: which branches go on; None if all do, and then nothing is decoded or scored.
    """

    segments: Sequence[int]
    children: int = 1
    propose: Literal["fresh"] = "fresh"
    estimate: Literal["committed"] = "committed"
    judges: Literal["panel", "image"] = "panel"
    stage: int | None = None
    select: "Selection | None" = None


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """The most that one round can take.

    Attributes:
      parents: branches it starts with.
      width: branches it makes.
      kept: branches it passes on.
      advances: segments it adds to branches.
      nfe: denoiser calls.
      decodes: estimates decoded; every judge scores as many.
    """

    parents: int
    width: int
    kept: int
    advances: int
    nfe: int
    decodes: int


def plan(rounds: Sequence[Round], generator: Generator) -> tuple[RoundPlan, ...]:
    """Checks a search and says what it takes at most, with no model run.

    Args:
      rounds: the search.
      generator: only `num_segments` and `nfe` are asked.

    Raises:
      SearchConfigError: the rounds do not make whole videos, or one of them is impossible.
    """
    plans, parents, done = [], 1, 0
    for index, r in enumerate(rounds):
        segments = list(r.segments)
        if not segments or segments != list(range(done, done + len(segments))):
            raise SearchConfigError(f"round {index} advances {segments} after {done} segments")
        if segments[-1] >= generator.num_segments:
            raise SearchConfigError(
                f"round {index} advances segment {segments[-1]} of a video of "
                f"{generator.num_segments} segments"
            )
        if r.children < 1:
            raise SearchConfigError(f"round {index} gives every branch {r.children} children")
        width = parents * r.children
        if r.select is not None and r.select.least > width:
            raise SearchConfigError(
                f"round {index} keeps {r.select.least} branches out of at most {width}"
            )
        kept = width if r.select is None else r.select.most(parents, r.children)
        plans.append(
            RoundPlan(
                parents=parents,
                width=width,
                kept=kept,
                advances=width * len(segments),
                nfe=width * sum(generator.nfe(segment) for segment in segments),
                decodes=0 if r.select is None else width,
            )
        )
        parents, done = kept, done + len(segments)
    if done < generator.num_segments:
        raise SearchConfigError(f"the rounds make {done} of {generator.num_segments} segments")
    if rounds[-1].select is None:
        raise SearchConfigError("the last round selects no winner")
    return tuple(plans)
