"""A Pyramid-Flow of the smallest sizes, for the tests of generators."""

import jax
import numpy as np
import pytest

from tts_jax.generators.pyramid_flow.generator import PyramidFlow, PyramidFlowConfig
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.transformer import TransformerConfig
from tts_jax.generators.pyramid_flow.vae import LatentFactors, VAEConfig
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.tokenizer import WorldTokenizer


def build_generator(**sampler):
    tokenizer = WorldTokenizer()
    down = (True, False)
    defaults = dict(
        frames=4,
        height=8,
        width=8,
        channels=4,
        steps_first=(1, 1, 2),
        steps=(1, 2, 1),
        guidance_first=4.0,
        guidance=3.0,
    )
    config = PyramidFlowConfig(
        vae=VAEConfig(
            latent_channels=4,
            encoder_channels=(4, 4),
            encoder_layers=(1, 1),
            encoder_spatial_down=down,
            encoder_temporal_down=down,
            encoder_groups=2,
            decoder_channels=(4, 4),
            decoder_layers=(1, 1),
            decoder_spatial_up=down,
            decoder_temporal_up=down,
            decoder_groups=2,
        ),
        latent_factors=LatentFactors.flux(),
        transformer=TransformerConfig(
            heads=2,
            head_size=8,
            double_blocks=1,
            single_blocks=1,
            latent_channels=4,
            rope_axes=(4, 2, 2),
            text_width=16,
            pooled_width=16,
        ),
        text=TextConfig(
            vocabulary=len(tokenizer.vocabulary),
            length=tokenizer.length,
            width=16,
            heads=2,
            layers=1,
            mlp=16,
            eos_id=tokenizer.eos_id,
        ),
        sampler=SamplerConfig(**{**defaults, **sampler}),
    )
    return PyramidFlow(config, tokenizer)


def add_noise(params, seed):
    """Initial weights plus noise: the published initialisation predicts zero velocity."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        tree, [x + 0.2 * rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
    )


@pytest.fixture(scope="session")
def make_generator():
    """`make_generator(**sampler)`: a generator with these sampler settings."""
    return build_generator


@pytest.fixture(scope="session")
def randomise():
    """`randomise(params, seed)`: parameters whose velocities are not zero."""
    return add_noise
