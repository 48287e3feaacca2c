"""NOVA's video autoencoder against the recorded one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.nova import VAE_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.nova.vae import (
    CausalVideoVAE,
    VAEConfig,
)
from tts_jax.nn.autoencoder import posterior_sample

TOLERANCE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("nova_vae") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden("nova_vae") / "io.safetensors")


@pytest.fixture(scope="module")
def run(golden, fields):
    """`run(name, x)`: a method of our VAE on the recorded weights, on [B, C, T, H, W]."""
    config = VAEConfig.from_reference(fields)
    graph, like = abstract_params(CausalVideoVAE, config)
    params = convert(load_file(golden("nova_vae") / "weights.safetensors"), like, VAE_RULES)
    compiled = {
        name: jax.jit(lambda p, x, name=name: getattr(nnx.merge(graph, p), name)(x))
        for name in ("encode", "decode")
    }
    return lambda name, x: compiled[name](params, last(x))


def last(x):
    """[B, C, T, H, W] to [B, T, H, W, C]; of an image, T is 1."""
    return np.moveaxis(x if x.ndim == 5 else x[:, :, None], 1, -1)


def close(found, wanted):
    wanted = last(wanted)
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


def cases(recorded, ending):
    found = [name.removesuffix(ending) for name in recorded if name.endswith(ending)]
    assert found
    return found


def test_moments_are_those_of_the_original(run, recorded):
    for case in cases(recorded, "/moments"):
        close(run("encode", recorded[f"{case}/x"]), recorded[f"{case}/moments"])


def test_pixels_are_those_of_the_original(run, recorded):
    for case in cases(recorded, "/out"):
        z = recorded.get(f"{case}/z", recorded["decode_image/z"])
        pixels = run("decode", z)
        close(pixels, recorded[f"{case}/out"])
        if f"{case}/uint8" in recorded:
            found = np.clip(pixels * 127.5 + 127.5, 0, 255).astype(np.uint8)
            difference = np.abs(found.astype(int) - recorded[f"{case}/uint8"].astype(int))
            assert difference.max() <= 1


def test_posterior_samples_are_those_of_the_original(recorded, fields):
    moments, noise = last(recorded["image/moments"]), last(recorded["image/sample_noise"])
    found = posterior_sample(moments, noise)
    close(found, recorded["image/sample"])
    close(found * VAEConfig.from_reference(fields).scale, recorded["image/sample_scaled"])


def test_windows_that_are_not_filled_are_dropped():
    config = VAEConfig(channels=(2, 2, 2), layers=1, groups=1, latent_channels=2, flat=1)
    graph, like = abstract_params(CausalVideoVAE, config)

    def shape(name, *sizes):
        run = lambda p, x: getattr(nnx.merge(graph, p), name)(x)  # noqa: E731
        return jax.eval_shape(run, like, jax.ShapeDtypeStruct(sizes, jnp.float32)).shape

    for frames, wanted in {1: 1, 5: 2, 17: 5, 20: 5, 33: 9}.items():
        assert shape("encode", 1, frames, 8, 8, 3) == (1, wanted, 2, 2, 4)
    for frames, wanted in {1: 1, 5: 17, 7: 17, 9: 33}.items():
        assert shape("decode", 1, frames, 2, 2, 2) == (1, wanted, 8, 8, 3)


def test_whole_windows_show_every_frame():
    whole = VAEConfig.published().whole_windows
    assert [whole(n) for n in (1, 4, 5, 6, 9, 10)] == [1, 4, 5, 9, 9, 13]


@pytest.mark.parametrize(
    "change", [{"shift_factor": 0.5}, {"up_block_types": ["UpDecoderBlock2D"] * 4}]
)
def test_settings_that_the_checkpoint_has_not_are_refused(fields, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        VAEConfig.from_reference(fields | change)
