"""Several verifiers, and how their scores become one value per branch.

B branches  V verifiers  P prompts  T frames  H W frame size.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.verifiers.protocol import Query, Verifier

# Values of guarded branches begin here, below any that scores of a sensible size give.
_GUARDED = -1e6


def weighted_sum(scores: Array, weights: Array, valid: Array | None = None) -> Array:
    """Weighted sum over verifiers of the scores as they are.

    A branch's value depends on its own scores alone, so that values of different rounds compare.

    Args:
      scores: [B, V] float.
      weights: [V] float.
      valid: [B] bool, false on padding; all true if None.

    Returns:
      Values, [B] float32; -inf for a branch that is padding or has a score that is not finite.
    """
    finite = jnp.isfinite(scores)
    good = finite.all(1) & _valid(scores, valid)
    value = (jnp.where(finite, scores, 0.0).astype(jnp.float32) * weights).sum(1)
    return jnp.where(good, value, -jnp.inf).astype(jnp.float32)


def weighted_zscore(scores: Array, weights: Array, valid: Array | None = None) -> Array:
    """Weighted sum over verifiers of the scores' z-scores among the branches.

    Mean and deviation are the population's, over valid branches with a finite score; a verifier
    that cannot tell the branches apart adds zero.

    Args:
      scores: [B, V] float.
      weights: [V] float.
      valid: [B] bool, false on padding; all true if None.

    Returns:
      Values, [B] float32; -inf for a branch that is padding or has a score that is not finite.
    """
    counted = jnp.isfinite(scores) & _valid(scores, valid)[:, None]
    number = jnp.maximum(counted.sum(0), 1)
    clean = jnp.where(counted, scores, 0.0).astype(jnp.float32)
    mean = clean.sum(0) / number
    centred = jnp.where(counted, clean - mean, 0.0)
    deviation = jnp.sqrt((centred**2).sum(0) / number)
    apart = deviation > 1e-6 * jnp.maximum(jnp.abs(mean), 1e-6)
    value = (jnp.where(apart, centred / jnp.where(apart, deviation, 1.0), 0.0) * weights).sum(1)
    return jnp.where(counted.all(1), value, -jnp.inf).astype(jnp.float32)


def weighted_rank(scores: Array, weights: Array, valid: Array | None = None) -> Array:
    """Weighted Borda count: (1 / V) * sum over verifiers of weight * rank (arXiv 2503.18942).

    A branch's rank is the number of branches it beats; branches of equal score share the mean of
    their ranks. A score that is not finite loses to every finite one.

    Args:
      scores: [B, V] float.
      weights: [V] float.
      valid: [B] bool, false on padding; all true if None.

    Returns:
      Values, [B] float32; -inf for padding.
    """
    value = (_ranks(scores, valid) * weights).sum(1) / scores.shape[1]
    return jnp.where(_valid(scores, valid), value, -jnp.inf).astype(jnp.float32)


def pareto_rank(scores: Array, weights: Array, valid: Array | None = None) -> Array:
    """Fronts of branches that none dominates, peeled one by one; inside a front the Borda count.

    A branch dominates another if no verifier scores it lower and one scores it higher. Verifiers
    of weight zero do not count. A score that is not finite loses to every finite one.

    Args:
      scores: [B, V] float.
      weights: [V] float.
      valid: [B] bool, false on padding; all true if None.

    Returns:
      Values, [B] float32: minus the front, from 0 on, plus the Borda count scaled into [0, 1);
      -inf for padding.
    """
    present, clean, counts = _valid(scores, valid), _worst_if_not_finite(scores), weights > 0
    no_worse = ((clean[:, None] >= clean[None]) | ~counts).all(2)
    better = ((clean[:, None] > clean[None]) & counts).any(2)
    dominates = no_worse & better

    def peel(state):
        front, left, fronts = state
        below = (dominates & left[:, None]).any(0)
        return jnp.where(left, fronts, front), left & below, fronts + 1

    start = jnp.zeros(present.shape, jnp.int32), present, jnp.int32(0)
    front, _, _ = jax.lax.while_loop(lambda state: state[1].any(), peel, start)
    most = jnp.abs(weights).sum() * present.sum()
    borda = (_ranks(scores, valid) * weights).sum(1) / jnp.where(most > 0, most, 1.0)
    return jnp.where(present, borda - front, -jnp.inf).astype(jnp.float32)


def trimmed_rank(scores: Array, weights: Array, valid: Array | None = None) -> Array:
    """A branch's mean rank without the verifier that likes it most and the one that does least.

    One verifier, whatever it says, cannot move a value out of the range of the others' ranks. The
    verifiers that count, which are those of positive weight, count alike: the weights' sizes play
    no part. With fewer than three of them nothing can be trimmed and the value is their mean rank.

    Args:
      scores: [B, V] float.
      weights: [V] float.
      valid: [B] bool, false on padding; all true if None.

    Returns:
      Values, [B] float32; -inf for padding.
    """
    ranks, counts = _ranks(scores, valid), weights > 0
    number = counts.sum()
    total = jnp.where(counts, ranks, 0.0).sum(1)
    highest = jnp.where(counts, ranks, -jnp.inf).max(1)
    lowest = jnp.where(counts, ranks, jnp.inf).min(1)
    inner = (total - highest - lowest) / jnp.maximum(number - 2, 1)
    value = jnp.where(number > 2, inner, total / jnp.maximum(number, 1))
    return jnp.where(_valid(scores, valid), value, -jnp.inf).astype(jnp.float32)


def _valid(scores: Array, valid: Array | None) -> Array:
    return jnp.ones(scores.shape[0], bool) if valid is None else valid


def _worst_if_not_finite(scores: Array) -> Array:
    return jnp.where(jnp.isfinite(scores), scores, -jnp.inf).astype(jnp.float32)


def _ranks(scores: Array, valid: Array | None) -> Array:
    """For each verifier how many branches a branch beats, ties counting half, [B, V] float32."""
    scores = _worst_if_not_finite(scores)
    rival = _valid(scores, valid)[None, :, None]
    beaten = ((scores[:, None] > scores[None]) & rival).sum(1)
    equal = ((scores[:, None] == scores[None]) & rival).sum(1)
    return (beaten + 0.5 * (equal - 1)).astype(jnp.float32)


AGGREGATIONS = {
    "sum": weighted_sum,
    "zscore": weighted_zscore,
    "rank": weighted_rank,
    "pareto": pareto_rank,
    "trimmed_rank": trimmed_rank,
}


class Panel:
    """Verifiers with weights that judge as one.

    Attributes:
      verifiers: those that judge and those that are held out.
      names: of the verifiers, in the order of the score columns.
      weights: [V] float32; those of held-out verifiers are not used.
      aggregation: how scores become values, one of `AGGREGATIONS`.
      guards: verifier name to the lowest score with which a branch can win.
      held_out: names of verifiers whose scores are reported and enter no value.
    """

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        weights: Sequence[float] | None = None,
        aggregation: str = "zscore",
        guards: Mapping[str, float] | None = None,
        held_out: Sequence[str] = (),
    ):
        """Puts verifiers together.

        Args:
          verifiers: with different names, at least one of them not held out.
          weights: one per verifier, not negative; ones if None.
          aggregation: one of `AGGREGATIONS`.
          guards: verifier name to floor. A weight of zero makes a verifier a guard and no more.
          held_out: names of verifiers to report and not to judge by.

        Raises:
          ValueError: no verifier that judges, a name twice, a guard or a held-out name that is no
            verifier's or is both, a floor or a weight that is no sensible number, weights of
            another number, unknown aggregation.
        """
        self.verifiers = tuple(verifiers)
        self.names = tuple(verifier.name for verifier in self.verifiers)
        self.guards = {name: float(floor) for name, floor in (guards or {}).items()}
        self.held_out = tuple(held_out)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"a panel needs verifiers with different names, got {self.names}")
        if weights is None:
            weights = [1.0] * len(self.names)
        if len(weights) != len(self.names):
            raise ValueError(f"{len(weights)} weights for the verifiers {self.names}")
        self.weights = np.asarray(weights, np.float32)
        self.aggregation = aggregation
        _aggregate(aggregation)
        self._check()
        self._columns = np.array([self.names.index(name) for name in self.judges])

    def _check(self) -> None:
        for role, names in (("guard", self.guards), ("held-out verifier", self.held_out)):
            for name in names:
                if name not in self.names:
                    known = ", ".join(self.names)
                    raise ValueError(f"the {role} {name!r} is not in the panel, which has {known}")
        if both := [name for name in self.guards if name in self.held_out]:
            raise ValueError(f"verifier {both[0]!r} is held out and so cannot be a guard")
        if not self.judges:
            raise ValueError("every verifier of the panel is held out, so that none judges")
        for name, weight in zip(self.names, self.weights, strict=True):
            if not (np.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of verifier {name!r} is {weight}, not 0 or more")
        for name, floor in self.guards.items():
            if not np.isfinite(floor):
                raise ValueError(f"the guard {name!r} has the floor {floor}, which is no number")

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the verifiers that enter values, in the order of the score columns."""
        return tuple(name for name in self.names if name not in self.held_out)

    @property
    def key(self) -> tuple:
        """Equal for panels that make the same values of the same scores."""
        weights, guards = map(float, self.weights), sorted(self.guards.items())
        return self.names, tuple(weights), self.aggregation, tuple(guards), self.held_out

    @property
    def needs(self) -> str:
        """ "image" if every verifier judges single images only, else "video"."""
        return "image" if all(v.needs == "image" for v in self.verifiers) else "video"

    def image(self) -> "Panel | None":
        """The part of the panel that judges single images; None if none of the judges does."""
        chosen = [i for i, v in enumerate(self.verifiers) if v.needs == "image"]
        names = [self.names[i] for i in chosen]
        if not set(names) & set(self.judges):
            return None
        return Panel(
            [self.verifiers[i] for i in chosen],
            [float(self.weights[i]) for i in chosen],
            self.aggregation,
            {name: floor for name, floor in self.guards.items() if name in names},
            [name for name in self.held_out if name in names],
        )

    def prepare(self, params: dict[str, dict], prompts: Sequence[str]) -> dict[str, Query]:
        """The queries of all verifiers.

        Args:
          params: verifier name to parameters.
          prompts: P texts.

        Returns:
          Verifier name to query, every leaf with a leading prompt axis.
        """
        return {v.name: v.prepare(params[v.name], prompts) for v in self.verifiers}

    def queries(
        self, params: dict[str, dict], prompt: str, stage_prompts: Sequence[str]
    ) -> list[dict[str, Query]]:
        """What verifiers are asked in a search: about the whole prompt, then at each stage.

        Args:
          params: verifier name to parameters.
          prompt: the whole one, by which rounds without a stage judge.
          stage_prompts: those of the stages.

        Returns:
          Verifier name to query, of the prompt and of every stage.
        """
        texts = [prompt, *stage_prompts]
        found: list[dict[str, Query]] = [{} for _ in texts]
        for v in self.verifiers:
            if hasattr(v, "at_stage"):
                asked = [v, *map(v.at_stage, range(len(stage_prompts)))]
                each = [
                    jax.tree.map(lambda x: x[0], own.prepare(params[v.name], [text]))
                    for own, text in zip(asked, texts, strict=True)
                ]
            else:
                query = v.prepare(params[v.name], texts)
                each = [jax.tree.map(lambda x, i=i: x[i], query) for i in range(len(texts))]
            for queries, own in zip(found, each, strict=True):
                queries[v.name] = own
        return found

    def score(self, params: dict[str, dict], frames: Array, query: dict[str, Query]) -> Array:
        """The verifiers' raw scores, on device.

        Args:
          params: verifier name to parameters.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: of one prompt, as `prepare` gives it, without the prompt axis.

        Returns:
          Scores, [B, V] float32, possibly not finite.
        """
        scores = [v.score(params[v.name], frames, query[v.name]) for v in self.verifiers]
        return jnp.stack(scores, axis=1).astype(jnp.float32)

    def value(
        self, scores: Array, valid: Array | None = None, aggregation: str | None = None
    ) -> Array:
        """One value per branch, by the panel's aggregation and its guards.

        A branch under a floor gets a value below that of every branch that is not: -1e6 * (1 + s),
        where s adds up over the guards how far the score falls short, in units of the floor's size
        or of 1 for smaller floors. Where all are guarded the one that falls short least so comes
        first. Should an unguarded value lie below -5e5, then twice its size takes the place of
        1e6. A guard's score that is not finite makes the value -inf.

        Args:
          scores: [B, V] float, a column for each of `names`.
          valid: [B] bool, false on padding.
          aggregation: instead of the panel's own.

        Returns:
          Values, [B] float32; -inf for padding.

        Raises:
          ValueError: unknown aggregation.
        """
        aggregate = _aggregate(self.aggregation if aggregation is None else aggregation)
        columns = self._columns
        value = aggregate(scores[:, columns], jnp.asarray(self.weights[columns]), valid)
        if not self.guards:
            return value
        shortfall, guarded = self._shortfall(scores), self.guarded(scores)
        lowest = jnp.where(jnp.isfinite(value) & ~guarded, value, 0.0).min()
        value = jnp.where(
            guarded & jnp.isfinite(value),
            jnp.minimum(_GUARDED, 2 * lowest) * (1 + shortfall),
            value,
        )
        return jnp.where(jnp.isfinite(shortfall), value, -jnp.inf).astype(jnp.float32)

    def guarded(self, scores: Array) -> Array:
        """Which branches cannot win, because a score is under its verifier's floor or not finite.

        Args:
          scores: [B, V] float, a column for each of `names`.

        Returns:
          [B] bool; all false without guards.
        """
        return self._shortfall(scores) > 0

    def _shortfall(self, scores: Array) -> Array:
        """How far scores fall short of the floors, summed over guards, [B] float32."""
        total = jnp.zeros(scores.shape[0], jnp.float32)
        for name, floor in self.guards.items():
            score = scores[:, self.names.index(name)]
            short = jnp.maximum(floor - score, 0.0) / max(abs(floor), 1.0)
            total += jnp.where(jnp.isfinite(score), short, jnp.inf)
        return total

    @staticmethod
    def faults(scores: Array, valid: Array | None = None) -> Array:
        """How many scores of each verifier are not finite, [V] int32."""
        return (~jnp.isfinite(scores) & _valid(scores, valid)[:, None]).sum(0)


def _aggregate(name: str):
    if name not in AGGREGATIONS:
        raise ValueError(f"aggregation {name!r} is none of {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[name]
