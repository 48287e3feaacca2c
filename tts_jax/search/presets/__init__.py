"""One file per published search; each turns its configuration into rounds."""

import importlib
from collections.abc import Mapping
from typing import Any

from tts_jax.search.rounds import Round, SearchConfigError

PRESETS = ("random_linear", "tree_of_frames")


def load_rounds(config: Mapping[str, Any], num_segments: int) -> tuple[Round, ...]:
    """The rounds of the search that `config.preset` names.

    Args:
      config: `preset` and the preset's own fields, as attributes.
      num_segments: segments of a video.

    Raises:
      SearchConfigError: no such preset, or fields that make no search.
    """
    if config.preset not in PRESETS:
        raise SearchConfigError(f"preset {config.preset!r} is none of {', '.join(PRESETS)}")
    return importlib.import_module(f"{__name__}.{config.preset}").rounds(config, num_segments)
