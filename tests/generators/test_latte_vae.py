"""Latte's autoencoder of frames computes what Stable Diffusion's in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from flax import nnx

from converters.core import convert
from converters.image_autoencoder import image_rules
from tests.published import randomise
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.generators.latte.vae import FrameVAE, VAEConfig

TOLERANCE = 1e-4
RULES = image_rules()


@pytest.fixture(scope="module")
def reference():
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        norm_num_groups=2,
    )
    return randomise(model, seed=3)


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


def test_old_names_of_the_attention_are_known(reference):
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = dict(tensors)
    for name in tensors:
        for new, other in names.items():
            if f".{new}." in name:
                old[name.replace(new, other)] = old.pop(name)
    assert len(set(old) - set(tensors)) == 2 * 2 * len(names)
    _, like = abstract_params(FrameVAE, VAEConfig.from_reference(reference.config))
    found, wanted = (flatten(convert(stored, like, RULES)) for stored in (old, tensors))
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("change", [{"use_quant_conv": False}, {"shift_factor": 0.1}], ids=str)
def test_settings_that_the_checkpoint_has_not_are_refused(reference, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        VAEConfig.from_reference(dict(reference.config) | change)
