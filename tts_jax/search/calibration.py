"""What a score on the way says about the score at the end.

Per depth of one generator: final = intercept + slope * stage + residual. Both sides are one fixed
quantity, the weighted sum of the verifiers' scores, each standardised by mean and deviation of the
final scores in the logs, so that values of different searches compare.

N branches  G quadrature points.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_ndtr

from tts_jax.media import write_bytes
from tts_jax.search import paths
from tts_jax.search.rounds import SearchConfigError
from tts_jax.search.tree import Node

# Depths that correlate less, or that fewer videos speak for, are reported and not used.
MIN_CORRELATION = 0.3
MIN_VIDEOS = 8

# The standard normal weighs 1e-15 beyond 8; 40 trapezoids a deviation are exact to rounding.
_GRID = np.linspace(-8.0, 8.0, 641)


class CalibrationError(SearchConfigError):
    """Logs that nothing can be fitted from, or a calibration that cannot be read or used."""


@dataclass(frozen=True, kw_only=True)
class Standard:
    """How a verifier's score enters the fixed quantity: weight * (score - mean) / deviation."""

    weight: float
    mean: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class DepthFit:
    """The line from stage scores at one depth to final scores.

    Branches are only ever compared with others of their prompt. Slope, correlation and residual
    are therefore those inside searches, each search with a level of its own; that some prompts
    are easier than others would else pass for foresight.

    Attributes:
      depth: segments done.
      verifiers: whose scores are known there.
      n: finished videos with a judged ancestor at this depth.
      correlation: Pearson's, inside searches.
      pooled: Pearson's over all videos, for comparison.
      slope, intercept: of the line; the intercept fits the mean of all videos.
      residual: standard deviation of the final score around it.
    """

    depth: int
    verifiers: tuple[str, ...]
    n: int
    correlation: float
    pooled: float
    slope: float
    intercept: float
    residual: float

    @property
    def prunes(self) -> bool:
        """Whether the depth says enough about the end to prune by."""
        return self.correlation >= MIN_CORRELATION and self.n >= MIN_VIDEOS


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A finished video of a log.

    Attributes:
      search: index of the tree it comes from.
      segments: of the video.
      final: its scores by verifier.
      stages: by depth, the scores that its last judged ancestor there had by verifier; None for
        one that is not finite.
    """

    search: int
    segments: int
    final: Mapping[str, float | None]
    stages: Mapping[int, Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What stage scores of a generator foretell.

    Attributes:
      generator: its name.
      segments: of its videos.
      standards: by verifier.
      depths: a line for each depth that the logs judge.
    """

    generator: str
    segments: int
    standards: Mapping[str, Standard]
    depths: tuple[DepthFit, ...]

    def quantity(
        self, scores: Mapping[str, float | None], verifiers: Sequence[str] | None = None
    ) -> float:
        """The fixed quantity that is predicted, and predicted from.

        Args:
          scores: by verifier.
          verifiers: which of them count; all if None.

        Returns:
          The weighted sum of standardised scores; -inf if one is missing or not finite.
        """
        total = 0.0
        for name in self.standards if verifiers is None else verifiers:
            score, standard = scores.get(name), self.standards[name]
            if score is None or not math.isfinite(score):
                return -math.inf
            total += standard.weight * (score - standard.mean) / standard.deviation
        return total

    def prunes(self, depth: int) -> bool:
        """Whether a search may prune by scores at this depth; where not, it need not judge."""
        return any(fit.depth == depth and fit.prunes for fit in self.depths)

    def predict(self, depth: int, nodes: Sequence[Node]) -> tuple[np.ndarray, float] | None:
        """Final values of branches from their scores on the way.

        Args:
          depth: segments they have done.
          nodes: N of them, or anything with `scores` by verifier.

        Returns:
          Means, [N] float64, -inf for a branch with a score that is not finite, and the standard
          deviation around each; None where the logs do not judge the depth, where it correlates
          too little to prune by, and where a node was not judged by the verifiers of the logs.
        """
        if not self.prunes(depth):
            return None
        fit = next(fit for fit in self.depths if fit.depth == depth)
        if any(name not in node.scores for node in nodes for name in fit.verifiers):
            return None
        stage = np.array([self.quantity(node.scores, fit.verifiers) for node in nodes], float)
        means = np.where(np.isfinite(stage), fit.intercept + fit.slope * stage, -np.inf)
        return means, fit.residual

    def check(self, generator: str, verifiers: Sequence[str]) -> None:
        """Refuses a search that the calibration says nothing about.

        Raises:
          CalibrationError: another generator, or verifiers that the panel lacks.
        """
        if generator != self.generator:
            raise CalibrationError(
                f"the calibration is for generator {self.generator!r}, not {generator!r}"
            )
        if missing := [name for name in self.standards if name not in verifiers]:
            raise CalibrationError(
                f"the calibration predicts from the verifiers {', '.join(self.standards)}, "
                f"but the panel has no {', '.join(missing)}"
            )

    def save(self, path: Path | str) -> None:
        """Writes a JSON file that is either whole or not there.

        Raises:
          MediaError: the file cannot be written.
        """
        fields = dataclasses.asdict(self)
        write_bytes(path, (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        """Reads what `save` writes.

        Raises:
          CalibrationError: the file is missing, or is not exactly a calibration.
        """
        try:
            entry = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise CalibrationError(
                f"calibration {path} cannot be read: {error.strerror or error}"
            ) from error
        except ValueError as error:
            raise CalibrationError(f"calibration {path} is not JSON: {error}") from error
        try:
            return _calibration(entry)
        except CalibrationError as error:
            raise CalibrationError(f"calibration {path}: {error}") from error


def load(path: Path | str) -> Calibration:
    """`Calibration.load`."""
    return Calibration.load(path)


def _calibration(entry: object) -> Calibration:
    fields = _fields(Calibration, entry, "the file")
    if not isinstance(fields["standards"], dict) or not fields["standards"]:
        raise CalibrationError("'standards' holds no verifier")
    if not isinstance(fields["depths"], list):
        raise CalibrationError("'depths' is not a list")
    fields["standards"] = {
        name: Standard(**_fields(Standard, standard, f"standard {name!r}"))
        for name, standard in fields["standards"].items()
    }
    if any(standard.deviation <= 0 for standard in fields["standards"].values()):
        raise CalibrationError("a standard's 'deviation' is not above zero")
    fits = []
    for i, line in enumerate(fields["depths"]):
        line = _fields(DepthFit, line, f"depth entry {i}")
        names = line["verifiers"]
        if not isinstance(names, list) or not set(map(str, names)) <= set(fields["standards"]):
            raise CalibrationError(f"depth entry {i}: 'verifiers' are not among the standards")
        if line["residual"] < 0:
            raise CalibrationError(f"depth entry {i}: 'residual' is below zero")
        fits.append(DepthFit(**{**line, "verifiers": tuple(names)}))
    return Calibration(**{**fields, "depths": tuple(fits)})


def _fields(cls: type, entry: object, where: str) -> dict:
    """A dataclass's fields from JSON: all of them, no others, numbers finite."""
    if not isinstance(entry, dict):
        raise CalibrationError(f"{where} is not an object")
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    for name in sorted(kinds.keys() ^ entry.keys()):
        raise CalibrationError(f"{where} {'lacks' if name in kinds else 'has an unknown'} {name!r}")
    for name, kind in kinds.items():
        value = entry[name]
        if kind is str and not isinstance(value, str):
            raise CalibrationError(f"{where}: {name!r} is not a text")
        if kind in (int, float):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (kind is int and value != int(value)):
                raise CalibrationError(f"{where}: {name!r} is not a finite {kind.__name__}")
    return dict(entry)


def read_samples(trees: Sequence[Mapping]) -> list[Sample]:
    """The finished videos of logged searches, with what their ancestors had been scored.

    Branches of the draft generator do not count. An ancestor from before a step back to a higher
    noise level counts only at the depths below that level.

    Args:
      trees: what `tree.json` files hold.

    Raises:
      CalibrationError: a tree that is not like those that searches write.
    """
    judged, longest = [], 0
    for number, tree in enumerate(trees):
        try:
            nodes = {
                paths.from_json(node["path"]): dict(node["scores"])
                for node in tree["nodes"]
                if node.get("fidelity", "full") == "full"
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"tree {number} has no readable nodes: {error!r}") from error
        judged.append({path: scores for path, scores in nodes.items() if scores})
        longest = max([longest, *map(paths.depth, nodes)])
    return [
        Sample(search=number, segments=longest, final=scores, stages=_stages(path, nodes))
        for number, nodes in enumerate(judged)
        for path, scores in nodes.items()
        if paths.depth(path) == longest
    ]


def _stages(path: paths.Path, judged: Mapping[paths.Path, dict]) -> dict[int, dict]:
    stages: dict[int, dict] = {}
    for length in range(1, len(path)):
        prefix, step = path[:length], path[length - 1]
        depth = paths.depth(prefix)
        if isinstance(step, paths.Move) and step.kind == "renoise":
            stages = {done: scores for done, scores in stages.items() if done < depth}
        if prefix in judged:
            stages[depth] = judged[prefix]
    return stages


def fit(generator: str, samples: Sequence[Sample], weights: Mapping[str, float]) -> Calibration:
    """Least squares, depth by depth.

    Args:
      generator: its name.
      samples: finished videos.
      weights: by verifier; those of weight zero are left out.

    Raises:
      CalibrationError: no finished video has finite scores by all the verifiers.
    """
    names = [name for name, weight in weights.items() if weight]
    samples = [s for s in samples if all(_finite(s.final.get(name)) for name in names)]
    if not samples or not names:
        raise CalibrationError(
            f"the logs hold no finished video with finite scores by {', '.join(names) or 'anyone'}"
        )
    standards = {}
    for name in names:
        scores = np.array([sample.final[name] for sample in samples], float)
        deviation = float(scores.std())
        tells = deviation > 1e-9 * max(1.0, abs(scores.mean()))
        standards[name] = Standard(
            weight=float(weights[name]),
            mean=float(scores.mean()),
            deviation=deviation if tells else 1.0,
        )
    segments = samples[0].segments
    blank = Calibration(generator=generator, segments=segments, standards=standards, depths=())
    found = sorted({depth for sample in samples for depth in sample.stages if depth < segments})
    lines = (_fit_depth(blank, depth, samples) for depth in found)
    return dataclasses.replace(blank, depths=tuple(line for line in lines if line is not None))


def pairs(
    calibration: Calibration, depth: int, verifiers: Sequence[str], samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stage and final values of the videos that were judged at a depth.

    Args:
      calibration: says how scores become values.
      depth: segments done.
      verifiers: whose scores count at the stage.
      samples: finished videos.

    Returns:
      Stage values, final values, [N] float64, and the searches they come from, [N] int.
    """
    rows = [
        (calibration.quantity(s.stages[depth], verifiers), calibration.quantity(s.final), s.search)
        for s in samples
        if depth in s.stages
    ]
    rows = np.array(rows, float).reshape(-1, 3)
    rows = rows[np.isfinite(rows).all(1)]
    return rows[:, 0], rows[:, 1], rows[:, 2].astype(int)


def _fit_depth(calibration: Calibration, depth: int, samples: Sequence[Sample]) -> DepthFit | None:
    judged = [sample.stages[depth] for sample in samples if depth in sample.stages]
    known = set.intersection(*(set(scores) for scores in judged))
    verifiers = tuple(name for name in calibration.standards if name in known)
    stage, final, search = pairs(calibration, depth, verifiers, samples)
    if not verifiers or not len(stage):
        return None
    inner_stage, inner_final = _centred(stage, search), _centred(final, search)
    square = (inner_stage**2).sum()
    slope = (inner_stage * inner_final).sum() / square if square > 1e-12 else 0.0
    freedom = max(len(stage) - len(set(search)) - 1, 1)
    rest = inner_final - slope * inner_stage
    return DepthFit(
        depth=depth,
        verifiers=verifiers,
        n=len(stage),
        correlation=_correlation(inner_stage, inner_final),
        pooled=_correlation(stage - stage.mean(), final - final.mean()),
        slope=float(slope),
        intercept=float(final.mean() - slope * stage.mean()),
        residual=float(np.sqrt((rest**2).sum() / freedom)),
    )


def _centred(values: np.ndarray, search: np.ndarray) -> np.ndarray:
    """Values less the mean of their search."""
    _, index, counts = np.unique(search, return_inverse=True, return_counts=True)
    return values - (np.bincount(index, values) / counts)[index]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def best_probabilities(means: Sequence[float], deviation: float) -> np.ndarray:
    """How probable it is for each of several independent Gaussians to be the largest.

    P(i) = integral of phi(z) * product over j != i of Phi(z + (m_i - m_j) / deviation) dz, by the
    trapezoid rule on a fixed grid, which for such integrands is exact to rounding.

    Args:
      means: [N], finite or -inf.
      deviation: of each; zero or more.

    Returns:
      [N] float64, sums to 1. Without deviation the largest means share it.
    """
    means = np.asarray(means, float)
    means = np.where(np.isnan(means), -np.inf, means)
    top = means.max()
    if top == -np.inf or deviation == 0:
        chance = (means == top).astype(float)
    else:
        # Below top - 8 deviations the largest lies with probability 1e-15.
        z = _GRID + (top - means[:, None]) / deviation
        below = log_ndtr(z)
        chance = np.exp(below.sum(0) - below - 0.5 * z**2).sum(1)
    return chance / chance.sum()


def smallest_set(means: Sequence[float], deviation: float, delta: float) -> np.ndarray:
    """The fewest branches among which the best one is with probability 1 - delta.

    Args:
      means: predicted final values, [N], finite or -inf.
      deviation: of each around its mean, independently.
      delta: probability of losing the best branch, in (0, 1).

    Returns:
      Indices in ascending order, at least one; of equally probable branches the first ones.

    Raises:
      CalibrationError: delta or deviation out of range, or no branch.
    """
    if not 0 < delta < 1:
        raise CalibrationError(f"delta is {delta}, but it is a probability between 0 and 1")
    if not (deviation >= 0 and len(means)):
        raise CalibrationError("a smallest set needs a branch and a deviation of 0 or more")
    chance = best_probabilities(means, deviation)
    order = np.argsort(-chance, kind="stable")
    count = 1 + int(np.searchsorted(np.cumsum(chance[order]), 1 - delta - 1e-12))
    return np.sort(order[:count])
