"""UMT's classifier against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.core import ConversionError, convert
from converters.plain_vit import UMT_RULES, prepare_umt
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.vision.umt import UMT, UMTConfig, position_table


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def config(models):
    sizes = models.config("umt")
    return UMTConfig(
        size=sizes["img_size"],
        patch=sizes["patch_size"],
        frames=sizes["all_frames"],
        width=sizes["embed_dim"],
        heads=sizes["num_heads"],
        layers=sizes["depth"],
        mlp=sizes["mlp_ratio"] * sizes["embed_dim"],
        classes=sizes["num_classes"],
        epsilon=sizes["norm_eps"],
    )


@pytest.fixture(scope="module")
def umt(models, config):
    graph, like = abstract_params(UMT, config)
    params = convert(prepare_umt(models.tensors("umt")), like, UMT_RULES)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


def test_the_logits_match(models, config, umt):
    expected = models.outputs["umt_logits"].reshape(-1, config.classes)
    shape = (len(expected), 3, config.frames, config.size, config.size)
    clips = np.moveaxis(models.input("umt", "video", shape), 1, -1)
    actual = np.asarray(umt(jnp.asarray(clips)))
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < models.tolerance("umt")


def test_the_published_table_of_positions_is_made_for_half_the_frames(models):
    config = UMTConfig.umt_l16_k400()
    table = position_table(config)
    assert table.shape == (config.frames * config.patches, config.width)
    np.testing.assert_allclose(table[::97, ::64], models.outputs["umt_table_sub"], atol=1e-5)


def test_a_kernel_of_several_frames_is_refused(models, config):
    tensors = models.tensors("umt")
    kernel = tensors["patch_embed.proj.weight"]
    tensors["patch_embed.proj.weight"] = np.concatenate([kernel, kernel], axis=2)
    _, like = abstract_params(UMT, config)
    with pytest.raises(ConversionError, match="patch_embed"):
        convert(prepare_umt(tensors), like, UMT_RULES)


def test_clips_of_another_length_are_refused(config, umt):
    side = config.size
    with pytest.raises(ValueError, match=f"takes {config.frames} frames"):
        umt(jnp.zeros((1, config.frames - 1, side, side, 3)))


def test_the_published_size_has_the_published_number_of_parameters():
    config = UMTConfig.umt_l16_k400()
    _, like = abstract_params(UMT, config)
    keys = config.layers * config.width  # biases that the original lacks
    assert round((sum(leaf.size for leaf in jax.tree.leaves(like)) - keys) / 1e6, 1) == 306.7
