"""CLIP against the reference outputs, through its conversion table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.clip import CLIP_IGNORED, CLIP_RULES
from converters.core import check, convert
from tts_jax.checkpoints import abstract_params
from tts_jax.language.clip_text import TextConfig
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.clip import CLIP, CLIPConfig, ClipVerifier
from tts_jax.vision.vit import VisionConfig


def read_config(published: dict) -> CLIPConfig:
    """Our configuration of a published `config.json`; the sizes it leaves out have no default."""
    text, vision = published["text_config"], published["vision_config"]
    eos = text["eos_token_id"]
    return CLIPConfig(
        text=TextConfig(
            vocabulary=text["vocab_size"],
            length=text["max_position_embeddings"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            mlp=text["intermediate_size"],
            activation=text["hidden_act"],
            projection=published["projection_dim"],
            eos_id=None if eos == 2 else eos,
            epsilon=text.get("layer_norm_eps", 1e-5),
        ),
        vision=VisionConfig(
            size=vision["image_size"],
            patch=vision["patch_size"],
            width=vision["hidden_size"],
            heads=vision["num_attention_heads"],
            layers=vision["num_hidden_layers"],
            mlp=vision["intermediate_size"],
            activation=vision["hidden_act"],
            projection=published["projection_dim"],
            epsilon=vision.get("layer_norm_eps", 1e-5),
        ),
    )


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden("clip_readouts")
    config = read_config(json.loads((folder / "config.json").read_text()))
    graph, like = abstract_params(CLIP, config)
    params = convert(load_file(folder / "weights.safetensors"), like, CLIP_RULES, CLIP_IGNORED)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params)), load_file(folder / "io.safetensors")


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-5)


def test_the_text_tower_matches(reference):
    model, io = reference
    tokens = jnp.asarray(io["input_ids"], jnp.int32)
    hidden, pooled = model.text(tokens, jnp.asarray(io["attention_mask"], bool))
    close(hidden, io["text.last_hidden_state"])
    close(pooled, io["text.pooled"])
    close(model.text.embed(tokens), io["text_embeds"])
    close(model.text.embed(tokens), io["text_embeds_no_mask"])


def test_the_image_tower_matches(reference):
    model, io = reference
    pixels = jnp.moveaxis(io["pixel_values"], 1, -1)
    hidden, pooled = model.vision(pixels)
    close(hidden, io["vision.last_hidden_state"])
    close(pooled, io["vision.pooled"])
    close(model.vision.embed(pixels), io["image_embeds"])


def test_the_cosine_and_the_logits_match(reference):
    model, io = reference
    text = model.embed_text(jnp.asarray(io["input_ids"], jnp.int32))
    image = normalise(model.vision.embed(jnp.moveaxis(io["pixel_values"], 1, -1)))
    close((image * text).sum(-1), io["cosine"])
    scale = jnp.exp(model.logit_scale[...])
    np.testing.assert_allclose(scale * image @ text.T, io["logits_per_image"], atol=1e-4)


def test_every_published_tensor_is_taken_once(golden):
    manifest = json.loads((golden("manifests") / "clip_vit_large_patch14.json").read_text())
    config = CLIPConfig.clip_vit_large_patch14()
    _, like = abstract_params(CLIP, config)
    check(manifest, like, CLIP_RULES, CLIP_IGNORED)


class _Tokens:
    def tokenize(self, prompts):
        return np.array([[1, 3 + len(p) % 5, 2] for p in prompts], np.int32), None


@pytest.fixture(scope="module")
def small():
    config = CLIPConfig(
        text=TextConfig(
            vocabulary=9, length=3, width=8, heads=2, layers=1, mlp=16, projection=4, eos_id=2
        ),
        vision=VisionConfig(size=8, patch=4, width=8, heads=2, layers=1, mlp=16, projection=4),
    )
    verifier = ClipVerifier(config, _Tokens())
    params = nnx.to_pure_dict(nnx.split(CLIP(config, rngs=nnx.Rngs(0)))[1])
    return verifier, params


def test_the_verifier_judges_the_first_frame_only(small):
    verifier, params = small
    query = verifier.prepare(params, ["ab", "abc"])
    assert query.shape == (2, 4)
    frames = jax.random.uniform(jax.random.key(0), (3, 5, 8, 8, 3))
    scores = jax.jit(verifier.score)(params, frames, query[0])
    later = jax.jit(verifier.score)(params, frames.at[:, 1:].set(0.5), query[0])
    np.testing.assert_array_equal(scores, later)
    other = jax.jit(verifier.score)(params, frames.at[1, 0].set(0.5), query[0])
    assert (np.asarray(scores != other) == [False, True, False]).all()


def test_the_score_is_the_scaled_cosine(small):
    verifier, params = small
    query = verifier.prepare(params, ["ab"])[0]
    frames = jax.random.uniform(jax.random.key(0), (2, 1, 8, 8, 3))
    model = nnx.merge(verifier.graph, params)
    cosine = model.embed_vision(frames[:, 0]) @ query
    expected = jnp.exp(params["logit_scale"]) * cosine
    np.testing.assert_allclose(verifier.score(params, frames, query), expected, rtol=1e-5)
