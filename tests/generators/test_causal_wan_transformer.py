"""The causal form of Wan's denoiser against recorded calls of Self-Forcing's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.wan_transformer import ORIGINAL_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.wan.transformer import Past, Transformer, TransformerConfig

TOLERANCE = dict(atol=3e-5, rtol=1e-5)
CHUNK = 3  # frames of the recorded cached calls


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("causal_wan_transformer") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    """Recorded tensors; latents with channels last."""
    found = load_file(golden("causal_wan_transformer") / "io.safetensors")
    return {n: x.transpose(0, 2, 3, 4, 1) if x.ndim == 5 else x for n, x in found.items()}


@pytest.fixture(scope="module")
def config(fields):
    return TransformerConfig.from_original(fields["model"])


@pytest.fixture(scope="module")
def model(golden, config):
    tensors = load_file(golden("causal_wan_transformer") / "weights.safetensors")
    graph, like = abstract_params(Transformer, config)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, convert(tensors, like, ORIGINAL_RULES)))


@pytest.fixture(scope="module")
def call(model):
    """`call(latents, text, time, past, first)`: one program for all chunks of a shape."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda *args: nnx.merge(graph, state).chunk(*args))
    return lambda latents, text, time, past, first: run(latents, text, time, past, jnp.int32(first))


def chunks(frames):
    return [slice(first, first + CHUNK) for first in range(0, frames, CHUNK)]


def test_masked_calls_are_the_recorded_ones(model, recorded, fields):
    run = nnx.jit(
        lambda model, x, t, mask, positions: model(
            x,
            recorded["context"],
            t,
            frame_mask=np.array(mask),
            positions=np.array(positions),
        ),
        static_argnums=(3, 4),
    )
    for name, case in fields["cases"].items():
        x, t = recorded["x"], recorded["t"]
        positions = tuple(range(x.shape[1]))
        if case["teacher_forcing"]:
            before = recorded["aug_t"] if case["aug_t"] else np.zeros_like(t)
            x = np.concatenate([recorded["clean_x"], x], axis=1)
            t, positions = np.concatenate([before, t], axis=1), positions * 2
        mask = tuple(map(tuple, recorded[f"{name}.frame_mask"].tolist()))
        found = run(model, x, t, mask, positions)[:, -recorded["x"].shape[1] :]
        np.testing.assert_allclose(found, recorded[f"{name}.out"], **TOLERANCE, err_msg=name)


def test_text_is_read_as_recorded(model, recorded, config):
    text = model.read(recorded["context"])
    for layer in range(config.layers):
        for name, found in zip("kv", text, strict=True):
            wanted = recorded[f"cross_cache.layer{layer}.{name}"]
            np.testing.assert_allclose(found[layer], wanted, **TOLERANCE)


def check_cache(recorded, prefix, layers, keys_values):
    """Keys and values of the first sample, as far as they were recorded; keys by `evens_first`."""
    for layer in range(layers):
        for name, found in zip("kv", keys_values, strict=True):
            if (wanted := recorded.get(f"{prefix}.layer{layer}.{name}")) is not None:
                if name == "k":
                    wanted = np.concatenate([wanted[..., ::2], wanted[..., 1::2]], axis=-1)
                np.testing.assert_allclose(found[layer, :1], wanted, **TOLERANCE)


def test_chunks_over_a_cache_are_the_recorded_ones(call, model, recorded, config, fields):
    text, batch = model.read(recorded["context"]), len(recorded["x"])
    places = recorded["x"].shape[1] * fields["tokens_per_frame"]
    past = Past.empty(config, batch, places)
    for frames in chunks(recorded["x"].shape[1]):
        latents, time = recorded["x"][:, frames], recorded["t"][:, frames]
        found, own = call(latents, text, time, past, frames.start)
        np.testing.assert_allclose(found, recorded["cached_asis.out"][:, frames], **TOLERANCE)
        past = past.append(own)
    check_cache(recorded, "cached_asis", config.layers, past.kept)
    assert past.filled == places


