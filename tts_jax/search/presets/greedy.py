"""Greedy search along denoising chains."""

from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, check_forks, fields, steps_of
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import softmax_per_parent
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(chains=2, children=4, every=1, alpha=0.0)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """SVDD (arXiv 2408.08252) and, for L > 1, CoDe (arXiv 2502.00968).

    M chains on their own. After every L segments each chain has had K children, judged on the
    clean estimate, of which one goes on: the best, or one drawn by exp(value / alpha), for which
    values are the panel's weighted sums. Published for CoDe on flow models: M 2, K 25.

    NFE: M * K * T, since the parent's prediction is carried: SVDD's T * (1 + K) evaluates it anew.
    Decodes and calls of each verifier: M * K at each judged depth, T / L of them.

    Args:
      config: `chains`, M; `children`, K; `every`, L (1); `alpha`, temperature (0: the best).
      outline: of the generator.
      rng: draws once per chain and judged depth if alpha is above 0.

    Raises:
      SearchConfigError: numbers below 1, a negative alpha, a fork that the generator has not.
    """
    own = fields(config, FIELDS)
    at_least(1, chains=own.chains, children=own.children)
    if own.alpha < 0:
        raise SearchConfigError(f"alpha is {own.alpha}, but a temperature is at least 0")
    depths = steps_of(outline, own.every)
    if own.children > 1:
        check_forks(outline, depths[:-1])
    live, children = [ROOT], own.chains * own.children
    rule = f"softmax({own.alpha:g})" if own.alpha else "best_per_parent"
    for depth in depths:
        grown = yield Round(
            parents=live,
            to=depth,
            children=children,
            estimate="clean",
            judges="panel",
            aggregation="sum" if own.alpha else None,
            label="" if live == [ROOT] else rule,
        )
        # At the root, K consecutive children make a chain.
        size = own.children if live == [ROOT] else None
        live, children = softmax_per_parent(grown, own.alpha, rng, size), own.children
