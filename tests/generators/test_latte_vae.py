"""Latte's autoencoder of frames computes what Stable Diffusion's in the diffusers package does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from flax import nnx

from converters.core import check, convert
from converters.image_autoencoder import image_rules
from tests.published import randomise
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.latte.vae import FrameVAE, VAEConfig

TOLERANCE = 1e-4
RULES = image_rules()


def make_reference(channels=(4, 8, 8), layers=1, groups=2):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=groups,
    )


@pytest.fixture(scope="module")
def reference():
    return randomise(make_reference(), seed=3)


@pytest.fixture(scope="module")
def ours(reference):
    graph, like = abstract_params(FrameVAE, VAEConfig.from_reference(reference.config))
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return nnx.merge(graph, convert(tensors, like, RULES))


def error(found, wanted):
    wanted = np.moveaxis(wanted.numpy(), 1, -1)
    assert found.dtype == jnp.float32 and found.shape[2:] == wanted.shape[1:]
    return np.abs(found.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()


def test_frames_are_decoded_as_images_are(reference, ours):
    latents = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 4)).astype(np.float32)
    with torch.no_grad():
        images = torch.tensor(latents).flatten(0, 1).permute(0, 3, 1, 2)
        wanted = reference.decode(images).sample
    assert error(jax.jit(lambda x: ours.decode(x))(latents), wanted) <= TOLERANCE


def test_frames_are_encoded_as_images_are(reference, ours):
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, 2, 16, 24, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.tensor(pixels).flatten(0, 1).permute(0, 3, 1, 2)
        wanted = reference.encode(images).latent_dist.parameters
    found = jax.jit(lambda x: ours.encode(x))(pixels)
    # the package clamps log-variances to [-30, 20]
    found = np.concatenate([found[..., :4], np.clip(found[..., 4:], -30, 20)], -1)
    assert error(found, wanted) <= TOLERANCE


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
def test_every_published_tensor_is_taken_once(old):
    with torch.device("meta"):
        published = make_reference((128, 256, 512, 512), 2, 32)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
    manifest = {}
    for name, tensor in published.state_dict().items():
        for new, other in names.items() if old else ():
            name = re.sub(new, other, name)
        manifest[name] = list(tensor.shape)
    _, like = abstract_params(FrameVAE, VAEConfig.stable_diffusion())
    assert len(check(manifest, like, RULES)) == len(manifest) == 248


@pytest.mark.parametrize("change", [{"use_quant_conv": False}, {"shift_factor": 0.1}], ids=str)
def test_settings_that_the_checkpoint_has_not_are_refused(reference, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        VAEConfig.from_reference(dict(reference.config) | change)
