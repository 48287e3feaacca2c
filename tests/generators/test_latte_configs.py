"""The config file of Latte-1 says what is published, and nothing unknown."""

import jax
import pytest

from configs import latte_1
from tts_jax.generators.latte.generator import LatteConfig
from tts_jax.planning.published import published_generator
from tts_jax.search.presets import load_preset
from tts_jax.verifiers import NAMES


@pytest.fixture(scope="module")
def generator():
    fields = dict(latte_1.get_config().generator)
    return published_generator(fields.pop("name"), fields.pop("checkpoint"), **fields)


def test_the_sampler_is_the_published_one(generator):
    assert generator.config == LatteConfig.latte_1()
    assert generator.config.latent_shape == (16, 64, 64, 4)
    assert sum(map(generator.nfe, range(generator.num_segments))) == 100


def test_verifiers_and_search_are_known():
    config = latte_1.get_config()
    assert {entry["name"] for entry in config.verifiers} <= set(NAMES)
    assert callable(load_preset(config.search))


def test_the_docstring_counts_right(generator):
    counts = {
        part: sum(x.size for x in jax.tree.leaves(params)) / 1e9
        for part, params in generator.abstract_params.items()
    }
    doc = " ".join(latte_1.__doc__.split())
    assert f"{sum(counts.values()):.1f}e9 parameters" in doc
    assert f"{2 * sum(counts.values()):.1f} GB in bfloat16" in doc
    for part, name in (("t5", "T5"), ("transformer", "denoiser"), ("vae", "VAE")):
        assert f"{name} {counts[part]:.2f}e9" in doc
