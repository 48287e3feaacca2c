"""The config files of the published checkpoints say what is published, and nothing unknown."""

import dataclasses
import importlib
import json

import numpy as np
import pytest

from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.search.presets import load_preset
from tts_jax.verifiers import NAMES

PUBLISHED = [
    f"pyramid_flow_{variant}_{size}" for variant in ("flux", "mmdit") for size in ("384p", "768p")
]


def load(name):
    return importlib.import_module(f"configs.{name}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sampler_is_the_published_one(name):
    config = load(name).get_config()
    fields = dict(config.generator)
    assert fields.pop("name") == "pyramid_flow" and fields.pop("checkpoint").endswith(name)
    assert fields.pop("image") == "" and fields.pop("attention") == "auto"
    published = getattr(SamplerConfig, f"published_{name[-4:]}")()
    assert dataclasses.replace(published, **fields) == published
    assert json.loads(config.to_json())
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
    assert callable(load_preset(config.search))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_docstring_counts_right(name):
    counts = 0
    for part in MODELS[name].parts.values():
        component = COMPONENTS[part.component]
        config = component.published()
        if part.component == "clip_l_text" and "flux" in name:
            config = dataclasses.replace(config, projection=None)
        counts += sum(
            int(np.prod(x.shape)) for x in flatten(component.abstract(config)[1]).values()
        )
    doc = " ".join(load(name).__doc__.split())
    assert f"{counts / 1e9:.2f}e9" in doc and f"{2 * counts / 1e9:.1f} GB" in doc
    sampler = getattr(SamplerConfig, f"published_{name[-4:]}")()
    calls = 2 * (sum(sampler.steps_first) + (sampler.num_units - 1) * sum(sampler.steps))
    assert f"{calls} denoiser calls" in doc
