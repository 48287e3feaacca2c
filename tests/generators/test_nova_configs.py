"""The config file of NOVA says what is published, and nothing unknown."""

import dataclasses
import json

import numpy as np

from configs import nova_d48w1024_osp480 as published
from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.search.presets import load_preset
from tts_jax.verifiers import NAMES


def test_the_sampler_is_the_published_one():
    config = published.get_config()
    fields = dict(config.generator)
    assert fields.pop("name") == "nova" and fields.pop("checkpoint").endswith("osp480")
    assert fields.pop("image") == "" and fields.pop("attention") == "auto"
    sampler = NovaConfig.d48w1024_osp480().sampler
    assert dataclasses.replace(sampler, **fields) == sampler
    assert json.loads(config.to_json())
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
    assert callable(load_preset(config.search))


def test_the_docstring_counts_right():
    counts = 0
    for part in MODELS["nova"].parts.values():
        component = COMPONENTS[part.component]
        _, like = component.abstract(component.published())
        counts += sum(int(np.prod(x.shape)) for x in flatten(like).values())
    doc = " ".join(published.__doc__.split())
    assert f"{counts / 1e9:.2f}e9" in doc and f"{2 * counts / 1e9:.1f} GB" in doc
    plan = NovaConfig.d48w1024_osp480().plan
    assert f"{len(plan.sizes)} calls" in doc
