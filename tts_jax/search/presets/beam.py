"""Diffusion latent beam search."""

from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, check_forks, fields, steps_of
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import top_k
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(beams=4, children=2, every=1, look_ahead=1)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Diffusion latent beam search, with look-ahead (arXiv 2501.19252).

    Keeps B beams. After every L segments each has had K children, which are judged on the clean
    estimate (Tweedie), or on one that T' denoiser steps look ahead for; the best B of B * K go on.
    Published: B 4, K 2, T' 1 or 6, L one step.

    NFE: B * K * T and, with T' > 1, B * K * T' at each judged depth but the last. The published
    T * (B + K * B * T') evaluates each beam once more and looks ahead at the end too. Decodes and
    calls of each verifier: B * K at each judged depth, T / L of them.

    Args:
      config: `beams`, B; `children`, K; `every`, L (1); `look_ahead`, T' (1: the clean estimate).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers below 1, a fork or a look-ahead that the generator has not.
    """
    own = fields(config, FIELDS)
    at_least(1, beams=own.beams, children=own.children, look_ahead=own.look_ahead)
    depths = steps_of(outline, own.every)
    if own.children > 1:
        check_forks(outline, depths[:-1])
    if own.look_ahead > 1 and outline.look_ahead is None:
        raise SearchConfigError(
            f"look_ahead is {own.look_ahead}, but this generator has no noisy states to look ahead "
            "from, so that it must be 1"
        )
    live, children, label = [ROOT], own.beams * own.children, ""
    for depth in depths:
        ahead = own.look_ahead if own.look_ahead > 1 and depth < outline.num_segments else "clean"
        grown = yield Round(
            parents=live,
            to=depth,
            children=children,
            estimate=ahead,
            judges="panel",
            label=label,
        )
        live, children, label = top_k(grown, own.beams), own.children, f"top_k({own.beams})"
