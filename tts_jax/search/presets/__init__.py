"""One file per published search; each turns its configuration into rounds."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
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
    return partial(_module(config.preset).search, config)


def preset_fields(name: str) -> Mapping[str, Any]:
    """The fields of a preset with their defaults.

    Raises:
      SearchConfigError: no such preset.
    """
    return _module(name).FIELDS


def _module(name: str) -> ModuleType:
    if name not in PRESETS:
        raise SearchConfigError(f"preset {name!r} is none of {', '.join(PRESETS)}")
    return importlib.import_module(f"{__name__}.{name}")
