"""Several verifiers, and how their scores become one value per branch.

B branches  V verifiers  P prompts  T frames  H W frame size.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.verifiers.protocol import Query, Verifier


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
    finite = jnp.isfinite(scores)
    counted = finite if valid is None else finite & valid[:, None]
    number = jnp.maximum(counted.sum(0), 1)
    clean = jnp.where(counted, scores, 0.0).astype(jnp.float32)
    mean = clean.sum(0) / number
    centred = jnp.where(counted, clean - mean, 0.0)
    deviation = jnp.sqrt((centred**2).sum(0) / number)
    apart = deviation > 1e-6 * jnp.maximum(jnp.abs(mean), 1e-6)
    value = jnp.where(apart, centred / jnp.where(apart, deviation, 1.0), 0.0) @ weights
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
    scores = jnp.where(jnp.isfinite(scores), scores.astype(jnp.float32), -jnp.inf)
    valid = jnp.ones(scores.shape[0], bool) if valid is None else valid
    rival = valid[None, :, None]
    beaten = ((scores[:, None] > scores[None]) & rival).sum(1)
    equal = ((scores[:, None] == scores[None]) & rival).sum(1)
    value = (beaten + 0.5 * (equal - 1)) @ weights / scores.shape[1]
    return jnp.where(valid, value, -jnp.inf).astype(jnp.float32)


AGGREGATIONS = {"zscore": weighted_zscore, "rank": weighted_rank}


class Panel:
    """Verifiers with weights that judge as one.

    Attributes:
      names: of the verifiers, in the order of the score columns.
      weights: [V] float32.
    """

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        weights: Sequence[float] | None = None,
        aggregation: str = "zscore",
    ):
        """Puts verifiers together.

        Args:
          verifiers: with different names, at least one.
          weights: one per verifier; ones if None.
          aggregation: "zscore" or "rank".

        Raises:
          ValueError: no verifier, a name twice, weights of another number, unknown aggregation.
        """
        self.verifiers = tuple(verifiers)
        self.names = tuple(verifier.name for verifier in self.verifiers)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"a panel needs verifiers with different names, got {self.names}")
        if weights is None:
            weights = [1.0] * len(self.names)
        if len(weights) != len(self.names):
            raise ValueError(f"{len(weights)} weights for the verifiers {self.names}")
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation {aggregation!r} is none of {', '.join(AGGREGATIONS)}")
        self.weights = np.asarray(weights, np.float32)
        self.aggregation = aggregation

    @property
    def needs(self) -> str:
        """ "image" if every verifier judges the first frame only, else "video"."""
        return "image" if all(v.needs == "image" for v in self.verifiers) else "video"

    def prepare(self, params: dict[str, dict], prompts: Sequence[str]) -> dict[str, Query]:
        """The queries of all verifiers.

        Args:
          params: verifier name to parameters.
          prompts: P texts.

        Returns:
          Verifier name to query, every leaf with a leading prompt axis.
        """
        return {v.name: v.prepare(params[v.name], prompts) for v in self.verifiers}

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

    def value(self, scores: Array, valid: Array | None = None) -> Array:
        """One value per branch, by the panel's aggregation.

        Args:
          scores: [B, V] float.
          valid: [B] bool, false on padding.

        Returns:
          Values, [B] float32.
        """
        return AGGREGATIONS[self.aggregation](scores, jnp.asarray(self.weights), valid)

    @staticmethod
    def faults(scores: Array, valid: Array | None = None) -> Array:
        """How many scores of each verifier are not finite, [V] int32."""
        wrong = ~jnp.isfinite(scores)
        return (wrong if valid is None else wrong & valid[:, None]).sum(0)
