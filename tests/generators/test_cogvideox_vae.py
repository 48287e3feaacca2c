"""Our CogVideoX VAE computes what the one in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from flax import nnx

from converters.cogvideox import VAE_RULES
from converters.core import convert
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.cogvideox.vae import CausalVideoVAE, VAEConfig
from tts_jax.nn.autoencoder import posterior_mode

TOLERANCE = 1e-4
CHANNELS = (8, 12, 16)


@pytest.fixture(scope="module")
def reference():
    """A tiny model of the package, every parameter random, norms and biases too."""
    torch.manual_seed(3)
    blocks = len(CHANNELS)
    model = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks,
        block_out_channels=CHANNELS,
        latent_channels=3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=48,
        sample_width=48,
    ).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre = 1.0 if "norm" in name and tensor.ndim == 1 and "weight" in name else 0.0
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.copy_(centre + torch.randn(tensor.shape) * fan**-0.5)
    return model


@pytest.fixture(scope="module")
def run(reference):
    """`run(name, x)`: a method of our VAE on the reference's weights."""
    config = VAEConfig.from_reference(reference.config)
    graph, like = abstract_params(CausalVideoVAE, config)
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    params = convert(tensors, like, VAE_RULES)

    def call(name, x):
        return jax.jit(lambda p, x: getattr(nnx.merge(graph, p), name)(x))(params, x)

    return call


def error(found, wanted):
    wanted = wanted.permute(0, 2, 3, 4, 1).numpy()
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


def draw(*shape):
    x = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    return x, torch.tensor(x).permute(0, 4, 1, 2, 3)


@pytest.fixture
def tiled(reference):
    reference.enable_tiling()
    yield reference
    reference.disable_tiling()


@pytest.mark.parametrize("frames", [1, 17, 21])
def test_moments_are_those_of_the_reference(reference, run, frames):
    pixels, wanted = draw(2, frames, 16, 24, 3)
    with torch.no_grad():
        wanted = reference.encode(wanted).latent_dist
    moments = run("encode", pixels)
    assert error(posterior_mode(moments), wanted.mean) <= TOLERANCE
    assert error(moments, wanted.parameters) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 7, 8])
def test_pixels_are_those_of_the_reference(reference, run, frames):
    latents, wanted = draw(2, frames, 4, 6, 3)
    with torch.no_grad():
        wanted = reference.decode(wanted).sample
    assert error(run("decode", latents), wanted) <= TOLERANCE


def test_tiled_moments_are_those_of_the_reference(tiled, run):
    pixels, wanted = draw(1, 5, 36, 28, 3)
    with torch.no_grad():
        wanted = tiled.encode(wanted).latent_dist.parameters
    assert error(run("encode_tiled", pixels), wanted) <= TOLERANCE


def test_tiled_pixels_are_those_of_the_reference(tiled, run):
    latents, wanted = draw(1, 3, 9, 7, 3)
    with torch.no_grad():
        wanted = tiled.decode(wanted).sample
    assert error(run("decode_tiled", latents), wanted) <= TOLERANCE


def test_a_clip_no_larger_than_a_tile_is_not_tiled(run):
    latents, _ = draw(1, 3, 6, 5, 3)
    np.testing.assert_array_equal(run("decode_tiled", latents), run("decode", latents))


def test_other_numbers_of_frames_are_refused(run):
    with pytest.raises(ValueError, match="multiples of 4"):
        run("encode", np.zeros((1, 8, 8, 8, 3), np.float32))


@pytest.mark.parametrize("field", ["use_quant_conv", "invert_scale_latents", "latents_mean"])
def test_settings_that_no_checkpoint_has_are_refused(reference, field):
    with pytest.raises(ValueError, match=field):
        VAEConfig.from_reference(dict(reference.config) | {field: True})
