"""The config files of Wan 2.1 say what is published, and nothing unknown."""

import dataclasses
import json

import numpy as np
import pytest

from configs import causal_wan_1_3b, wan2_1_1_3b, wan2_1_14b
from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten
from tts_jax.generators.causal_wan.generator import CausalWanConfig
from tts_jax.generators.wan.generator import SamplerConfig
from tts_jax.planning.published import published_generator
from tts_jax.search.presets import load_preset
from tts_jax.verifiers import NAMES

CONFIGS = {"wan2_1_1_3b": wan2_1_1_3b, "wan2_1_14b": wan2_1_14b}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_sampler_is_the_published_one(name):
    config = CONFIGS[name].get_config()
    fields = dict(config.generator)
    assert fields.pop("name") == "wan" and fields.pop("checkpoint").endswith(name)
    assert fields.pop("attention") == "auto"
    sampler = getattr(SamplerConfig, name)()
    assert dataclasses.replace(sampler, **fields) == sampler
    assert json.loads(config.to_json())
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
    assert callable(load_preset(config.search))


@pytest.mark.parametrize("name", [*CONFIGS, "causal_wan_1_3b"])
def test_the_docstring_counts_right(name):
    counts = 0
    for part in MODELS[name].parts.values():
        component = COMPONENTS[part.component]
        _, like = component.abstract(component.published())
        counts += sum(int(np.prod(x.shape)) for x in flatten(like).values())
    doc = " ".join((CONFIGS | {"causal_wan_1_3b": causal_wan_1_3b})[name].__doc__.split())
    assert f"{counts / 1e9:.1f}e9" in doc and f"{2 * counts / 1e9:.1f} GB" in doc


def test_the_causal_sampler_is_the_published_one():
    config = causal_wan_1_3b.get_config()
    fields = dict(config.generator)
    assert fields.pop("image") == ""
    generator = published_generator(fields.pop("name"), fields.pop("checkpoint"), **fields)
    assert generator.config == CausalWanConfig.self_forcing()
    assert generator.config.chunks == (3,) * 7
    assert sum(map(generator.nfe, range(generator.num_segments))) == 34
    assert callable(load_preset(config.search))
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
