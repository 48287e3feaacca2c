"""Random linear search."""

from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, check_depths, fields
from tts_jax.search.rounds import Outline, Round, Rounds
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(branches=8, record_depths=())


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Random linear search (arXiv 2503.18942), also called best-of-N.

    N branches from independent noise run to the end; the panel picks one.
    NFE: N * T, with T that of one video. Decodes and calls of each verifier: N, and N more for
    each of `record_depths`.

    Args:
      config: `branches`, N; `record_depths`, segments done when branches are judged for the record
        alone, which is what calibration is fitted to (none).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: no branches, or depths outside the video.
    """
    own = fields(config, FIELDS)
    at_least(1, branches=own.branches)
    check_depths(own.record_depths, outline, name="record_depths")
    live, children = [ROOT], own.branches
    for depth in own.record_depths:
        live = yield Round(
            parents=live, children=children, to=depth, estimate="clean", judges="panel"
        )
        children = 1
    yield Round(parents=live, children=children, to=outline.num_segments, judges="panel")
