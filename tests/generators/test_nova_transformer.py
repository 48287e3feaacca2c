"""NOVA's networks, piece by piece, against the recorded ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import convert
from converters.nova import transformer_rules
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.nova.transformer import (
    Transformer,
    TransformerConfig,
    patchify,
    space_table,
    unpatchify,
)

TOLERANCE = dict(atol=5e-5, rtol=2e-5)
DECODER = dict(atol=2e-4, rtol=2e-5)


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("nova_transformer") / "config.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden("nova_transformer") / "io.safetensors")


@pytest.fixture(scope="module")
def model(golden, fields):
    config = TransformerConfig.from_reference(fields)
    tensors = load_file(golden("nova_transformer") / "weights.safetensors")
    graph, like = abstract_params(Transformer, config)
    params = convert(tensors, like, transformer_rules(config))
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


def last(x):
    """[B, C, ...] to [B, ..., C]."""
    return np.moveaxis(x, 1, -1)


def close(found, wanted, tolerance=TOLERANCE):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, **tolerance)


def numbers(recorded, prefix):
    """Sorted numbers behind a prefix in the names of tensors."""
    return sorted(int(name.removeprefix(prefix)) for name in recorded if name.startswith(prefix))


def test_prompts_become_tokens(model, recorded):
    rows = numbers(recorded, "text/prompt_embeds_")
    length = model.config.text_length
    states = [recorded[f"text/prompt_embeds_{i}"] for i in rows]
    mask = np.stack([np.arange(length) < len(part) for part in states])
    states = np.stack([np.pad(x, ((0, length - len(x)), (0, 0))) for x in states])
    padded = model.text.pad(states, mask)
    close(padded, recorded["text/padded"])
    close(model.text(padded), recorded["text/out"])
    null = model.text.pad(np.zeros((1, *states.shape[1:]), np.float32), mask[:1] & False)
    close(model.text(null), recorded["text/null_out"])
    motion = recorded["motion/flow"], recorded["motion/fps"]
    close(model.embed_motion(*map(jnp.asarray, motion)), recorded["motion/out"])
    default = np.full(2, 5.0, np.float32), np.full(2, 12.0, np.float32)
    close(model.embed_motion(motion[0], default[1]), recorded["motion/out_default_fps"])
    close(model.embed_motion(*default), recorded["motion/out_default_both"])
    tokens = jax.jit(lambda *args: model.embed_prompt(*args))(padded, *map(jnp.asarray, motion))
    close(tokens, recorded["cond/c"])


def test_places_and_times_are_those_of_the_original(model, recorded):
    config = model.config
    close(space_table(config.video_grid, config.width), recorded["space/video"])
    close(space_table(config.grid, config.width), recorded["space/image"])
    for count in numbers(recorded, "time/embed_len"):
        found = model.embed_times(jnp.arange(count), count)[:, None]
        close(found, recorded[f"time/embed_len{count}"])


def test_patches_are_those_of_the_original(model, recorded):
    patch, x = model.config.patch, last(recorded["patch/x"])
    close(patchify(x, patch), recorded["patch/patchify"])
    np.testing.assert_array_equal(unpatchify(patchify(x, patch), patch, model.config.grid), x)
    for name, module, size in (
        ("video", model.video, 2 * patch),
        ("image", model.image, patch),
        ("decoder", model.decoder, patch),
    ):
        close(module.patch_embed(patchify(x, size)), recorded[f"patch/{name}_tokens"])


def test_a_block_is_that_of_the_original(model, recorded):
    block = jax.tree.map(lambda x: x[0], model.video.blocks)
    close(jax.jit(lambda x: block(x))(recorded["block/in"]), recorded["block/out"])


def test_the_video_encoder_is_that_of_the_original(model, recorded):
    prompt, frames = recorded["cond/c"], recorded["video/tokens"]
    count = frames.shape[1]
    found = jax.jit(lambda *args: model.video.whole(*args))(prompt, frames)
    close(found, recorded["video/causal_out"])
    places = prompt.shape[1] + count * frames.shape[2]
    start = jax.jit(lambda *args: model.video.start(*args, places + 3))
    first, cache = start(prompt, recorded["video/cached_in_t0"])
    close(first, recorded["video/cached_out_t0"])
    close(first, recorded["video/mixed_t0"])
    go_on = jax.jit(lambda *args: model.video.go_on(*args))
    for t in range(1, count):
        begin = prompt.shape[1] + t * frames.shape[2]
        features, cache = go_on(recorded[f"video/cached_in_t{t}"], cache, begin)
        close(features, recorded[f"video/cached_out_t{t}"])
        close(model.video.mix(first, features), recorded[f"video/mixed_t{t}"])
    for part, values in (("k", cache.keys), ("v", cache.values)):
        found = np.moveaxis(values[0, :, :places], 1, 2)
        close(found, recorded[f"video/cache_{part}_block0"])


def test_frames_enter_the_video_encoder_as_in_the_original(model, recorded):
    x = np.moveaxis(recorded["video/x"], 1, -1)
    count = x.shape[1]
    for t in range(count):
        found = [
            model.frame_inputs(None if t == 0 else clip[t - 1], t, count, [False])[0] for clip in x
        ]
        close(np.stack(found), recorded["video/tokens"][:, t])
    alone = model.frame_inputs(None, 0, 1, [False, False])
    first, _ = model.video.start(recorded["cond/c"], alone, 64)
    close(first, recorded["video/single_out"])


def test_the_image_encoder_is_that_of_the_original(model, recorded):
    x = patchify(last(recorded["image/x"]), model.config.patch)
    order = recorded["image/order"][..., 0]
    known = numbers(recorded, "image/out_n")
    assert known
    room = min(max(known) + 2, order.shape[1])
    for count in known:
        for places in {room, count}:  # with and without padding
            found = jax.vmap(
                lambda c, x, order, count=count: model.image(
                    c[None], model.blank[...][0], x[order], order, jnp.arange(len(order)) < count
                )[0]
            )(recorded["image/c"], x, order[:, :places])
            close(found, recorded[f"image/out_n{count}"])


def test_the_patch_decoder_is_that_of_the_original(model, recorded):
    decoder, patch = model.decoder, model.config.patch
    noisy = patchify(last(recorded["decoder/x"]), patch)
    times = recorded["decoder/timestep"]
    features = decoder.embed_features(recorded["decoder/z"])
    condition = features + decoder.embed_times(times)[:, None]
    close(condition, recorded["decoder/time_cond_all"], DECODER)
    run = jax.jit(lambda *args: decoder(*args))
    found = run(noisy, condition)
    close(found, recorded["decoder/out_all"], DECODER)
    places = recorded["decoder/pred_ids"]
    chosen = (np.take_along_axis(x, places, 1) for x in (noisy, np.asarray(condition)))
    close(run(*chosen), np.take_along_axis(recorded["decoder/out_pred"], places, 1), DECODER)
    each = recorded["decoder/timestep_per_token"]
    condition = features + decoder.embed_times(each.reshape(-1)).reshape(*each.shape, -1)
    close(run(noisy, condition), recorded["decoder/out_per_token_timestep"], DECODER)


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"rotary_pos_embed": True}, "rotary"),
        ({"image_size": [640, 96]}, "image_base_size"),
        ({"video_base_size": [7, 2, 4]}, "condition tokens"),
    ],
)
def test_settings_that_the_checkpoint_has_not_are_refused(fields, change, fault):
    with pytest.raises(ValueError, match=fault):
        TransformerConfig.from_reference(fields | change)
