"""One file per published search; each turns its configuration into rounds."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tts_jax.search.rounds import Outline, Rounds, SearchConfigError

PRESETS = (
    "backtracking",
    "beam",
    "draft_then_replay",
    "evolutionary",
    "fk_steering",
    "greedy",
    "random_linear",
    "rollover_budget",
    "search_over_paths",
    "successive_halving",
    "tree_of_frames",
    "video_t1",
    "zero_order",
)

# Starts a search anew: (outline, rng) -> rounds.
Preset = Callable[[Outline, np.random.Generator], Rounds]


def load_preset(config: Any) -> Preset:
    """The search that `config.preset` names.

    Args:
      config: `preset` and the preset's own fields, as attributes.

    Raises:
      SearchConfigError: no such preset.
    """
    if config.preset not in PRESETS:
        raise SearchConfigError(f"preset {config.preset!r} is none of {', '.join(PRESETS)}")
    module = importlib.import_module(f"{__name__}.{config.preset}")
    return partial(module.search, config)
