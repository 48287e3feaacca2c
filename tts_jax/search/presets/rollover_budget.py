"""Rollover budget forcing, in batches."""

import math
from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, check_forks, fields
from tts_jax.search.rounds import Outline, Round, Rounds
from tts_jax.search.selection import first_improving, ranked, worth
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(quota=50, batch=10)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Rollover budget forcing (arXiv 2503.19385), b children at a time.

    One chain. At every segment children are drawn until the clean estimate of one is worth more
    than that of the chain; the first such child goes on, and what is left of the segment's quota
    is added to the next one's. If none is, the best child goes on. At the first segment, where
    there is nothing to improve on, it is the best of one batch. Published: 10 steps of 50 on
    flow models, one child at a time; b at a time costs up to b - 1 children a segment that are
    drawn though not needed, and counts them.

    NFE: at most Q * T if segments cost the same, all of it unless the last segment's improve.
    Decodes and calls of each verifier: one per child, at most Q a segment on average. Values are
    the panel's weighted sums.

    Args:
      config: `quota`, Q children a segment; `batch`, b.
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers below 1, a fork that the generator has not.
    """
    own = fields(config, FIELDS)
    at_least(1, quota=own.quota, batch=own.batch)
    if own.quota > 1:
        check_forks(outline, range(outline.num_segments))
    current, threshold, left = ROOT, -math.inf, 0
    for depth in range(1, outline.num_segments + 1):
        left += own.quota
        drawn, best, found = 0, [], None
        while left and found is None:
            batch = min(own.batch, left)
            grown = yield Round(
                parents=[current],
                to=depth,
                children=batch,
                first_child=drawn,
                estimate="clean",
                judges="panel",
                aggregation="sum",
                hold=[current, *best],
                label="best" if drawn else "first_improving",
            )
            drawn, left = drawn + batch, left - batch
            best = ranked([*best, *grown])[:1]
            found = first_improving(grown if depth > 1 else best, threshold)
        current = found or best[0]
        threshold = worth(current)
