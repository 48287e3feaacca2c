"""Intervals and ratios by which searches are compared.

P prompts.
"""

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over prompts.

    Args:
      values: [P] one figure per prompt.
      level: coverage.
      draws: resamples.
      seed: of the resampling; equal seeds give equal intervals.

    Returns:
      Lower and upper end.

    Raises:
      ValueError: no values.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("an interval needs at least one value")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def selection_efficiency(picked: float, chance: float, best: float) -> float:
    """Share of the way from a random choice to the best one, (picked - chance) / (best - chance).

    NaN when there is no way to go.
    """
    return (picked - chance) / (best - chance) if best > chance else float("nan")
