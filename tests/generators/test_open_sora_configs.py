"""The config file of Open-Sora says what is published, and nothing unknown."""

import dataclasses
import json

import numpy as np

from configs import open_sora_1_2 as published
from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten
from tts_jax.generators.open_sora.sampler import SamplerConfig
from tts_jax.planning.published import published_generator
from tts_jax.search.presets import PRESETS, load_preset, preset_fields
from tts_jax.verifiers import NAMES


def test_the_sampler_is_the_published_one():
    config = published.get_config()
    fields = dict(config.generator)
    name, checkpoint = fields.pop("name"), fields.pop("checkpoint")
    assert fields.pop("image") == "" and fields.pop("attention") == "auto"
    sampler = SamplerConfig()
    assert set(fields) == {field.name for field in dataclasses.fields(sampler)}
    assert dataclasses.replace(sampler, **fields) == sampler
    generator = published_generator(name, checkpoint, **fields)
    assert generator.config.sampler == sampler and generator.tokenizer.length == 300
    assert json.loads(config.to_json())
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
    assert callable(load_preset(config.search))
    assert all(set(preset_fields(preset)) <= set(config.search) for preset in PRESETS)


def test_the_docstring_counts_right():
    counts = 0
    for part in MODELS["open_sora_1_2"].parts.values():
        component = COMPONENTS[part.component]
        _, like = component.abstract(component.published())
        counts += sum(int(np.prod(x.shape)) for x in flatten(like).values())
    doc = " ".join(published.__doc__.split())
    assert f"{counts / 1e9:.1f}e9" in doc and f"{2 * counts / 1e9:.1f} GB" in doc
    calls = sum(published_generator("open_sora", "open_sora_1_2").nfe(s) for s in range(6))
    assert f"{calls} denoiser calls" in doc
