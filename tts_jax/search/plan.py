"""What a search takes, told before anything runs and without a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

import numpy as np

from tts_jax.search.budget import Budget
from tts_jax.search.growth import children, growths
from tts_jax.search.ledger import Cost
from tts_jax.search.loop import drive
from tts_jax.search.paths import links
from tts_jax.search.presets import Preset
from tts_jax.search.rounds import Outline, Round
from tts_jax.search.tree import Node


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """What one round takes.

    Attributes:
      parents: branches it starts from.
      children: the most children of one of them.
      width: branches it makes.
      start, to: segments done before, by the parent that has the fewest, and after it.
      advances: segments it adds to branches.
      decodes: estimates decoded; each judge scores as many.
      judges, stage, label, fidelity: as in `Round`.
      links: the most neighbours on a path.
      cost: denoiser calls, and operations if they are known.
    """

    parents: int
    children: int
    width: int
    start: int
    to: int
    advances: int
    decodes: int
    judges: str | None
    stage: int | None
    label: str
    fidelity: str
    links: int
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """A search as it would go.

    Attributes:
      rounds: one entry per round.
      cut: whether the budget makes it smaller.
    """

    rounds: tuple[RoundPlan, ...]
    cut: bool

    @property
    def nfe(self) -> int:
        """Denoiser calls."""
        return sum(r.cost.nfe for r in self.rounds)

    @property
    def advances(self) -> int:
        """Segments added."""
        return sum(r.advances for r in self.rounds)

    @property
    def decodes(self) -> int:
        """Estimates decoded."""
        return sum(r.decodes for r in self.rounds)

    @property
    def flops(self) -> float:
        """Operations; 0 if unknown."""
        return sum(r.cost.flops + r.cost.padding_flops for r in self.rounds)


def plan(
    preset: Preset,
    outline: Outline,
    scores: Literal["distinct", "tied"] = "distinct",
    *,
    seed: int = 0,
    prompt_index: int = 0,
    budget: Budget | None = None,
    price: Callable[[Round], Cost] | None = None,
) -> Plan:
    """Runs a search on invented scores.

    Args:
      preset: the search.
      outline: of the generator.
      scores: "distinct", smaller paths are better; "tied", all are equal, so that rules which keep
        ties keep everything.
      seed, prompt_index: of the preset's own random choices.
      budget: limits.
      price: what a round takes; by default its denoiser calls alone.

    Raises:
      SearchConfigError: rounds that make no search, or a budget that no video fits.
    """
    pencil = _Pencil(outline, scores == "tied", price)
    record = drive(preset, pencil, seed=seed, prompt_index=prompt_index, budget=budget)
    return Plan(tuple(pencil.rounds), record.cut)


def bounds(preset: Preset, outline: Outline, **options) -> tuple[RoundPlan, ...]:
    """For each round the larger of the plans with and without ties; options as those of `plan`."""
    plans = [plan(preset, outline, scores, **options).rounds for scores in ("distinct", "tied")]
    return tuple(
        max((r for r in pair if r is not None), key=lambda r: r.width)
        for pair in zip_longest(*plans)
    )


def denoiser_calls(request: Round, outline: Outline) -> Cost:
    """What a round takes of denoiser calls, as the ledger counts them, look-aheads apart."""
    nfe = outline.nfe if request.fidelity == "full" else outline.draft_nfe
    made = children(request)
    cost = Cost(nfe=sum(g.width * nfe[g.depth] for g in growths(made) if not g.moves))
    if isinstance(request.estimate, int) and request.judges:
        cost.nfe += len(made) * outline.look_ahead(request.to - 1, request.estimate)
    return cost


@dataclass
class _Pencil:
    """Executes rounds by writing down what they would take."""

    outline: Outline
    tied: bool
    asked: Callable[[Round], Cost] | None
    rounds: list[RoundPlan] = field(default_factory=list)
    total: Cost = field(default_factory=Cost)

    def spent(self) -> Cost:
        return self.total

    def price(self, request: Round) -> Cost:
        if self.asked is not None:
            return self.asked(request)
        return denoiser_calls(request, self.outline)

    def execute(self, request: Round, nodes: Sequence[Node]) -> None:
        cost = self.price(request)
        self.total += cost
        made = children(request)
        steps = list(growths(made))
        siblings = [list(made.values()).count(parent) for parent in set(made.values())]
        self.rounds.append(
            RoundPlan(
                parents=len(request.parents),
                children=max(siblings),
                width=len(nodes),
                start=min(parent.depth for parent in request.parents),
                to=request.to,
                advances=sum(g.width for g in steps if not g.moves),
                decodes=len(nodes) if request.judges else 0,
                judges=request.judges,
                stage=request.stage,
                label=request.label,
                fidelity=request.fidelity,
                links=max(links(path) for path in made),
                cost=cost,
            )
        )
        for place, node in enumerate(nodes) if request.judges else ():
            node.value = 0.0 if self.tied else -float(place)

    def forget_all_but(self, nodes: Sequence[Node]) -> None:
        pass

    def values(self, nodes: Sequence[Node]) -> np.ndarray:
        return np.array([node.value for node in nodes])
