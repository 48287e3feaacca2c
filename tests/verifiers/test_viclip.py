"""ViCLIP against the reference outputs, whose weights come from a recipe."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.clip import VICLIP_RULES, split_fused
from converters.core import convert
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.language.clip_text import TextConfig
from tts_jax.verifiers.clip import CLIP
from tts_jax.verifiers.viclip import ViCLIPConfig, ViClipVerifier, middle_frames
from tts_jax.vision.vit import VisionConfig


@pytest.fixture(scope="module")
def reference(golden):
    models = Models.read(golden("vbench"))
    vision, text = models.config("viclip_vision"), models.config("viclip_text")
    config = ViCLIPConfig(
        vision=VisionConfig(
            size=vision["input_resolution"],
            patch=vision["patch_size"],
            width=vision["width"],
            heads=vision["heads"],
            layers=vision["layers"],
            mlp=4 * vision["width"],
            projection=vision["output_dim"],
            frames=vision["num_frames"],
        ),
        text=TextConfig(
            vocabulary=text["vocab_size"],
            length=text["context_length"],
            width=text["transformer_width"],
            heads=text["transformer_heads"],
            layers=text["transformer_layers"],
            mlp=4 * text["transformer_width"],
            projection=text["embed_dim"],
            eos_id=text["vocab_size"] - 1,
        ),
    )
    tensors = {"temp": np.float32(0.07)}
    for tower in ("vision", "text"):
        for name, value in models.tensors(f"viclip_{tower}").items():
            tensors[f"{tower}_encoder.{name}"] = value
    graph, like = abstract_params(CLIP, config)
    params = convert(split_fused(tensors), like, VICLIP_RULES)
    model = nnx.merge(graph, jax.tree.map(jnp.asarray, params))
    return model, models


def close(actual, expected):
    expected = (
        expected
        * np.linalg.norm(actual, axis=-1, keepdims=True)
        / np.linalg.norm(expected, axis=-1, keepdims=True)
    )
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_the_video_tower_matches(reference):
    model, models = reference
    expected = models.outputs["viclip_vision"]
    config = model.config.vision
    shape = (len(expected), 3, config.frames, config.size, config.size)
    video = np.moveaxis(models.input("viclip_vision", "video", shape), 1, -1)
    close(np.asarray(model.vision.embed(jnp.asarray(video))), expected)


def test_the_text_tower_matches(reference):
    model, models = reference
    tokens = jnp.asarray(models.outputs["viclip_token_ids"])
    close(np.asarray(model.text.embed(tokens)), models.outputs["viclip_text"])


def test_middle_sampling_matches(golden):
    cases = json.loads((golden("vbench") / "frame_indices.json").read_text())["middle"]
    for case in cases:
        assert middle_frames(case["length"], case["want"]).tolist() == case["index"]


@pytest.fixture(scope="module")
def small():
    config = ViCLIPConfig(
        text=TextConfig(
            vocabulary=9, length=3, width=8, heads=2, layers=1, mlp=16, projection=4, eos_id=2
        ),
        vision=VisionConfig(
            size=8, patch=4, width=8, heads=2, layers=1, mlp=16, projection=4, frames=3
        ),
        stride=2,
    )
    params = nnx.to_pure_dict(nnx.split(CLIP(config, rngs=nnx.Rngs(0)))[1])
    return ViClipVerifier(config, None), params


def test_every_other_frame_counts_and_so_does_their_order(small):
    verifier, params = small
    query = jnp.ones(4) / 2
    frames = jax.random.uniform(jax.random.key(0), (1, 5, 8, 8, 3))
    score = jax.jit(verifier.score)
    whole = score(params, frames, query)
    np.testing.assert_array_equal(whole, score(params, frames.at[:, 1::2].set(0.0), query))
    assert abs(float(whole[0] - score(params, frames[:, ::-1], query)[0])) > 1e-4
    assert abs(float(whole[0] - score(params, frames.at[:, 4].set(0.0), query)[0])) > 1e-4


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_beginning_of_a_video_can_be_judged(small, length):
    verifier, params = small
    frames = jax.random.uniform(jax.random.key(0), (2, length, 8, 8, 3))
    assert jnp.isfinite(jax.jit(verifier.score)(params, frames, jnp.ones(4) / 2)).all()
