"""Our Wan VAE computes what the one in the diffusers package does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from flax import nnx

from converters.core import convert
from converters.wan import VAE_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.wan import vae
from tts_jax.generators.wan.vae import CausalVideoVAE, VAEConfig

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference():
    """A tiny model of the package, every parameter random, norms and biases too."""
    torch.manual_seed(3)
    model = AutoencoderKLWan(
        base_dim=6,
        z_dim=3,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.3, -0.2, 0.1],
        latents_std=[1.5, 0.5, 2.0],
        scale_factor_spatial=4,
    ).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre = 1.0 if name.endswith("gamma") else 0.0
            fan = 25 if tensor.numel() == len(tensor) else tensor[0].numel()
            tensor.copy_(centre + torch.randn(tensor.shape) * fan**-0.5)
        model.decoder.conv_out.weight *= 0.3  # pixels are clipped
    return model


@pytest.fixture(scope="module")
def run(reference):
    """`run(name, x, **options)`: a method of our VAE on the reference's weights."""
    config = VAEConfig.from_reference(reference.config)
    graph, like = abstract_params(CausalVideoVAE, config)
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    params = convert(tensors, like, VAE_RULES)

    def call(name, x, **options):
        return jax.jit(lambda p, x: getattr(nnx.merge(graph, p), name)(x, **options))(params, x)

    return call


def error(found, wanted):
    wanted = wanted.permute(0, 2, 3, 4, 1).numpy()
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


def draw(*shape):
    x = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    return x, torch.tensor(x).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("frames", [1, 13])
def test_moments_are_those_of_the_reference(reference, run, frames):
    pixels, wanted = draw(2, frames, 8, 12, 3)
    with torch.no_grad():
        wanted = reference.encode(wanted).latent_dist.parameters
    assert error(run("encode", pixels), wanted) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 5])
def test_pixels_are_those_of_the_reference(reference, run, frames):
    latents, wanted = draw(2, frames, 2, 3, 3)
    with torch.no_grad():
        wanted = reference.decode(wanted).sample
    assert (wanted.abs() < 1).float().mean() > 0.9
    assert error(run("decode", latents), wanted) <= TOLERANCE


def test_a_clip_is_the_same_whole_and_in_windows(run):
    latents, pixels = draw(1, 4, 2, 3, 3)[0], draw(1, 13, 8, 12, 3)[0]
    wanted = run("decode", latents, window=None)
    for window in (1, 2):
        np.testing.assert_allclose(run("decode", latents, window=window), wanted, atol=2e-5)
    moments = run("encode", pixels, window=None)
    np.testing.assert_allclose(run("encode", pixels), moments, atol=2e-5)


def test_tiled_pixels_are_those_of_the_reference(reference, run, monkeypatch):
    monkeypatch.setattr(vae, "TILE", 12)
    monkeypatch.setattr(vae, "TILE_STRIDE", 8)
    latents, wanted = draw(1, 2, 5, 4, 3)
    with torch.no_grad():
        reference.enable_tiling(12, 12, 8, 8)
        wanted = reference.decode(wanted).sample
        reference.use_tiling = False
    assert error(run("decode_tiled", latents), wanted) <= TOLERANCE


def test_tiled_moments_are_those_of_the_reference(reference, run, monkeypatch):
    monkeypatch.setattr(vae, "TILE", 12)
    monkeypatch.setattr(vae, "TILE_STRIDE", 8)
    pixels, wanted = draw(1, 5, 20, 16, 3)
    with torch.no_grad():
        reference.enable_tiling(12, 12, 8, 8)
        wanted = reference.encode(wanted).latent_dist.parameters
        reference.use_tiling = False
    assert error(run("encode_tiled", pixels), wanted) <= TOLERANCE


def test_the_tiles_are_those_of_the_reference(reference):
    whole = AutoencoderKLWan(base_dim=2, dim_mult=[1, 1], temperal_downsample=[True])
    sides = whole.tile_sample_min_height, whole.tile_sample_stride_height
    assert (vae.TILE, vae.TILE_STRIDE) == sides


def test_other_numbers_of_frames_are_refused(run):
    with pytest.raises(ValueError, match="multiples of 4"):
        run("encode", np.zeros((1, 8, 8, 8, 3), np.float32))


@pytest.mark.parametrize(
    "field, value", [("is_residual", True), ("patch_size", 2), ("scale_factor_temporal", 8)]
)
def test_settings_that_the_published_vae_has_not_are_refused(reference, field, value):
    with pytest.raises(ValueError, match=field):
        VAEConfig.from_reference(dict(reference.config) | {field: value})


def test_the_published_sizes_are_the_defaults_of_the_package():
    with torch.device("meta"):
        config = AutoencoderKLWan().config
    assert VAEConfig.from_reference(config) == VAEConfig.published()
