"""First rounds that several searches for one prompt have in common, made once.

A branch depends on (seed, prompt, path) alone, so that a search which begins as an earlier one of
the same panel did, or with fewer children, takes the branches that are there. Its ledger says what
it would have cost alone.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from tts_jax.search import Search
from tts_jax.search.growth import children
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.loop import Done
from tts_jax.search.pools import Name
from tts_jax.search.presets import Preset
from tts_jax.search.results import Saved, SearchResult
from tts_jax.search.rounds import Outline, Round, Rounds
from tts_jax.search.tree import Node

# Rounds of a search that are remembered: states are held on the host.
_ROUNDS = 4
# What a round of the same branches must share for their scores to be the same.
_ALIKE = ("to", "propose", "estimate", "judges", "stage", "aggregation", "fidelity")
_ONCE = ("text", "stage_prompts", "io")


class SharedRounds:
    """The searches for one prompt and seed by one panel.

    Attributes:
      taken: rounds so far that were not made again.
    """

    def __init__(self, search: Search, prompt: str, *, seed: int = 0, prompt_index: int = 0):
        """Knows no round yet.

        Args:
          search: the models.
          prompt: the text.
          seed: of everything random.
          prompt_index: the prompt's place among those of the run.
        """
        self._search, self._prompt = search, prompt
        self._options = dict(seed=seed, prompt_index=prompt_index)
        self._known: list[_Known] = []
        self.taken = 0

    def run(self, preset: Preset, stage_prompts: Sequence[str] = ()) -> SearchResult:
        """Searches, from the first round that no earlier search had; as `Search.run`.

        A search that needs more children than the earlier one, or branches which that one did not
        hold, makes its rounds itself: run the widest search first.
        """
        known = _Known(preset)
        begun = max((self._common(preset, other) for other in self._known), key=len, default={})
        known.saves.update(begun)
        self.taken += len(begun)
        result = self._search.run(
            self._prompt,
            known.record,
            stage_prompts=stage_prompts,
            keep_frames=False,
            store=known,
            **self._options,
        )
        self._known.append(known)
        return result

    def _common(self, preset: Preset, known: "_Known") -> dict[int, Saved]:
        """By the number of rounds, what a preset can begin with."""
        rounds = preset(self._search.outline, np.random.default_rng(list(self._options.values())))
        saves, done, ledger, answer = {}, [], Ledger(), None
        for number, before in enumerate(known.requests):
            try:
                request = rounds.send(answer)
            except StopIteration:
                break
            if number:
                states = known.saves[number].states
                needed = [n for n in (*request.parents, *request.hold) if n.path]
                names = [Name(node.fidelity, node.path) for node in needed]
                if not all(name in states for name in names):
                    break
                # All that was made is kept, for the search after this one.
                own = {Name(n.fidelity, n.path) for n in done[-1].nodes}
                states = {k: v for k, v in states.items() if k in own or k in names}
                saves[number] = Saved(list(done), states, copy.deepcopy(ledger))
            if number + 1 not in known.saves or not _begins(request, before):
                break
            answer, share = self._nodes(request, known.saves[number + 1].rounds[number])
            done.append(Done(request.label, answer))
            earlier = known.saves[number].ledger if number else Ledger()
            _charge(ledger, known.saves[number + 1].ledger, earlier, share)
        rounds.close()
        return saves

    def _nodes(self, request: Round, before: Done) -> tuple[list[Node], float]:
        """A round's nodes out of a wider one, and their share of it."""
        there = {node.path: node for node in before.nodes}
        nodes = [dataclasses.replace(there[path], kept=False) for path in children(request)]
        if len(nodes) < len(there) and request.judges:
            panel = self._search.judges[request.judges]
            scores = [[n.scores.get(name, np.nan) for name in panel.names] for n in nodes]
            values = panel.value(np.array(scores, np.float32), aggregation=request.aggregation)
            for node, value in zip(nodes, np.asarray(values), strict=True):
                node.value = float(value)
        return nodes, len(nodes) / len(there)


class _Known:
    """What a search has done, and the store it is run with.

    Attributes:
      requests: its rounds.
      saves: by the number of rounds done, the search then, with every branch of the last round.
    """

    def __init__(self, preset: Preset):
        self._preset = preset
        self.requests: list[Round] = []
        self.saves: dict[int, Saved] = {}

    def record(self, outline: Outline, rng: np.random.Generator) -> Rounds:
        """The preset, which also holds what its first rounds made."""
        rounds, self.requests = self._preset(outline, rng), []
        answer = None
        while True:
            try:
                request = rounds.send(answer)
            except StopIteration as stop:
                return stop.value
            self.requests.append(request)
            if answer and len(self.requests) <= _ROUNDS + 1:
                held = {id(node): node for node in (*request.hold, *answer)}
                answer = yield dataclasses.replace(request, hold=list(held.values()))
            else:
                answer = yield request

    def load(self) -> Saved | None:
        """What it begins with."""
        if not self.saves:
            return None
        saved = self.saves[max(self.saves)]
        return Saved(list(saved.rounds), saved.states, copy.deepcopy(saved.ledger))

    def save(self, saved: Saved) -> None:
        """Remembers the first rounds."""
        number = len(saved.rounds)
        if number <= _ROUNDS:
            self.saves[number] = Saved(saved.rounds, saved.states, copy.deepcopy(saved.ledger))


def _begins(request: Round, before: Round) -> bool:
    """Whether the branches of one round are among those of another, and judged alike."""
    alike = all(getattr(request, name) == getattr(before, name) for name in _ALIKE)
    theirs = children(before)
    return alike and all(theirs.get(path) == own for path, own in children(request).items())


def _charge(ledger: Ledger, after: Ledger, before: Ledger, share: float) -> None:
    """Adds the share of a round that lies between two ledgers."""
    for component in after:
        part = 1.0 if component in _ONCE else share
        spent, had = vars(after[component]), vars(before.costs.get(component, Cost()))
        cost = ledger[component]
        cost += Cost(**{k: type(v)(round((v - had[k]) * part, 9)) for k, v in spent.items()})
