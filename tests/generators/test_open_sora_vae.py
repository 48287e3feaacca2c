"""Open-Sora's video autoencoder against the recorded one."""

import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.open_sora_vae import VAE_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.open_sora.vae import SPATIAL_SCALE, OpenSoraVAE, OpenSoraVAEConfig
from tts_jax.nn.autoencoder import posterior_sample

TOLERANCE = 5e-5  # of a tensor's largest value


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("open_sora_vae") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden("open_sora_vae") / "io.safetensors")


@pytest.fixture(scope="module")
def cases(recorded):
    found = [name.removesuffix(".x") for name in recorded if name.endswith(".x")]
    assert found
    return found


@pytest.fixture(scope="module")
def run(golden, fields):
    """`run(name, *inputs, **static)`: a method of our autoencoder on the recorded weights."""
    config = OpenSoraVAEConfig.from_reference(fields)
    graph, like = abstract_params(OpenSoraVAE, config)
    params = convert(load_file(golden("open_sora_vae") / "weights.safetensors"), like, VAE_RULES)

    @cache
    def compiled(name, **static):
        return jax.jit(lambda p, *xs: getattr(nnx.merge(graph, p), name)(*xs, **static))

    return lambda name, *inputs, **static: compiled(name, **static)(params, *inputs)


def last(x):
    """[B, C, ...] to [B, ..., C]."""
    return np.moveaxis(x, 1, -1)


def close(found, wanted):
    wanted = last(wanted)
    assert found.shape == wanted.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def joined(recorded, prefix):
    """What is recorded of every chunk, along time."""
    names = sorted(name for name in recorded if name.startswith(prefix))
    return np.concatenate([recorded[name] for name in names], axis=2)


def test_every_frame_is_encoded_by_itself(run, recorded, cases):
    for case in cases:
        moments = run("spatial_moments", last(recorded[f"{case}.x"]))
        close(moments.reshape(-1, *moments.shape[2:]), recorded[f"{case}.enc.spatial_moments"])
        noise = last(recorded[f"{case}.enc.spatial_noise"]).reshape(*moments.shape[:-1], -1)
        close(SPATIAL_SCALE * posterior_sample(moments, noise), recorded[f"{case}.enc.x_z"])


def test_time_is_encoded_in_chunks(run, recorded, cases):
    for case in cases:
        moments = run("temporal_moments", last(recorded[f"{case}.enc.x_z"]))
        close(moments, joined(recorded, f"{case}.enc.temporal_moments."))


def test_latents_are_means_shifted_and_scaled(run, recorded, cases):
    close(run("encode", last(recorded[f"{cases[0]}.x"])), recorded[f"{cases[0]}.enc.z_mode"])


def test_both_posteriors_are_drawn_from(run, recorded, cases):
    case = cases[-1]
    video, small = last(recorded[f"{case}.x"]), last(recorded[f"{case}.enc.x_z"])
    noise = last(recorded[f"{case}.enc.spatial_noise"]).reshape(small.shape)
    noise = noise, last(joined(recorded, f"{case}.enc.temporal_noise."))
    close(run("encode", video, noise), recorded[f"{case}.enc.z"])


def test_time_is_decoded_in_chunks(run, recorded, cases):
    for case in cases:
        wanted = recorded[f"{case}.dec.x_z"]
        found = run("temporal_decode", last(recorded[f"{case}.enc.z"]), frames=wanted.shape[2])
        close(found, wanted)


def test_every_frame_is_decoded_by_itself(run, recorded, cases):
    for case in cases:
        found = run("spatial_decode", last(recorded[f"{case}.dec.x_z"]))
        close(found, recorded[f"{case}.dec.video"])


def test_decoding_goes_through_both_halves(run, recorded, cases):
    video = recorded[f"{cases[0]}.dec.video"]
    found = run("decode", last(recorded[f"{cases[0]}.enc.z"]), frames=video.shape[2])
    close(found, video)


def test_frames_before_a_short_clip_are_blank_and_dropped_again(run, recorded, golden):
    weights = load_file(golden("open_sora_vae") / "weights.safetensors")
    shift, scale = (last(weights[name]) for name in ("shift", "scale"))
    moments = run("temporal_moments", last(recorded["temporal.x_z"]))
    close(moments, recorded["temporal.moments"])
    latents = (jnp.split(moments, 2, axis=-1)[0] - shift) / scale
    wanted = recorded["temporal.rec"]
    close(run("temporal_decode", latents, frames=wanted.shape[2]), wanted)


def test_a_later_chunk_does_not_know_an_earlier_one(run, recorded, fields):
    size = fields["micro_frame_size"]
    case = max((n for n in recorded if n.endswith(".enc.x_z")), key=lambda n: recorded[n].shape[2])
    small = last(recorded[case])
    assert small.shape[1] > size
    whole, alone = run("temporal_moments", small), run("temporal_moments", small[:, size:])
    np.testing.assert_array_equal(whole[:, -alone.shape[1] :], alone)


def test_latent_sizes_are_those_of_the_original(fields):
    config = OpenSoraVAEConfig.from_reference(fields)
    for case in fields["latent_size_cases"]:
        shape = config.latent_shape(*case["input"])
        assert list(shape) == [*case["latent"], config.latent_channels]
        assert config.latent_frames(config.most_frames(shape[0])) == shape[0]


def test_the_published_video_has_its_published_latents():
    graph, like = abstract_params(OpenSoraVAE, OpenSoraVAEConfig.published())
    latents = jax.ShapeDtypeStruct((1, 15, 30, 53, 4), jnp.float32)
    decode = partial(jax.eval_shape, lambda p, x: nnx.merge(graph, p).decode(x))
    assert decode(like, latents).shape == (1, 51, 240, 424, 3)


def test_a_number_of_frames_with_other_latents_is_refused(run, recorded, cases, fields):
    latents = last(recorded[f"{cases[0]}.enc.z"])
    frames = recorded[f"{cases[0]}.x"].shape[2] + fields["micro_frame_size"]
    with pytest.raises(ValueError, match="latent frames, not"):
        run("decode", latents, frames=frames)


def test_the_published_config_names_both_halves():
    found = {
        "vae_2d": {"type": "VideoAutoencoderKL", "micro_batch_size": 4},
        "vae_temporal": {"type": "VAE_Temporal_SD"},
        "micro_frame_size": 17,
    }
    assert OpenSoraVAEConfig.from_reference(found) == OpenSoraVAEConfig.published()
    found["vae_temporal"] = {"type": "VAE_Temporal"}
    with pytest.raises(ValueError, match="vae_temporal='VAE_Temporal'"):
        OpenSoraVAEConfig.from_reference(found)


@pytest.mark.parametrize("change", [{"act_fn": "relu"}, {"use_quant_conv": False}])
def test_settings_that_the_checkpoint_has_not_are_refused(fields, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        OpenSoraVAEConfig.from_reference(fields | {"spatial_vae": fields["spatial_vae"] | change})
