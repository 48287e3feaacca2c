"""A tiny untrained checkpoint of the embedded world, laid out like the one in the package."""

import json
import shutil

import jax
import numpy as np
import pytest

from tts_jax.generators import save_generator
from tts_jax.generators.pyramid_flow.generator import PyramidFlow, PyramidFlowConfig
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.transformer import TransformerConfig
from tts_jax.generators.pyramid_flow.vae import LatentFactors, VAEConfig
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.tokenizer import ASSET, WorldTokenizer
from tts_jax.verifiers import save_verifier
from tts_jax.verifiers.clip import CLIPConfig, ClipVerifier
from tts_jax.verifiers.viclip import ViCLIPConfig, ViClipVerifier
from tts_jax.vision.vit import VisionConfig

TOWER = {"width": 8, "heads": 2, "layers": 1, "mlp": 16}


def text_config(tokenizer, **options):
    return TextConfig(
        vocabulary=len(tokenizer.vocabulary),
        length=tokenizer.length,
        eos_id=tokenizer.eos_id,
        **TOWER,
        **options,
    )


def generator_config(tokenizer):
    return PyramidFlowConfig(
        vae=VAEConfig(
            latent_channels=4,
            encoder_channels=(8, 8, 8),
            encoder_layers=(1, 1, 1),
            encoder_spatial_down=(True, True, False),
            encoder_temporal_down=(True, False, False),
            encoder_groups=4,
            decoder_channels=(8, 8, 8),
            decoder_layers=(1, 1, 1),
            decoder_spatial_up=(True, True, False),
            decoder_temporal_up=(False, True, False),
            decoder_groups=4,
        ),
        latent_factors=LatentFactors(first_shift=0.0, first_scale=1.0, shift=0.0, scale=1.0),
        transformer=TransformerConfig(
            heads=2,
            head_size=8,
            double_blocks=1,
            single_blocks=1,
            latent_channels=4,
            rope_axes=(4, 2, 2),
            text_width=TOWER["width"],
            pooled_width=TOWER["width"],
        ),
        text=text_config(tokenizer),
        sampler=SamplerConfig(
            frames=5,
            height=8,
            width=8,
            channels=4,
            steps_first=(1, 1, 1),
            steps=(1, 1, 1),
            guidance_first=2.0,
            guidance=2.0,
        ),
    )


def fill(abstract, seed):
    """Parameters drawn on the host, which is quicker than compiling the initialisers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), abstract)


def write_checkpoint(folder):
    """Writes the checkpoint; always the same one."""
    tokenizer = WorldTokenizer()
    folder.mkdir()
    shutil.copy(ASSET, folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps({"world": "moving_shapes"}))
    generator = PyramidFlow(generator_config(tokenizer), tokenizer)
    save_generator(folder, generator, fill(generator.abstract_params, 0))
    text = text_config(tokenizer, projection=4)
    vision = {"size": 32, "patch": 16, "projection": 4, **TOWER}
    for config_type, verifier_type, options, video in (
        (CLIPConfig, ClipVerifier, {}, {}),
        (ViCLIPConfig, ViClipVerifier, {"stride": 4}, {"frames": 3}),
    ):
        config = config_type(text=text, vision=VisionConfig(**vision, **video), **options)
        verifier = verifier_type(config, tokenizer)
        save_verifier(folder, verifier, fill(verifier.abstract_params, 1))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The checkpoint's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(folder)
    return folder
