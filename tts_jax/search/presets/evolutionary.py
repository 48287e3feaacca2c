"""Evolutionary search."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tts_jax.search import paths
from tts_jax.search.paths import Move, Path
from tts_jax.search.presets.common import (
    at_least,
    check_depths,
    check_forks,
    fields,
    starts_unit,
    within,
)
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import ranked, share_of, tournament, worth
from tts_jax.search.tree import ROOT, Node

# Of the segments, and for each generation: as published for Wan2.1.
SCHEDULE = (0.1, 0.4, 0.6, 0.9)
SIZES = (10, 5, 5, 5, 5)


# With the values they have where a configuration has none.
FIELDS = dict(schedule=(), sizes=(), elites=2, tournament=0.9, mutation=0.2)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Evolutionary search (EvoSearch, arXiv 2505.17618).

    Depths t[0] < t[1] < ... are visited in turn. Generation 0 runs from the start to the end;
    generation g + 1 runs from depth t[g] to the end, and consists of the elites among all states at
    t[g] that any generation has passed through, which run on with fresh noise, and of mutants, each
    of the winner of a tournament: the best of a random share of those states. A state is worth the
    video that it became, by the panel's weighted sum. Mutants have
      at depth 0   noise sqrt(1 - beta^2) x + beta * eps, on the sphere of x
      inside units the state x + beta * sigma * eps, sigma being that of the noise level
      between them a new next unit, for there is no noise to mutate.
    At depth 0, where elites would be the same video again, they are mutated too.

    NFE: k[0] * T + sum over g of k[g + 1] * (T - t[g]) for generations of k[g]: 1000 for T 50, t
    5, 20, 30, 45 and k 10, 5, 5, 5, 5. Decodes and calls of each verifier: the sum of k.
    Published: those (Wan), or 5, 20, 30, 40 and 14, 7, 7, 7, 10 (FLUX); beta 0.2; 2 elites (Wan),
    3 (FLUX) or 5 (SD); tournaments of 0.9, which the best state mostly wins.

    Args:
      config: `schedule`, t, in segments; `sizes`, k, one more; `elites`; `tournament`, the share;
        `mutation`, beta.
      outline: of the generator.
      rng: draws once per mutant.

    Raises:
      SearchConfigError: fields that do not fit together, or what the generator cannot do.
    """
    own = fields(config, FIELDS)
    total = outline.num_segments
    schedule = tuple(own.schedule) or tuple(
        sorted({t for part in SCHEDULE if (t := math.floor(part * total + 0.5)) < total})
    )
    sizes = tuple(own.sizes) or SIZES[: len(schedule) + 1]
    _check(own, schedule, sizes, outline)

    # A state is what its video has proved worth. At depth 0 it is the path of its first segment.
    states: dict[int, list[Node]] = {depth: [] for depth in schedule}
    passed: dict[Path, Node] = {}
    moves, children = Counter(), Counter()
    parents, begun, label = [ROOT], [(child,) for child in range(sizes[0])], ""
    for generation, depth in enumerate((*schedule, total)):
        start = schedule[generation - 1] if generation else 0
        for stop in (*(t for t in schedule[generation:] if t > start), total):
            nodes = yield Round(
                parents=parents,
                to=stop,
                along=[(*path, *[0] * (stop - paths.depth(path))) for path in begun],
                judges="panel" if stop == total else None,
                aggregation="sum",
                hold=[node for node in passed.values() if node.depth >= depth],
                label=label,
            )
            if stop < total:
                passed |= {node.path: node for node in nodes}
            parents, begun, label = nodes, [node.path for node in nodes], ""
        for t in schedule[generation:]:
            for node in nodes:
                path = node.path[: len(node.path) - (total - max(t, 1))]
                states[t].append(Node(path, (), -1, value=worth(node)))
        if depth == total:
            return

        size = sizes[generation + 1]
        elites = ranked(states[depth])[: min(own.elites, size)]
        winners = [
            tournament(states[depth], own.tournament, rng) for _ in range(size - len(elites))
        ]
        begun = []
        for state in elites + winners:
            path = state.path
            if depth and (len(begun) < len(elites) or starts_unit(outline, depth)):
                children[path] += 1  # the first, 0, is the state's own video
                begun.append((*path, children[path]))
            elif depth:
                begun.append((*path, Move("renoise", moves[path], depth, float(own.mutation))))
                moves[path] += 1
            else:
                link = Move("neighbour", moves[path[:-1]], 0, math.sqrt(1 - own.mutation**2))
                begun.append((*path[:-1], link, path[-1]))
                moves[path[:-1]] += 1
        parents = (
            [passed[path] for path in {s.path: 0 for s in elites + winners}] if depth else [ROOT]
        )
        label = f"elites({len(elites)}), tournament({own.tournament:g})"


def _check(own: Any, schedule: Sequence[int], sizes: Sequence[int], outline: Outline) -> None:
    check_depths(schedule, outline, name="schedule", least=0)
    if len(sizes) != len(schedule) + 1:
        raise SearchConfigError(
            f"sizes has {len(sizes)} entries for {len(schedule)} depths, but needs one more"
        )
    at_least(1, **{"the least of sizes": min(sizes)})
    at_least(0, elites=own.elites)
    share_of(1, own.tournament)
    within(0, 1, mutation=own.mutation)
    if own.elites:
        check_forks(outline, schedule)
    inside = [depth for depth in schedule if not starts_unit(outline, depth)]
    if inside and not outline.renoises:
        raise SearchConfigError(
            f"schedule {list(schedule)} mutates states inside a unit, but this generator cannot "
            "add noise to its states"
        )
