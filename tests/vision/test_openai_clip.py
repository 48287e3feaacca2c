"""CLIP as first published against the reference outputs, whose weights come from a recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import converters.convert
from converters.clip import OPENAI_CLIP_IGNORED, OPENAI_CLIP_RULES, split_fused
from converters.core import ConversionError, convert
from converters.registry import COMPONENTS
from converters.sources import read_tensors
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params, load_parts
from tts_jax.language.clip_text import TextConfig
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.clip import CLIP, CLIPConfig
from tts_jax.vision.vit import VisionConfig


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


SIZES = {name: np.int64(1) for name in ("input_resolution", "context_length", "vocab_size")}


@pytest.fixture(scope="module")
def tensors(models):
    return split_fused({**models.tensors("clip"), **SIZES})


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
def params(config, tensors):
    _, like = abstract_params(CLIP, config)
    return convert(tensors, like, OPENAI_CLIP_RULES, OPENAI_CLIP_IGNORED)


@pytest.fixture(scope="module")
def embeddings(models, config, params):
    """Of images and of texts, and the logit scale."""
    graph, _ = abstract_params(CLIP, config)
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


class Node(torch.nn.Module):
    """Part of a module that is made of its tensors' names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_torchscript(path, tensors):
    """Compiles and saves a module with these tensors."""
    root = Node()
    for name, tensor in tensors.items():
        *parts, last = name.split(".")
        node = root
        for part in parts:
            if part not in dict(node.named_children()):
                node.add_module(part, Node())
            node = getattr(node, part)
        node.register_buffer(last, torch.from_numpy(np.asarray(tensor)))
    torch.jit.script(root).save(str(path))


@pytest.fixture
def archive(models, tmp_path):
    """CLIP as first published: a compiled module in 16 bits, with sizes among its tensors."""
    path = tmp_path / "published" / "ViT-B-32.pt"
    path.parent.mkdir()
    halves = {name: tensor.astype(np.float16) for name, tensor in models.tensors("clip").items()}
    save_torchscript(path, halves | SIZES)
    return path


def test_the_published_archive_is_converted_as_it_is(
    archive, config, params, tmp_path, monkeypatch
):
    name, target = "openai_clip_vit_b32", tmp_path / "ours"
    (archive.parent / "tokenizer.json").write_text("{}")
    component = dataclasses.replace(COMPONENTS[name], published=lambda: config)
    monkeypatch.setitem(COMPONENTS, name, component)
    argv = ["convert", f"--model={name}", f"--src={archive}", f"--dst={target}"]
    assert converters.convert.program(argv) == 0
    found = load_parts(target, {"clip": params})["clip"]
    jax.tree.map(
        lambda ours, whole: np.testing.assert_array_equal(ours, whole.astype(np.float16)),
        found,
        params,
    )


def test_a_tensor_of_an_archive_that_the_table_does_not_know_is_noticed(config, tmp_path):
    _, like = abstract_params(CLIP, config)
    save_torchscript(tmp_path / "clip.pt", {"image_size": np.int64(224), **SIZES})
    with pytest.raises(ConversionError) as error:
        convert(read_tensors(tmp_path), like, OPENAI_CLIP_RULES, OPENAI_CLIP_IGNORED)
    assert "image_size: no rule takes it" in str(error.value)
    assert "input_resolution" not in str(error.value)
    assert "logit_scale []: no tensor fills it" in str(error.value)


def test_a_damaged_archive_is_refused(archive):
    archive.write_bytes(archive.read_bytes().replace(b"__torch__", b"__troch__"))
    with pytest.raises(ConversionError, match=r"ViT-B-32\.pt cannot be read"):
        read_tensors(archive)
