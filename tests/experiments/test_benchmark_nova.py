"""What NOVA's cache, visible tokens and shared parents save is counted, not claimed."""

import pytest

from experiments import benchmark_nova as benchmark
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.nova.sampler import SamplerConfig
from tts_jax.generators.nova.transformer import TransformerConfig
from tts_jax.generators.nova.vae import VAEConfig
from tts_jax.language.phi import PhiConfig


@pytest.fixture(scope="module")
def config():
    return NovaConfig(
        phi=PhiConfig(vocabulary=32, width=8, heads=2, layers=1, mlp=8, rotary=0.5),
        transformer=TransformerConfig(
            latent_channels=2,
            grid=(4, 4),
            video_grid=(2, 2),
            time_base=4,
            text_width=8,
            text_length=4,
            video_layers=2,
            image_layers=2,
            decoder_layers=1,
            video_heads=2,
            image_heads=2,
            width=16,
            decoder_width=16,
        ),
        vae=VAEConfig(latent_channels=2, channels=(2, 2, 2), layers=1, groups=1, flat=1),
        sampler=SamplerConfig(frames=3, steps=5, diffusion_steps=2, rooms=2),
    )


def test_a_cache_saves_reading_frames_again(config):
    found = benchmark.measure_cache(config)
    assert found["cached"] < found["again"]
    assert found["bytes"] == 2 * 2 * (2 * 2 * config.places * 16)


def test_visible_tokens_cost_less_than_their_room_and_that_less_than_all(config):
    found = benchmark.measure_visible(config)
    assert found["visible"] < found["room"] < found["masked"]


def test_siblings_cost_less_together(config):
    for shared, alone in benchmark.measure_sharing(config, 3).values():
        assert shared < alone
