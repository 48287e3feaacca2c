"""Which branches go on. A rule sees values, scores and paths, and nothing else of a branch.

Rules take nodes and return some of them in the order of their paths. Of equal values the smaller
path is better; a node without a value, or whose value is NaN, is worse than any other.

W nodes or particles.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tts_jax.search import paths
from tts_jax.search.rounds import SearchConfigError
from tts_jax.search.tree import Node


def worth(node: Node) -> float:
    """A node's value; -inf if it has none."""
    return -math.inf if node.value is None or math.isnan(node.value) else float(node.value)


def ranked(nodes: Iterable[Node]) -> list[Node]:
    """Nodes from best to worst."""
    return sorted(nodes, key=lambda node: (-worth(node), paths.order(node.path)))


def in_order(nodes: Iterable[Node]) -> list[Node]:
    """Nodes in the order of their paths."""
    return sorted(nodes, key=lambda node: paths.order(node.path))


def top_k(nodes: Sequence[Node], k: int) -> list[Node]:
    """The k best.

    Raises:
      SearchConfigError: nothing would stay.
    """
    _keeps(k)
    return in_order(ranked(nodes)[:k])


def median(nodes: Sequence[Node], cap: int | None = None) -> list[Node]:
    """All that are no worse than the median: ties stay, as Video-T1 publishes it.

    A node without a value goes as soon as another has one.

    Args:
      nodes: W of them.
      cap: of those at most so many, the best, so that ties cannot break a budget.

    Raises:
      SearchConfigError: nothing would stay.
    """
    values = sorted(map(worth, nodes))
    # The mean of the two in the middle is beaten by just those that the larger of them admits.
    middle = values[len(values) // 2]
    return _capped([n for n in _valued(nodes) if worth(n) >= middle], cap)


def fraction(nodes: Sequence[Node], share: float, cap: int | None = None) -> list[Node]:
    """The best share of the nodes, rounded up.

    Args:
      nodes: W of them.
      share: in (0, 1].
      cap: at most so many.

    Raises:
      SearchConfigError: nothing would stay, or more than there is.
    """
    return _capped(ranked(nodes)[: share_of(len(nodes), share)], cap)


def share_of(count: int, share: float) -> int:
    """How many a share of some nodes is, rounded up.

    Raises:
      SearchConfigError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise SearchConfigError(f"a share of {share} is not in (0, 1]")
    return max(1, math.ceil(round(share * count, 9)))


def all_yes(
    nodes: Sequence[Node], floors: Mapping[str, float], cap: int | None = None
) -> list[Node]:
    """Those that every verifier accepts; else those that more accept than not; else the best one.

    The rule "pf" of Video-T1. The best one has most acceptances and, of those, the best value.
    Without any scores, as in a plan, all count as accepted.

    Args:
      nodes: W of them, judged.
      floors: by verifier, the least score it accepts; other verifiers are not asked.
      cap: at most so many, the most accepted.

    Raises:
      SearchConfigError: nothing would stay, or a floor of a verifier that did not judge.
    """
    judged = {name for node in nodes for name in node.scores}
    if not judged:
        return _capped(ranked(nodes), cap)
    if absent := [name for name in floors if name not in judged]:
        raise SearchConfigError(
            f"floors has {absent[0]!r}, but the verifiers are {', '.join(sorted(judged))}"
        )

    def margin(node):
        yes = [node.scores.get(name, -math.inf) >= floor for name, floor in floors.items()]
        return 2 * sum(yes) - len(yes)

    order = sorted(ranked(nodes), key=lambda node: -margin(node))
    for least in (len(floors), 1):
        if passed := [node for node in order if margin(node) >= least]:
            return _capped(passed, cap)
    return order[:1]


def best_per_parent(nodes: Sequence[Node], keep: int = 1) -> list[Node]:
    """The best children of every parent.

    Raises:
      SearchConfigError: nothing would stay.
    """
    return best_of_groups(nodes, None, keep=keep)


def best_of_groups(
    nodes: Sequence[Node], size: int | None, *, keep: int = 1, length: int | None = None
) -> list[Node]:
    """The best candidates of every group.

    Args:
      nodes: W of them.
      size: of a group, see `groups`.
      keep: candidates of a group that stay.
      length: see `groups`.

    Raises:
      SearchConfigError: nothing would stay.
    """
    _keeps(keep)
    return in_order(node for group in groups(nodes, size, length) for node in ranked(group)[:keep])


def softmax_per_parent(
    nodes: Sequence[Node], alpha: float, rng: np.random.Generator, size: int | None = None
) -> list[Node]:
    """One child of every parent, drawn with probability proportional to exp(value / alpha).

    Args:
      nodes: W of them.
      alpha: temperature; 0 takes the best.
      rng: draws once per parent, or group.
      size: of a group, see `groups`; None for all children of a parent.

    Raises:
      SearchConfigError: a negative temperature.
    """
    if alpha < 0:
        raise SearchConfigError(f"alpha is {alpha}, but a temperature is at least 0")
    if not alpha:
        return best_of_groups(nodes, size)
    chosen = []
    for group in groups(nodes, size):
        counts = multinomial([worth(node) / alpha for node in group], rng, 1)
        chosen.append(group[int(counts.argmax())])
    return in_order(chosen)


def groups(nodes: Sequence[Node], size: int | None, length: int | None = None) -> list[list[Node]]:
    """Children of one parent, `size` consecutive indices to a group.

    Args:
      nodes: W of them, descendants of parents.
      size: indices of a group; None for all children of a parent.
      length: steps of a parent's path; None for the parents of the nodes.

    Returns:
      Groups, each in the order of its paths.
    """
    found: dict[tuple, list[Node]] = {}
    for node in in_order(nodes):
        cut = len(node.parent) if length is None else length
        step = node.path[cut] if len(node.path) > cut else 0
        index = step if isinstance(step, int) else step.index
        found.setdefault((node.path[:cut], index // size if size else 0), []).append(node)
    return list(found.values())


def systematic(
    log_weights: Sequence[float], rng: np.random.Generator, count: int | None = None
) -> np.ndarray:
    """Resamples with one uniform draw: each count is its expectation, rounded down or up.

    Args:
      log_weights: [W], not normalised; NaN counts as -inf. If none is finite all are equal.
      rng: draws once.
      count: draws; W if None.

    Returns:
      How often each is drawn, [W] int64, of sum `count`.
    """
    weights = normalised(log_weights)
    count = len(weights) if count is None else count
    return _counts(weights, (rng.random() + np.arange(count)) / max(count, 1))


def multinomial(
    log_weights: Sequence[float], rng: np.random.Generator, count: int | None = None
) -> np.ndarray:
    """Resamples with independent draws; as `systematic` in all else."""
    weights = normalised(log_weights)
    return _counts(weights, rng.random(len(weights) if count is None else count))


def ess(log_weights: Sequence[float]) -> float:
    """Effective sample size, (sum w)^2 / sum w^2: from 1 to W."""
    return float(1 / (normalised(log_weights) ** 2).sum())


def normalised(log_weights: Sequence[float]) -> np.ndarray:
    """Weights [W] float64 of sum 1; equal if no log-weight is finite."""
    logs = np.asarray(log_weights, np.float64)
    logs = np.where(np.isnan(logs), -np.inf, logs)
    if logs.max() == -np.inf:
        return np.full(len(logs), 1 / len(logs))
    weights = (
        (logs == np.inf).astype(np.float64) if logs.max() == np.inf else np.exp(logs - logs.max())
    )
    return weights / weights.sum()


def tournament(nodes: Sequence[Node], share: float, rng: np.random.Generator) -> Node:
    """The best of a random share of the nodes, rounded up (arXiv 2505.17618).

    Raises:
      SearchConfigError: a share outside (0, 1].
    """
    nodes = in_order(nodes)
    drawn = rng.choice(len(nodes), share_of(len(nodes), share), replace=False)
    return ranked(nodes[i] for i in drawn)[0]


def first_improving(nodes: Sequence[Node], threshold: float) -> Node | None:
    """The first in the order of paths that is worth more than a threshold; None if none is."""
    return next((node for node in in_order(nodes) if worth(node) > threshold), None)


def _valued(nodes: Sequence[Node]) -> list[Node]:
    """Nodes from best to worst, those without a value only if none has one."""
    order = ranked(nodes)
    return [node for node in order if worth(node) > -math.inf] or order


def _capped(order: Sequence[Node], cap: int | None) -> list[Node]:
    if cap is not None:
        _keeps(cap)
    return in_order(order[:cap])


def _keeps(count: int) -> None:
    if count < 1:
        raise SearchConfigError(f"a selection that keeps {count} branches ends the search")


def _counts(weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How many places in [0, 1) fall on each weight's part of it."""
    ends = np.cumsum(weights)
    ends[np.flatnonzero(weights)[-1] :] = 1  # rounding must not lead past the last weight
    return np.bincount(np.searchsorted(ends, places, side="right"), minlength=len(weights))
