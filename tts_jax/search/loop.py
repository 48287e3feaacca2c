"""The one loop of every search: it asks a preset for rounds, and has them executed.

What executes a round may be devices (`engine`) or a pencil (`plan`); the loop knows only what it
costs and what comes of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from tts_jax.search import paths
from tts_jax.search.budget import Budget, first_children, largest_part
from tts_jax.search.growth import check, children
from tts_jax.search.ledger import Cost
from tts_jax.search.paths import Path
from tts_jax.search.presets import Preset
from tts_jax.search.rounds import Outline, Round, SearchConfigError
from tts_jax.search.selection import ranked
from tts_jax.search.tree import ROOT, Node

# Labels the video that tells a budget in seconds how long videos take.
MEASURED = "measured first"


class Executor(Protocol):
    """What the loop has rounds executed by."""

    outline: Outline

    def spent(self) -> Cost:
        """The cost so far."""
        ...

    def price(self, request: Round) -> Cost:
        """What a round takes at most."""
        ...

    def execute(self, request: Round, nodes: Sequence[Node]) -> None:
        """Makes the nodes' branches, and fills in scores and values if the round is judged."""
        ...

    def forget_all_but(self, nodes: Sequence[Node]) -> None:
        """Drops every other state."""
        ...

    def values(self, nodes: Sequence[Node]) -> np.ndarray:
        """The panel's values of judged videos of any rounds beside each other, [W] float."""
        ...


@dataclass(frozen=True)
class Done:
    """A round that has been executed.

    Attributes:
      label: of the round.
      nodes: what came of it.
    """

    label: str
    nodes: Sequence[Node]


@dataclass
class Record:
    """What a search has done.

    Attributes:
      nodes: every branch at the end of every round.
      requests: the rounds, as far as the budget let them.
      incumbents: the best video so far, after each round that made one or changed it.
      cut: whether the budget ended the search or made a round smaller.
      weights: log-weights of complete videos, if the preset has any.
    """

    nodes: list[Node] = field(default_factory=list)
    requests: list[Round] = field(default_factory=list)
    incumbents: list[Node] = field(default_factory=list)
    cut: bool = False
    weights: dict[Path, float] | None = None

    def done(self) -> list[Done]:
        """The rounds with their nodes."""
        nodes: list[list[Node]] = [[] for _ in self.requests]
        for node in self.nodes:
            nodes[node.round].append(node)
        return [Done(r.label, own) for r, own in zip(self.requests, nodes, strict=True)]

    def candidates(self, num_segments: int) -> list[Node]:
        """The judged whole videos."""
        return [
            node
            for node in self.nodes
            if node.depth == num_segments and node.value is not None and node.fidelity == "full"
        ]


def drive(
    preset: Preset,
    executor: Executor,
    *,
    seed: int = 0,
    prompt_index: int = 0,
    budget: Budget | None = None,
    recorded: Sequence[Done] = (),
    resumed: Callable[[], None] | None = None,
    after_round: Callable[[Record], None] | None = None,
) -> Record:
    """Runs a search to its end, or to the end of its budget.

    A round that the budget does not allow is made smaller; when nothing of it fits, the best branch
    so far is finished, for which enough is kept back all the time.

    Args:
      preset: the search.
      executor: executes rounds.
      seed, prompt_index: of the preset's own random choices.
      budget: limits.
      recorded: rounds that an earlier start has executed.
      resumed: called when those are at an end, before the next round.
      after_round: called with the record before each further round, when the executor holds what
        that round needs and nothing else.

    Raises:
      SearchConfigError: rounds that make no search, or not the recorded one, or a budget that no
        video fits.
    """
    outline, budget = executor.outline, budget or Budget()
    rounds = preset(outline, np.random.default_rng([seed, prompt_index]))
    loop = _Loop(executor, budget, Record(), list(recorded), resumed, after_round)
    if recorded[0].label == MEASURED if recorded else budget.seconds and not loop.measured():
        loop.round(_whole_video([ROOT], outline, MEASURED))
    answer = None
    while True:
        try:
            request = rounds.send(answer)
        except StopIteration as stop:
            loop.record.weights = stop.value
            break
        answer = loop.round(request)
        if answer is None:
            rounds.close()
            break
    record = loop.record
    if not record.candidates(outline.num_segments):
        if not record.cut:
            raise SearchConfigError("the search ends without a judged whole video")
        for branch in loop.branches():
            if loop.round(_whole_video([branch], outline, "budget"), reserve=False):
                break
    for node in record.incumbents[-1:]:
        node.kept = True
    return record


def _whole_video(parents: list[Node], outline: Outline, label: str) -> Round:
    return Round(parents=parents, to=outline.num_segments, judges="panel", label=label)


