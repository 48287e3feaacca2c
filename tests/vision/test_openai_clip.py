"""CLIP as first published against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.clip import OPENAI_CLIP_IGNORED, OPENAI_CLIP_RULES, split_fused
from converters.core import ConversionError, convert
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.language.clip_text import TextConfig
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.clip import CLIP, CLIPConfig
from tts_jax.vision.vit import VisionConfig


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def tensors(models):
    sizes = {name: np.int64(1) for name in ("input_resolution", "context_length", "vocab_size")}
    return split_fused({**models.tensors("clip"), **sizes})


@pytest.fixture(scope="module")
def config(models):
    sizes = models.config("clip")
    return CLIPConfig(
        vision=VisionConfig(
            size=sizes["image_resolution"],
            patch=sizes["vision_patch_size"],
            width=sizes["vision_width"],
            heads=sizes["vision_heads"],
            layers=sizes["vision_layers"],
            mlp=4 * sizes["vision_width"],
            projection=sizes["embed_dim"],
        ),
        text=TextConfig(
            vocabulary=sizes["vocab_size"],
            length=sizes["context_length"],
            width=sizes["transformer_width"],
            heads=sizes["transformer_heads"],
            layers=sizes["transformer_layers"],
            mlp=4 * sizes["transformer_width"],
            projection=sizes["embed_dim"],
            eos_id=sizes["vocab_size"] - 1,
        ),
    )


@pytest.fixture(scope="module")
def embeddings(models, config, tensors):
    """Of images and of texts, and the logit scale."""
    graph, like = abstract_params(CLIP, config)
    params = convert(tensors, like, OPENAI_CLIP_RULES, OPENAI_CLIP_IGNORED)
    clip = nnx.merge(graph, jax.tree.map(jnp.asarray, params))
    shape = (len(models.outputs["clip_image"]), 3, config.vision.size, config.vision.size)
    images = np.moveaxis(models.input("clip", "image", shape), 1, -1)
    tokens = jnp.asarray(models.outputs["clip_token_ids"])
    scale = jnp.exp(clip.logit_scale[...])
    return clip.vision.embed(jnp.asarray(images)), clip.text.embed(tokens), scale


def same(actual, expected, tolerance):
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error < tolerance


def test_image_embeddings_match(models, embeddings):
    same(embeddings[0], models.outputs["clip_image"], models.tolerance("clip"))


def test_text_embeddings_match(models, embeddings):
    same(embeddings[1], models.outputs["clip_text"], models.tolerance("clip"))


def test_logits_match(models, embeddings):
    images, texts, scale = embeddings
    logits = scale * normalise(images) @ normalise(texts).T
    same(logits, models.outputs["clip_logits_per_image"], models.tolerance("clip"))


def test_a_missing_tensor_is_noticed(config, tensors):
    _, like = abstract_params(CLIP, config)
    short = {name: value for name, value in tensors.items() if name != "visual.proj"}
    with pytest.raises(ConversionError, match=r"vision\.projection\.kernel"):
        convert(short, like, OPENAI_CLIP_RULES, OPENAI_CLIP_IGNORED)
