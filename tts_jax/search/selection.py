"""Which branches go on. A rule sees values and paths, and nothing else of a branch.

W branches of a round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tts_jax.search.rounds import SearchConfigError

Path = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """A rule.

    Attributes:
      name: as records write it.
      pick: (values [W], paths, parents) -> indices that stay. Values are finite or -inf.
      most: (parents, children) -> the most branches that can stay.
      least: branches the rule wants to choose from.
    """

    name: str
    pick: Callable[[np.ndarray, Sequence[Path], Sequence[Path]], Sequence[int]]
    most: Callable[[int, int], int]
    least: int = 1

    def __call__(
        self, values: np.ndarray, paths: Sequence[Path], parents: Sequence[Path]
    ) -> list[int]:
        """Indices that stay, in the order of their paths.

        Args:
          values: [W] float; NaN counts as -inf.
          paths: one per branch.
          parents: paths at the start of the round.
        """
        values = np.where(np.isnan(values), -np.inf, values)
        return sorted(self.pick(values, paths, parents), key=lambda i: paths[i])


def ranking(values: np.ndarray, paths: Sequence[Path]) -> list[int]:
    """Indices from best to worst; of equal values the smaller path is better."""
    return sorted(range(len(paths)), key=lambda i: (-values[i], paths[i]))


def top_k(keep: int) -> Selection:
    """The `keep` best.

    Raises:
      SearchConfigError: nothing would stay.
    """
    _at_least_one(keep)
    return Selection(
        f"top_k({keep})",
        lambda values, paths, parents: ranking(values, paths)[:keep],
        lambda parents, children: min(keep, parents * children),
        least=keep,
    )


def median(cap: int | None = None) -> Selection:
    """All that are no worse than the median: ties stay, as Video-T1 publishes it.

    A branch without a value goes as soon as another has one.

    Args:
      cap: of those at most so many, the best, so that ties cannot break a budget.

    Raises:
      SearchConfigError: nothing would stay.
    """
    if cap is not None:
        _at_least_one(cap)

    def pick(values, paths, parents):
        order = [i for i in ranking(values, paths) if values[i] >= np.median(values)]
        return ([i for i in order if values[i] > -np.inf] or order)[:cap]

    return Selection(
        "median" if cap is None else f"median(cap={cap})",
        pick,
        lambda parents, children: min(cap or parents * children, parents * children),
    )


def best_per_parent() -> Selection:
    """The best child of every parent."""

    def pick(values, paths, parents):
        best = {}
        for i in ranking(values, paths):
            best.setdefault(parents[i], i)
        return list(best.values())

    return Selection("best_per_parent", pick, lambda parents, children: parents)


def _at_least_one(keep: int) -> None:
    if keep < 1:
        raise SearchConfigError(f"a selection that keeps {keep} branches ends the search")