def test_the_past_is_clean_whatever_was_tried_before(call, model, recorded, config, fields):
    text, batch = model.read(recorded["context"]), len(recorded["x"])
    past = Past.empty(config, batch, recorded["x"].shape[1] * fields["tokens_per_frame"])
    steps = {"noisy": ("x", "t"), "noisy2": ("x2", "t2"), "clean": ("clean_x", None)}
    for frames in chunks(recorded["x"].shape[1]):
        for name, (latents, time) in steps.items():
            times = np.zeros((batch, CHUNK)) if time is None else recorded[time][:, frames]
            arguments = recorded[latents][:, frames], text, np.float32(times), past, frames.start
            found, own = call(*arguments)
            wanted = recorded[f"cached_sf.{name}.out"][:, frames]
            np.testing.assert_allclose(found, wanted, **TOLERANCE)
        past = past.append(own)
    check_cache(recorded, "cached_sf", config.layers, past.kept)


def test_one_time_serves_all_frames_of_a_chunk(call, recorded, config, fields):
    past = Past.empty(config, len(recorded["x"]), CHUNK * fields["tokens_per_frame"])
    inputs = recorded["x"][:, :CHUNK], recorded["context"], recorded["t"][:, :1]
    found, _ = call(*inputs, past, 0)
    np.testing.assert_allclose(found, recorded["cached_t_broadcast.out"], **TOLERANCE)


@pytest.mark.parametrize("name", ["rolling_sink0", "rolling_sink2"])
def test_a_rolling_past_is_the_recorded_one(call, model, recorded, config, fields, name):
    text, tokens = model.read(recorded["context"][:1]), fields["tokens_per_frame"]
    window = fields["local_attn_size"] * tokens
    sink = int(name.removeprefix("rolling_sink")) * tokens
    past = Past.empty(config, 1, window - CHUNK * tokens)
    for frames in chunks(recorded["long_x"].shape[1]):
        noisy = recorded["long_x"][:, frames], text, recorded["long_t"][:, frames]
        found, _ = call(*noisy, past, frames.start)
        wanted = recorded[f"{name}.noisy.out"][:, frames]
        np.testing.assert_allclose(found, wanted, **TOLERANCE)
        clean = recorded["long_clean_x"][:, frames], text, np.zeros((1, CHUNK), np.float32)
        found, own = call(*clean, past, frames.start)
        wanted = recorded[f"{name}.clean.out"][:, frames]
        np.testing.assert_allclose(found, wanted, **TOLERANCE)
        kept, past = past.kept, past.append(own, sink)
    both = [np.concatenate(pair, axis=2) for pair in zip(kept, own, strict=True)]
    check_cache(recorded, name, config.layers, both)


def test_siblings_read_their_parents_past_and_do_not_copy_it(model, recorded, config):
    children, chunk = 16, recorded["x"][:1, :CHUNK, :2, :2]  # a token a frame beside a long past
    past = Past.empty(config, 1, 1000)
    graph, state = nnx.split(model)

    def advance(latents, past):
        arguments = latents, recorded["context"][:1], np.float32([[9]]), past, 40
        return nnx.merge(graph, state).chunk(*arguments)[0]

    def temporaries(shared):
        axis = None if shared else Past(0, None)
        own = past if shared else Past(past.kept._make(map(repeated, past.kept)), past.filled)
        family = jax.jit(jax.vmap(advance, (0, axis)))
        memory = family.lower(repeated(chunk), own).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.argument_size_in_bytes

    def repeated(x):
        return jnp.repeat(jnp.asarray(x)[None], children, axis=0)

    size = past.kept.keys.nbytes + past.kept.values.nbytes
    assert temporaries(shared=True) < 3 * size
    assert temporaries(shared=False) > children * size


def test_more_places_than_there_are_cannot_be_kept(config):
    past = Past.empty(config, 1, 10)
    with pytest.raises(ValueError, match="12 places are never given up, but there are 10"):
        past.append(past.kept, sink=12)
