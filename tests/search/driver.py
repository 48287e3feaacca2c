"""Drives a preset by hand, to see what it asks for and what that costs.

Rounds are carried out by the words of `Round` alone; no code is shared with the loop.
"""

import math
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from tts_jax.search import ROOT, Move, Neighbour, Node, Outline, Renoise, load_preset, paths

CHAIN = Outline(
    units=(10,),
    nfe=(3, *[2] * 9),
    stochastic=True,
    renoises=True,
    look_ahead=lambda segment, steps: steps,
    draft_nfe=(1,) * 10,
)
UNITS = Outline(units=(1,) * 5, nfe=(4, 3, 3, 3, 3), draft_nfe=(1,) * 5)
LONG_UNITS = Outline(
    units=(3,) * 5,
    nfe=(2,) * 15,
    stochastic=True,
    renoises=True,
    look_ahead=lambda segment, steps: steps,
    draft_nfe=(1,) * 15,
)
SIXTEEN = Outline(units=(1,) * 16, nfe=(1,) * 16, draft_nfe=(1,) * 16)
OUTLINES = {"chain": CHAIN, "units": UNITS, "long": LONG_UNITS, "sixteen": SIXTEEN}


def tied(path):
    return 0.0


def falling(path):
    """Smaller paths are better."""
    return -float(sum((0 if isinstance(s, Move) else s) * 0.1**i for i, s in enumerate(path)))


def hashed(path, seed=0):
    return random.Random(f"{seed} {path}").gauss(0, 1)


def broken(path):
    value = hashed(path)
    return value if value > 0 else (math.nan, -math.inf, None)[int(-value * 1000) % 3]


SCORES = {score.__name__: score for score in (tied, falling, hashed, broken)}


@dataclass
class Run:
    """What a driven search did."""

    rounds: list = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    advances: int = 0
    nfe: int = 0
    decodes: int = 0
    weights: dict | None = None
    videos: list[Node] = field(default_factory=list)
    nodes: list[list[Node]] = field(default_factory=list)


def settle(preset, **fields):
    """A preset's search with such a configuration."""
    return load_preset(SimpleNamespace(preset=preset, **fields))


def run(preset, outline, score=hashed, seed=0, cut=None, **fields):
    """Drives a preset and checks every round on the way.

    Args:
      cut: of each round, how large a share of its children a budget lets through, at random.
    """
    rng, result = random.Random(seed), Run()
    rounds = settle(preset, **fields)(outline, np.random.default_rng(seed))
    held, made_before, answer = set(), {}, None
    unit_starts = {0, *outline.unit_ends}
    while True:
        try:
            request = rounds.send(answer)
        except StopIteration as stop:
            result.weights = stop.value
            break
        full = request.fidelity == "full"
        name = lambda node, f=request.fidelity: (node.fidelity, node.path)  # noqa: E731
        for node in [*request.parents, *request.hold]:
            assert node is ROOT or name(node) in held, "a state that was forgotten"
        assert len({p.path for p in request.parents}) == len(request.parents) > 0
        assert 0 < request.to <= outline.num_segments
        if isinstance(request.propose, Neighbour):
            assert 0 <= request.propose.strength <= 1
        if isinstance(request.estimate, int):
            assert outline.look_ahead and request.estimate > 1 and request.judges

        made = _children(request)
        for path in made:
            _check_steps(path, outline, unit_starts)
            assert paths.depth(path) == request.to
        grown, nfe = {p.path for p in request.parents}, outline.nfe if full else outline.draft_nfe
        cost = {(): 0}
        for path in made:
            for end in range(len(made[path]) + 1, len(path) + 1):
                if path[:end] not in grown and not isinstance(path[end - 1], Move):
                    depth = paths.depth(path[: end - 1])
                    cost[path[:end]] = nfe[depth]
                    siblings = made_before.setdefault((request.fidelity, path[: end - 1]), set())
                    siblings.add(path[end - 1])
                    if depth not in unit_starts:
                        assert len(siblings) == 1 or outline.stochastic, "a fork that is none"
                grown.add(path[:end])
            again = (request.fidelity, path, "end")
            assert again not in made_before or path == made[path], "the same branch twice"
            made_before[again] = set()
        if cut:
            keep = rng.sample(range(len(made)), max(1, round(cut * rng.random() * len(made))))
            made = {path: made[path] for i, path in enumerate(made) if i in keep}
        answer = [Node(path, made[path], len(result.rounds)) for path in made]
        for node in answer:
            node.fidelity = request.fidelity
            if request.judges:
                node.value, node.scores = score(node.path), {"a": 1.0, "b": 0.0}
                if full and request.to == outline.num_segments and request.judges == "panel":
                    result.videos.append(node)
        held = {name(node) for node in [*answer, *request.hold]}
        result.rounds.append(request)
        result.nodes.append(answer)
        result.widths.append(len(made))
        result.advances += len(cost) - 1
        result.nfe += sum(cost.values())
        if request.judges:
            result.decodes += len(made)
            if isinstance(request.estimate, int):
                result.nfe += len(made) * outline.look_ahead(request.to - 1, request.estimate)
    assert result.videos, "no video to choose from"
    return result


def _children(request):
    if request.along:
        begin = {
            tuple(path): max(
                (p.path for p in request.parents if tuple(path[: len(p.path)]) == p.path), key=len
            )
            for path in request.along
        }
        assert len(begin) == len(request.along)
    else:
        begin = {}
        for i, parent in enumerate(request.parents):
            count, first = (
                n if isinstance(n, int) else n[i] for n in (request.children, request.first_child)
            )
            assert count >= 1 and first >= 0
            for index in range(first, first + count):
                if isinstance(request.propose, Neighbour):
                    step = Move("neighbour", index, 0, request.propose.strength)
                elif isinstance(request.propose, Renoise):
                    step = Move("renoise", index, request.propose.to, request.propose.strength)
                else:
                    step = index
                path = (*parent.path, step)
                begin[(*path, *[0] * (request.to - paths.depth(path)))] = parent.path
    return {path: begin[path] for path in sorted(begin, key=paths.order)}


def _check_steps(path, outline, unit_starts):
    for end, step in enumerate(path):
        if isinstance(step, Move) and step.kind == "renoise":
            depth = paths.depth(path[:end])
            assert outline.renoises and 0 < step.to <= depth
            assert not unit_starts & set(range(step.to, depth)) and step.to not in unit_starts
        elif isinstance(step, Move):
            assert paths.depth(path[:end]) in unit_starts


def tree_fields(outline):
    units = len(outline.units)
    return dict(
        branching=(4, *[1] * (units - 2), 2)[-units:],
        images=((1, 3, *[2] * units))[:units],
        judge_depths=tuple(range(1, units - 1, 2)),
        rule="median",
        keep=(3,) * len(range(1, units - 1, 2)),
    )


def fields_of(preset, outline):
    return tree_fields(outline) if preset == "tree_of_frames" else {}


ONE = {name: sum(outline.nfe) for name, outline in OUTLINES.items()}  # NFE of a video
