"""Search among drafts, of which the best is made in full."""

from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, fields
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import top_k
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(branches=8, replays=1)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Drafts, then a replay of the best path in full: CachedSearch (arXiv 2607.23159) with drafts.

    N drafts from independent noise, made with fewer denoiser steps; the paths of the best M are
    grown again, from the same noise, in full. Only these can win.

    NFE: N * T_draft + M * T. Decodes and calls of each verifier: N + M.

    Args:
      config: `branches`, N; `replays`, M (1).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers that do not fit together, a generator without drafts.
    """
    own = fields(config, FIELDS)
    at_least(1, branches=own.branches, replays=own.replays)
    if own.replays > own.branches:
        raise SearchConfigError(f"replays is {own.replays} of {own.branches} drafts")
    if outline.draft_nfe is None:
        raise SearchConfigError(
            "draft_then_replay needs a generator that makes drafts, with fewer steps"
        )
    drafts = yield Round(
        parents=[ROOT],
        to=outline.num_segments,
        children=own.branches,
        judges="panel",
        fidelity="draft",
    )
    yield Round(
        parents=[ROOT],
        to=outline.num_segments,
        along=[node.path for node in top_k(drafts, own.replays)],
        judges="panel",
        label=f"top_k({own.replays})",
    )
