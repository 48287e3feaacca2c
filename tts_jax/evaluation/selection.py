"""What a choice among candidates is worth: controls, attributes, difficulty, over-optimisation.

P prompts  S seeds  N candidates  A attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tts_jax.evaluation.statistics import bootstrap_interval, prompt_means

ATTRIBUTES = ("colour", "shape", "motion", "count")


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One choice among some candidates.

    Attributes:
      picked: index of the candidate with the highest value.
      best: index of the one with the highest quality, the first of several.
      chance: expected quality of a random choice.
    """

    picked: int
    best: int
    chance: float


def pick(values: Sequence[float], quality: Sequence) -> Pick:
    """What is chosen, beside the control and the upper bound of the same candidates.

    Args:
      values: [N] what the choice is made by; one that is not a number is never chosen over one
        that is.
      quality: [N] held-out quality or tuples of qualities, of which the first decides, then the
        next; those that are not a number are neither the best nor part of the control.

    Raises:
      ValueError: no candidates, or as many values as qualities are not there.
    """
    values = np.asarray(values, np.float64)
    table = np.asarray(quality, np.float64).reshape(len(quality), -1)
    if not len(values) or len(values) != len(table):
        raise ValueError(f"{len(values)} values and {len(table)} qualities make no choice")
    known = ~np.isnan(table)
    ranked = np.where(known, table, -np.inf)
    first = table[known[:, 0], 0]
    return Pick(
        picked=int(np.argmax(np.where(np.isnan(values), -np.inf, values))),
        best=max(range(len(table)), key=lambda i: (*ranked[i], -i)),
        chance=float(first.mean()) if len(first) else float("nan"),
    )


def standardise(scores: Sequence, reference: Sequence) -> np.ndarray:
    """Scores in deviations of the reference from its mean, column by column.

    Args:
      scores: [..., V].
      reference: [N, V] scores of random samples.

    Returns:
      [..., V] float64.
    """
    reference = np.asarray(reference, np.float64)
    deviation = np.maximum(reference.std(0), 1e-9)
    return (np.asarray(scores, np.float64) - reference.mean(0)) / deviation


def attributes(grade) -> dict[str, float]:
    """Which facts of a caption a video shows, by kind.

    Args:
      grade: of a captioned world, with `objects` (found or not, by attribute) and `no_extra`.

    Returns:
      `ATTRIBUTES` to the share of objects for which it is right; `count`: every object is there
      and nothing else.
    """
    found = {
        name: float(np.mean([thing[name] for thing in grade.objects])) for name in ATTRIBUTES[:-1]
    }
    return {**found, "count": float(grade.no_extra and found["colour"] == 1)}


def attribute_gains(
    searched: Mapping[str, Sequence], single: Mapping[str, Sequence]
) -> dict[str, dict]:
    """Which facts improve by a search.

    Args:
      searched, single: attribute to [P] or [P, S], the same prompts and seeds in the same order.

    Returns:
      By attribute `mean`, `single`, `gain` and the gain's 95 % `interval`.
    """
    gains = {}
    for name, values in searched.items():
        change = np.asarray(values, np.float64) - np.asarray(single[name], np.float64)
        gains[name] = {
            "mean": float(prompt_means(values).mean()),
            "single": float(prompt_means(single[name]).mean()),
            "gain": float(prompt_means(change).mean()),
            "interval": bootstrap_interval(change),
        }
    return gains


def difficulty_buckets(
    quality: Sequence, names: Sequence[str] = ("hard", "medium", "easy")
) -> dict[str, np.ndarray]:
    """Prompts in parts of nearly equal number, by the quality of random samples.

    The samples must not be those whose gain is then told: a prompt whose single sample failed by
    chance would look hard, and gain by chance.

    Args:
      quality: [P] or [P, N] of random samples.
      names: of the parts, from the lowest quality.

    Returns:
      Name to the indices of its prompts, increasing; parts without a prompt are left out.
    """
    means = prompt_means(quality)
    order = np.argsort(means, kind="stable")
    parts = np.array_split(order, len(names))
    return {name: np.sort(part) for name, part in zip(names, parts, strict=True) if len(part)}


def over_optimisation(
    searching: Sequence, held_out: Sequence, counts: Sequence[int]
) -> list[dict[str, object]]:
    """Score of the searching verifier beside that of a held-out one, as N grows.

    Where the first goes on rising and the second does not, the search has begun to please its
    verifier instead of the viewer.

    Args:
      searching, held_out: [P, N] scores of the same random samples.
      counts: numbers of candidates to choose among, each the first so many.

    Returns:
      For each count `n`, and of the chosen candidates the mean `searching` and `held_out` scores in
      deviations among all N, with 95 % intervals over prompts as `..._interval`.

    Raises:
      ValueError: shapes that differ, or a count beyond N.
    """
    searching, held_out = (np.asarray(s, np.float64) for s in (searching, held_out))
    if searching.shape != held_out.shape or max(counts) > searching.shape[1]:
        raise ValueError(
            f"{list(searching.shape)} and {list(held_out.shape)} scores do not hold the same "
            f"{max(counts)} candidates"
        )
    both = {
        name: standardise(scores.T, scores.T).T
        for name, scores in (("searching", searching), ("held_out", held_out))
    }
    curve = []
    for count in counts:
        chosen = searching[:, :count].argmax(1)
        point = {"n": count}
        for name, scores in both.items():
            values = scores[np.arange(len(scores)), chosen]
            point[name] = float(values.mean())
            point[f"{name}_interval"] = bootstrap_interval(values)
        curve.append(point)
    return curve


def pareto_front(costs: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Indices of those that no other beats at the same or a lower cost, by rising cost."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -quality[i]))
    front, best = [], -np.inf
    for i in order:
        if quality[i] > best:
            front.append(i)
            best = quality[i]
    return front