@dataclass
class _Loop:
    executor: Executor
    budget: Budget
    record: Record
    recorded: list[Done]
    resumed: Callable[[], None] | None
    after_round: Callable[[Record], None] | None
    live: list[Node] = field(default_factory=list)
    held: list[Node] = field(default_factory=list)

    def measured(self) -> bool:
        return bool(getattr(self.executor, "measured", True))

    def round(self, request: Round, reserve: bool = True) -> list[Node] | None:
        """Executes a round, or what fits of it; None if nothing does."""
        record, outline = self.record, self.executor.outline
        check(request, outline, len(record.requests))
        known = {(n.fidelity, n.path) for n in self.live + self.held}
        for node in [*request.parents, *request.hold]:
            if node.path and (node.fidelity, node.path) not in known:
                raise SearchConfigError(
                    f"round {len(record.requests)} goes on from {paths.to_json(node.path)}, "
                    "which no longer exists"
                )
        number = len(record.requests)
        done = self.recorded[number] if number < len(self.recorded) else None
        if done:
            request = self._as_executed(request, done)
        else:
            if number == len(self.recorded) and self.resumed:
                self.resumed()
            request = self._affordable(request, reserve)
            if request is None:
                record.cut = True
                return None
        held = [n for n in {id(n): n for n in [*request.parents, *request.hold]}.values() if n.path]
        for node in held:
            node.kept = True
        if done:
            nodes = list(done.nodes)
        else:
            self.executor.forget_all_but(held)
            if self.after_round and number > len(self.recorded):
                self.after_round(record)
            nodes = [
                Node(path, parent, number, fidelity=request.fidelity)
                for path, parent in children(request).items()
            ]
            self.executor.execute(request, nodes)
            self.executor.forget_all_but([*nodes, *request.hold])
        record.requests.append(request)
        record.nodes += nodes
        self.live, self.held = nodes, list(request.hold)
        self._crown(nodes)
        return nodes

    def _as_executed(self, request: Round, done: Done) -> Round:
        """The part of a round that an earlier start could afford."""
        part = request
        if len(done.nodes) < len(children(request)):
            part = first_children(request, len(done.nodes))
            self.record.cut = True
        if done.label != part.label or list(children(part)) != [n.path for n in done.nodes]:
            raise SearchConfigError(
                f"round {len(self.record.requests)} is not the one that was saved; the search has "
                "changed and must start anew"
            )
        return part

    def branches(self) -> list[Node]:
        """What may be finished at the end of the budget, from best to worst.

        The best may be one to which the search went back, too far from the end.
        """
        full = [node for node in self.live + self.held if node.fidelity == "full"]
        return [*ranked(full), ROOT]

    def _affordable(self, request: Round, reserve: bool) -> Round | None:
        if not self.budget:
            return request
        spent, last = self.executor.spent(), self.executor.outline.num_segments

        def fits(part: Round) -> bool:
            cost = replace(spent)
            cost += self.executor.price(part)
            if reserve and not self._finishes(part):
                start = [Node((0,) * part.to, (), 0)] if part.fidelity == "full" else [ROOT]
                if part.to < last or part.fidelity != "full":
                    cost += self.executor.price(_whole_video(start, self.executor.outline, ""))
            return self.budget.allows(cost)

        part = largest_part(request, fits)
        if part is not request:
            self.record.cut = True
        if part is None and not self.record.requests:
            cost = replace(spent)
            cost += self.executor.price(_whole_video([ROOT], self.executor.outline, ""))
            if not self.budget.allows(cost):
                raise SearchConfigError(
                    f"the budget is too small for one video: {self.budget.describe(cost)}"
                )
        return part

    def _finishes(self, part: Round) -> bool:
        last = self.executor.outline.num_segments
        whole = part.to == last and part.judges is not None and part.fidelity == "full"
        return whole or bool(self.record.candidates(last))

    def _crown(self, nodes: Sequence[Node]) -> None:
        """Lets the best of some new videos challenge the incumbent."""
        record = self.record
        candidates = record.candidates(self.executor.outline.num_segments)
        if not any(node in candidates for node in nodes):
            return
        values = self.executor.values(candidates)
        ranked = sorted(
            range(len(candidates)),
            key=lambda i: (-_comparable(values[i]), paths.order(candidates[i].path)),
        )
        best = candidates[ranked[0]]
        if record.incumbents:
            incumbent = record.incumbents[-1]
            now = values[next(i for i, n in enumerate(candidates) if n is incumbent)]
            if not _comparable(values[ranked[0]]) > _comparable(now):
                best = incumbent
        if not record.incumbents or best is not record.incumbents[-1]:
            record.incumbents.append(best)


def _comparable(value: float | None) -> float:
    return -np.inf if value is None or np.isnan(value) else float(value)
