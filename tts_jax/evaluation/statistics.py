"""Intervals, tests and fits by which searches are compared.

P prompts  S seeds  K costs. Seeds of a prompt are draws within it: what is resampled are prompts,
each with all its seeds, whose spread is then in that of the prompts' means.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EXACT = 14  # up to so many prompts all signs are tried
_RATIOS = np.linspace(0.02, 0.98, 97)


def prompt_means(values: Sequence) -> np.ndarray:
    """Means over seeds.

    Args:
      values: [P] one figure per prompt, or [P, S] where NaN is a seed that is missing.

    Returns:
      [P] float64.

    Raises:
      ValueError: no values, or a prompt without any.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("an interval needs at least one value")
    if values.ndim == 1:
        return values
    known = ~np.isnan(values)
    if not known.any(1).all():
        raise ValueError("a prompt has no value for any seed")
    return np.where(known, values, 0.0).sum(1) / known.sum(1)


def bootstrap_means(values: Sequence, *, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means of resampled prompts; of a single prompt, the means of its resampled seeds.

    Args:
      values: [P] or [P, S], see `prompt_means`.
      draws: resamples, D.
      seed: of the resampling; equal seeds choose the same prompts of equally many.

    Returns:
      [D] float64.

    Raises:
      ValueError: no values, or a prompt without any.
    """
    means = prompt_means(values)
    if len(means) == 1:
        means = np.ravel(np.asarray(values, np.float64))
        means = means[~np.isnan(means)]
    rng = np.random.default_rng(seed)
    return means[rng.integers(len(means), size=(draws, len(means)))].mean(1)


def bootstrap_interval(
    values: Sequence, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over prompts and seeds.

    Args:
      values: [P] or [P, S], see `prompt_means`.
      level: coverage.
      draws: resamples.
      seed: of the resampling; equal seeds give equal intervals.

    Returns:
      Lower and upper end.

    Raises:
      ValueError: no values, or a prompt without any.
    """
    return _ends(bootstrap_means(values, draws=draws, seed=seed), level)


def _ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two searches on the same prompts.

    Attributes:
      difference: mean of the second less the first.
      interval: of the difference, 95 %.
      p_value: two-sided, of a test that flips the signs of the prompts' differences.
      wins, ties, losses: prompts where the second is above, equal, below.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    ties: int
    losses: int


def paired_test(
    first: Sequence, second: Sequence, *, draws: int = 10_000, seed: int = 0
) -> Comparison:
    """Whether one search is better than another on the prompts that both had.

    The test is exact for few prompts (all signs are tried), else by random signs.

    Args:
      first, second: [P] or [P, S], the same prompts and seeds in the same order.
      draws: resamples, and random signs.
      seed: of both.

    Raises:
      ValueError: shapes that differ, or no values.
    """
    first, second = (np.asarray(values, np.float64) for values in (first, second))
    if first.shape != second.shape:
        raise ValueError(
            f"a paired test needs the same prompts and seeds, not {list(first.shape)} and "
            f"{list(second.shape)}"
        )
    change = prompt_means(second - first)
    rounded = np.round(change, 12)
    moved = change[rounded != 0]
    if not len(moved):
        p_value = 1.0
    elif len(moved) <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(moved))))
        p_value = _as_far(signs, moved).mean()
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(draws, len(moved)))
        p_value = (_as_far(signs, moved).sum() + 1) / (draws + 1)
    return Comparison(
        difference=float(change.mean()),
        interval=bootstrap_interval(second - first, draws=draws, seed=seed),
        p_value=float(p_value),
        wins=int((rounded > 0).sum()),
        ties=int((rounded == 0).sum()),
        losses=int((rounded < 0).sum()),
    )


