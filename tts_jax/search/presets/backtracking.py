"""Temporal backtracking."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tts_jax.search.paths import Path
from tts_jax.search.presets.common import at_least, fields
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import ranked, worth
from tts_jax.search.tree import ROOT, Node

# With the values they have where a configuration has none.
FIELDS = dict(branches=4, restarts=3, children=2, tolerance=0.0)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Temporal backtracking search (arXiv 2606.13861).

    N videos, judged after every unit. Then R times: the first bad unit of the best video is found,
    and K new continuations grow from the clean prefix before it, judged likewise. A unit is bad if
    the video up to it is worth less, by more than a tolerance, than the video before it; the first
    unit, if it is worth less than the best first unit. If none is bad, the one that lost most
    counts. Values are the panel's weighted sums. A video of one unit starts anew each time.

    NFE: N * T + sum over restarts of K * (T - T'), where T' is that of the clean prefix; at most
    (N + R * K) * T. Decodes and calls of each verifier: N * U + sum over restarts of K * (U - U')
    for U units.

    Args:
      config: `branches`, N; `restarts`, R; `children`, K; `tolerance` (0).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers that are too small.
    """
    own = fields(config, FIELDS)
    at_least(1, branches=own.branches, children=own.children)
    at_least(0, restarts=own.restarts)
    if own.tolerance < 0:
        raise SearchConfigError(f"tolerance is {own.tolerance}, but it is at least 0")

    ends = (0, *outline.unit_ends)
    tried: dict[Path, int] = {}  # children made of each prefix
    prefixes: dict[Path, Node] = {(): ROOT}
    best, first, unit, children = None, -math.inf, 0, own.branches
    for _ in range(1 + own.restarts):
        live = [prefixes[best.path[: ends[unit]] if best else ()]]
        for end in ends[unit + 1 :]:
            index = tried.get(live[0].path, 0) if len(live) == 1 else 0
            live = yield Round(
                parents=live,
                to=end,
                children=children,
                first_child=index,
                judges="panel",
                aggregation="sum",
                hold=[node for path, node in prefixes.items() if path],
                label="first bad unit" if best and end == ends[unit + 1] else "",
            )
            for node in live:
                tried[node.parent] = max(tried.get(node.parent, 0), index + children)
                prefixes[node.path] = node
            children = 1
            if end == ends[1]:
                first = max(first, *map(worth, live))
        best = ranked(live if best is None else [*live, best])[0]
        prefixes = {path: node for path, node in prefixes.items() if best.path[: len(path)] == path}
        values = [worth(prefixes[best.path[:end]]) for end in ends[1:]]
        unit, children = first_bad_unit([first, *values], own.tolerance), own.children


def first_bad_unit(values: Sequence[float], tolerance: float) -> int:
    """The first unit that lost more than a tolerance; if there is none, that which lost most.

    Args:
      values: before the first unit and after each, possibly -inf.
      tolerance: at least 0.
    """
    losses = [0.0 if before == after else before - after for before, after in pairwise(values)]
    bad = [unit for unit, loss in enumerate(losses) if loss > tolerance]
    return bad[0] if bad else int(np.argmax(losses))
