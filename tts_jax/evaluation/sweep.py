"""From the rows of a sweep to what they say: curves, fits, tests and tables.

P prompts  S seeds  N candidates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from tts_jax.evaluation.selection import (
    ATTRIBUTES,
    attribute_gains,
    difficulty_buckets,
    over_optimisation,
    pareto_front,
    standardise,
)
from tts_jax.evaluation.statistics import (
    bootstrap_interval,
    efficiency_interval,
    fit_saturation,
    paired_test,
    prompt_means,
    selection_efficiency,
)

COSTS = ("nfe", "flops", "seconds")
LINEAR = "random_linear"
_SHARES = ("success", "facts", *ATTRIBUTES)  # metrics that cannot exceed 1


def summarise(
    rows: Sequence[Mapping], metrics: Sequence[str], panels: Mapping[str, Mapping[str, float]]
) -> dict:
    """Everything that a sweep's report tells, as plain values; what is unknown is None.

    Args:
      rows: of the table that `experiments.sweep` writes.
      metrics: names of qualities; the first is that by which upper bounds were chosen.
      panels: by name, the weights of the verifiers that judge.

    Returns:
      `points`, one per search, budget and panel by rising cost, with mean costs and for every
      metric its mean, 95 % interval, control, upper bound and selection efficiency; `fronts`, by
      cost and metric the points that nothing cheaper beats; `saturation`; `comparisons` of each
      point with random linear search at the nearest cost; `attributes`, `difficulty` and
      `over_optimisation`, see `tts_jax.evaluation.selection`.

    Raises:
      ValueError: no rows.
    """
    if not rows:
        raise ValueError("a summary needs at least one row")
    cells = _Cells(rows)
    points = sorted(
        (_point(cells, key, metrics) for key in cells.keys),
        key=lambda point: (point["panel"], point["search"] != LINEAR, point["flops"]),
    )
    summary = {
        "prompts": len(cells.prompts),
        "seeds": list(cells.seeds),
        "metrics": list(metrics),
        "panels": {name: dict(weights) for name, weights in panels.items()},
        "searches": list(dict.fromkeys(point["search"] for point in points)),
        "points": points,
        "fronts": {
            cost: {
                metric: pareto_front(
                    [point[cost] for point in points],
                    [point["quality"][metric]["mean"] for point in points],
                )
                for metric in metrics
            }
            for cost in COSTS
        },
        "saturation": _saturation(cells, points, metrics),
        "comparisons": _comparisons(cells, points, metrics),
        "attributes": _attributes(cells, points, metrics),
        "difficulty": _difficulty(cells, points, metrics[0]),
        "over_optimisation": _over_optimisation(cells, metrics, panels),
    }
    return _plain(summary)


def _plain(value):
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _key(row: Mapping) -> tuple[str, str, str]:
    return row["search"], row["budget"], row["panel"]


class _Cells:
    """The rows as arrays over prompts and seeds."""

    def __init__(self, rows: Sequence[Mapping]):
        self.rows = rows
        self.prompts = sorted({row["prompt_index"] for row in rows})
        self.seeds = sorted({row["seed"] for row in rows})
        self.keys = list(dict.fromkeys(map(_key, rows)))
        self._places = (
            {prompt: i for i, prompt in enumerate(self.prompts)},
            {seed: i for i, seed in enumerate(self.seeds)},
        )
        self._by_key: dict[tuple, list[Mapping]] = {}
        for row in rows:
            self._by_key.setdefault(_key(row), []).append(row)

    def of(self, key: tuple) -> list[Mapping]:
        """The rows of a point."""
        return self._by_key[key]

    def values(self, key: tuple, column: str) -> np.ndarray:
        """A column of a point, [P, S], NaN where a row is missing."""
        found = np.full((len(self.prompts), len(self.seeds)), np.nan)
        for row in self.of(key):
            value = row[column]
            place = self._places[0][row["prompt_index"]], self._places[1][row["seed"]]
            found[place] = np.nan if value is None else value
        return found[~np.isnan(found).all(1)] if np.isnan(found).all(1).any() else found

    def single(self, panel: str) -> tuple | None:
        """The point of one sample without a search."""
        for key in self.keys:
            if key[1:] == ("1", panel) and self.of(key)[0]["preset"] == LINEAR:
                return key
        return None

    def candidates(self, panel: str, column: str) -> np.ndarray:
        """A column of all candidates of the largest random linear search, [P * S, N]."""
        found = [
            row[f"all_{column}"]
            for row in self.rows
            if row["panel"] == panel and row[f"all_{column}"]
        ]
        return np.array(found, np.float64)


def _point(cells: _Cells, key: tuple, metrics: Sequence[str]) -> dict:
    search, budget, panel = key
    point = {
        "search": search,
        "preset": cells.of(key)[0]["preset"],
        "budget": budget,
        "panel": panel,
        "rows": len(cells.of(key)),
        "candidates": float(np.mean([row["candidates"] for row in cells.of(key)])),
        **{cost: float(prompt_means(cells.values(key, cost)).mean()) for cost in COSTS},
        "quality": {},
    }
    for metric in metrics:
        picked, chance, best = (
            cells.values(key, f"{kind}{metric}") for kind in ("", "chance_", "best_")
        )
        means = [float(prompt_means(values).mean()) for values in (picked, chance, best)]
        point["quality"][metric] = {
            "mean": means[0],
            "interval": bootstrap_interval(picked),
            "chance": means[1],
            "best": means[2],
            "efficiency": selection_efficiency(*means),
            "efficiency_interval": efficiency_interval(picked, chance, best),
        }
    return point


def _key_of(point: Mapping) -> tuple[str, str, str]:
    return point["search"], point["budget"], point["panel"]


def _families(points: Sequence[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    families: dict[tuple[str, str], list[Mapping]] = {}
    for point in points:
        families.setdefault((point["search"], point["panel"]), []).append(point)
    return families


def _saturation(cells: _Cells, points: Sequence[Mapping], metrics: Sequence[str]) -> list[dict]:
    fits = []
    for (search, panel), family in _families(points).items():
        costs = [point["flops"] or point["nfe"] for point in family]
        if len(set(costs)) < 3:
            continue
        for metric in metrics:
            values = [cells.values(_key_of(point), metric) for point in family]
            if len({value.shape for value in values}) > 1:
                continue
            ceiling = 1.0 if metric in _SHARES else None
            fit = fit_saturation(costs, values, ceiling=ceiling)
            last = family[-1]["quality"][metric]["mean"]
            fits.append(
                {"search": search, "panel": panel, "metric": metric, "last": last, **asdict(fit)}
            )
    return fits


def _comparisons(cells: _Cells, points: Sequence[Mapping], metrics: Sequence[str]) -> list[dict]:
    """Of each point with random linear search at the nearest cost, and of its panels."""
    pairs = []
    for point in points:
        same_panel = [p for p in points if p["panel"] == point["panel"] and p["preset"] == LINEAR]
        if point["preset"] != LINEAR:
            cost = "flops" if point["flops"] else "nfe"
            pairs.append(
                (min(same_panel, key=lambda p: abs(math.log(p[cost] / point[cost]))), point)
            )
        elif point["panel"] != points[0]["panel"] and point["budget"] != "1":
            pairs += [
                (p, point)
                for p in points
                if (p["search"], p["budget"], p["panel"])
                == (point["search"], point["budget"], points[0]["panel"])
            ]
    return [
        {
            "metric": metric,
            "first": _key_of(first),
            "second": _key_of(second),
            "cost_ratio": second["flops"] / first["flops"] if first["flops"] else None,
            **asdict(
                paired_test(
                    cells.values(_key_of(first), metric), cells.values(_key_of(second), metric)
                )
            ),
        }
        for first, second in pairs
        for metric in metrics
        if cells.values(_key_of(first), metric).shape == cells.values(_key_of(second), metric).shape
    ]


def _attributes(cells: _Cells, points: Sequence[Mapping], metrics: Sequence[str]) -> list[dict]:
    names = [name for name in ATTRIBUTES if name in metrics]
    found = []
    for point in points if names else ():
        single = cells.single(point["panel"])
        if single is None or _key_of(point) == single:
            continue
        gains = attribute_gains(
            {name: cells.values(_key_of(point), name) for name in names},
            {name: cells.values(single, name) for name in names},
        )
        found.append({"point": _key_of(point), "gains": gains})
    return found


def _difficulty(cells: _Cells, points: Sequence[Mapping], metric: str) -> list[dict]:
    """Gains by difficulty, which is told by all random samples but the one they are gains over."""
    found = []
    for panel in dict.fromkeys(point["panel"] for point in points):
        single = cells.single(panel)
        samples = cells.candidates(panel, metric)
        wanted = len(cells.prompts) * len(cells.seeds)
        if single is None or len(samples) < wanted or samples.shape[1] < 3:
            continue
        rows = [r for r in cells.rows if r["panel"] == panel and r[f"all_{metric}"]]
        others = np.full((len(cells.prompts), len(cells.seeds)), np.nan)
        for row in rows:
            place = cells.prompts.index(row["prompt_index"]), cells.seeds.index(row["seed"])
            others[place] = np.mean(row[f"all_{metric}"][1:])
        for name, prompts in difficulty_buckets(others).items():
            base = cells.values(single, metric)[prompts]
            for point in points:
                if point["panel"] != panel:
                    continue
                values = cells.values(_key_of(point), metric)[prompts]
                found.append(
                    {
                        "bucket": name,
                        "prompts": len(prompts),
                        "point": _key_of(point),
                        "mean": float(prompt_means(values).mean()),
                        "interval": bootstrap_interval(values),
                        "gain": float(prompt_means(values - base).mean()),
                    }
                )
    return found


def _over_optimisation(
    cells: _Cells, metrics: Sequence[str], panels: Mapping[str, Mapping[str, float]]
) -> list[dict]:
    """What panels and single verifiers choose, by themselves and by what is held out from them."""
    scores = [metric for metric in metrics if metric.startswith("score_")]
    graded = [metric for metric in metrics if metric == "facts"]
    found = []
    first = next(iter(panels))
    for name, weights in {**panels, **{s.removeprefix("score_"): None for s in scores}}.items():
        panel = name if weights is not None else first
        samples = {s: cells.candidates(panel, s) for s in scores + graded}
        if not all(len(s) and s.shape[1] > 1 for s in samples.values()):
            continue
        if weights is None:
            searching, judges = samples[f"score_{name}"], {name}
        else:
            judges = {verifier for verifier, weight in weights.items() if weight}
            searching = sum(
                weight * standardise(samples[f"score_{v}"].T, samples[f"score_{v}"].T).T
                for v, weight in weights.items()
            )
        held_out = graded or [s for s in scores if s.removeprefix("score_") not in judges]
        size = searching.shape[1]
        counts = sorted({1, size, *(2**i for i in range(1, int(math.log2(size)) + 1))})
        found += [
            {
                "searching": name,
                "panel": weights is not None,
                "held_out": metric.removeprefix("score_"),
                "curve": over_optimisation(searching, samples[metric], counts),
            }
            for metric in held_out
        ]
    return found