def _as_far(signs: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9


def selection_efficiency(picked: float, chance: float, best: float) -> float:
    """Share of the way from a random choice to the best one, (picked - chance) / (best - chance).

    NaN when there is no way to go.
    """
    return (picked - chance) / (best - chance) if best > chance else float("nan")


def efficiency_interval(
    picked: Sequence,
    chance: Sequence,
    best: Sequence,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the selection efficiency.

    Args:
      picked, chance, best: [P] or [P, S], the same prompts and seeds in the same order.
      level: coverage.
      draws: resamples; those with no way to go are left out.
      seed: of the resampling.

    Returns:
      Lower and upper end; NaN when there is nowhere a way to go.
    """
    picked, chance, best = (
        bootstrap_means(values, draws=draws, seed=seed) for values in (picked, chance, best)
    )
    way = best - chance
    open_ = way > 1e-12
    if not open_.any():
        return float("nan"), float("nan")
    return _ends((picked - chance)[open_] / way[open_], level)


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """Quality that approaches a limit: q(c) = limit - gap * ratio^log2(c / c0), c0 the least cost.

    Attributes:
      limit: quality without end of compute.
      interval: of the limit, 95 %.
      gap: how far the limit lies above the quality at the least cost.
      ratio: what each doubling of the cost leaves of the gap.
      reached: share of the gap that the greatest cost has closed.
      residual: root mean square of what the fit leaves.
    """

    limit: float
    interval: tuple[float, float]
    gap: float
    ratio: float
    reached: float
    residual: float


def fit_saturation(
    costs: Sequence[float],
    values: Sequence,
    *,
    ceiling: float | None = None,
    draws: int = 1_000,
    seed: int = 0,
) -> Saturation:
    """Fits a geometric approach to a limit, by least squares over a grid of ratios.

    Args:
      costs: [K] at least three, positive and different.
      values: [K, P] or [K, P, S], quality of the same prompts and seeds at each cost.
      ceiling: the best quality there can be, such as 1 for shares.
      draws: resamples for the interval.
      seed: of the resampling.

    Raises:
      ValueError: fewer than three costs, or some that are not positive and different.
    """
    costs = np.asarray(costs, np.float64)
    if len(costs) < 3 or len(set(costs.tolist())) < len(costs) or costs.min() <= 0:
        raise ValueError(f"a saturation fit needs three different positive costs, not {costs}")
    doublings = np.log2(costs / costs.min())
    means = np.array([prompt_means(row).mean() for row in values])
    resampled = np.array([bootstrap_means(row, draws=draws, seed=seed) for row in values]).T
    (limit,), (gap,), (ratio,), (error,) = _geometric(doublings, means[None], ceiling)
    limits, *_ = _geometric(doublings, resampled, ceiling)
    return Saturation(
        limit=float(limit),
        interval=_ends(limits, 0.95),
        gap=float(gap),
        ratio=float(ratio),
        reached=float(1 - ratio ** doublings.max()),
        residual=float(np.sqrt(error / len(costs))),
    )


def _geometric(
    doublings: np.ndarray, quality: np.ndarray, ceiling: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Limits, gaps, ratios and squared errors, [D] each, of curves [D, K]."""
    powers = _RATIOS[:, None] ** doublings
    centred = powers - powers.mean(1, keepdims=True)
    mean = quality.mean(1)
    slopes = (quality - mean[:, None]) @ centred.T / (centred**2).sum(1)
    gaps = np.maximum(-slopes, 0.0)
    limits = mean[:, None] + gaps * powers.mean(1)
    if ceiling is not None:
        over = limits > ceiling
        pinned = np.maximum((ceiling - quality) @ powers.T / (powers**2).sum(1), 0.0)
        limits, gaps = np.where(over, ceiling, limits), np.where(over, pinned, gaps)
    rest = quality[:, None] - limits[..., None] + gaps[..., None] * powers
    errors = (rest**2).sum(-1)
    best = errors.argmin(1)
    rows = np.arange(len(quality))
    return limits[rows, best], gaps[rows, best], _RATIOS[best], errors[rows, best]
