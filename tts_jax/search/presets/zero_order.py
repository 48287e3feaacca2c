"""Zero-order search."""

from typing import Any

import numpy as np

from tts_jax.search.paths import Move
from tts_jax.search.presets.common import at_least, fields, within
from tts_jax.search.rounds import Outline, Round, Rounds
from tts_jax.search.selection import ranked
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(neighbours=4, iterations=4, strength=0.95)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Zero-order search in noise space (arXiv 2501.09732).

    A pivot, at first a sample, has N neighbours on the sphere of its noise, all of whose draws are
    moved by the same angle; the best of them and the pivot is the next pivot. Published: N 2
    (4 in code), cosine of the angle 0.95.

    NFE: (1 + I * N) * T for I iterations, decodes and calls of each verifier 1 + I * N, since the
    pivot's video and its score, the panel's weighted sum, are kept: published codes run it again,
    I * (N + 1) * T.

    Args:
      config: `neighbours`, N; `iterations`, I; `strength`, the cosine (0.95).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers below 1, a strength outside [0, 1].
    """
    own = fields(config, FIELDS)
    at_least(1, neighbours=own.neighbours, iterations=own.iterations)
    within(0, 1, strength=own.strength)
    rest = (0,) * outline.num_segments
    pivot, tried = None, {}
    for _ in range(own.iterations):
        start = pivot.path[: -len(rest)] if pivot else ()
        first = tried.get(start, 0)
        tried[start] = first + own.neighbours
        moved = [
            (*start, Move("neighbour", index, 0, float(own.strength)), *rest)
            for index in range(first, first + own.neighbours)
        ]
        grown = yield Round(
            parents=[ROOT],
            to=outline.num_segments,
            along=moved if pivot else [rest, *moved],
            judges="panel",
            aggregation="sum",
            label="top_k(1)" if pivot else "",
        )
        pivot = ranked(grown if pivot is None else [*grown, pivot])[0]
