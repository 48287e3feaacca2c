"""What a search takes, told before anything runs and without a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal, get_args

import numpy as np

from tts_jax.search.budget import Budget
from tts_jax.search.growth import children, growths
from tts_jax.search.ledger import Cost
from tts_jax.search.loop import drive
from tts_jax.search.paths import links
from tts_jax.search.presets import Preset
from tts_jax.search.rounds import Outline, Round
from tts_jax.search.tree import Node

Scores = Literal["distinct", "tied", "rising"]


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
    scores: Scores = "distinct",
    *,
    seed: int = 0,
    prompt_index: int = 0,
    budget: Budget | None = None,
    price: Callable[[Round, int], Cost] | None = None,
) -> Plan:
    """Runs a search on invented scores.

    Args:
      preset: the search.
      outline: of the generator.
      scores: "distinct", smaller paths are better; "tied", all are equal, so that rules which keep
        ties keep everything; "rising", every branch is better than all before it, so that moves
        are made of moves.
      seed, prompt_index: of the preset's own random choices.
      budget: limits.
      price: what a round takes, of its index; by default its denoiser calls alone.

    Raises:
      SearchConfigError: rounds that make no search, or a budget that no video fits.
    """
    pencil = _Pencil(outline, scores, price)
    record = drive(preset, pencil, seed=seed, prompt_index=prompt_index, budget=budget)
    return Plan(tuple(pencil.rounds), record.cut)


def bounds(preset: Preset, outline: Outline, **options) -> tuple[RoundPlan, ...]:
    """For each round the most that plans with all kinds of scores take; options as of `plan`."""
    plans = [plan(preset, outline, scores, **options).rounds for scores in get_args(Scores)]
    return tuple(_largest([r for r in each if r is not None]) for each in zip_longest(*plans))


def _largest(rounds: Sequence[RoundPlan]) -> RoundPlan:
    """The widest round, with the most parents and links of any."""
    most = {name: max(getattr(r, name) for r in rounds) for name in ("parents", "links")}
    return replace(max(rounds, key=lambda r: r.width), **most)


def denoiser_calls(request: Round, outline: Outline) -> Cost:
    """What a round takes of denoiser calls, as the ledger counts them, look-aheads apart.

    All children of a parent are taken to be advanced together.
    """
    nfe, shared = outline.nfe, outline.parent_nfe
    if request.fidelity == "draft":
        nfe, shared = outline.draft_nfe, ()
    made, cost = children(request), Cost()
    for growth in growths(made):
        if not growth.moves:
            cost.nfe += growth.width * nfe[growth.depth]
            if shared:
                cost.nfe -= (growth.width - len(growth.parents)) * shared[growth.depth]
        elif growth.steps[0][0].kind == "renoise":
            cost.nfe += growth.width * outline.renoise_nfe(growth.depth, growth.steps[0][0].to)
    if isinstance(request.estimate, int) and request.judges:
        cost.nfe += len(made) * outline.look_ahead(request.to - 1, request.estimate)
    return cost


@dataclass
class _Pencil:
    """Executes rounds by writing down what they would take."""

    outline: Outline
    scores: Scores
    asked: Callable[[Round, int], Cost] | None
    rounds: list[RoundPlan] = field(default_factory=list)
    total: Cost = field(default_factory=Cost)
    judged: int = 0

    def spent(self) -> Cost:
        return self.total

    def price(self, request: Round) -> Cost:
        if self.asked is not None:
            return self.asked(request, len(self.rounds))
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
            worth = {"distinct": -place, "tied": 0, "rising": place + self.judged}
            node.value = float(worth[self.scores])
        self.judged += len(nodes)

    def forget_all_but(self, nodes: Sequence[Node]) -> None:
        pass

    def values(self, nodes: Sequence[Node]) -> np.ndarray:
        return np.array([node.value for node in nodes])
