"""The `search` entry of configurations: any preset, with its own fields."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tts_jax.search.presets import PRESETS, preset_fields


def search(preset: str, **values: Any) -> ConfigDict:
    """Settings of a search; fields that are None have the preset's own defaults.

    The fields of all presets are there, so that a command line can choose another one:
    `--config.search.preset=beam --config.search.beams=2`.

    Args:
      preset: name, one of `tts_jax.search.PRESETS`.
      values: of its fields.
    """
    settings = ConfigDict({"preset": preset})
    for name in PRESETS:
        for field, default in preset_fields(name).items():
            plain = isinstance(default, bool | int | float | str | tuple)
            settings[field] = placeholder(type(default) if plain else object)
    settings.update(values)
    return settings
