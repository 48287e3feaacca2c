"""DINO against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.core import convert
from converters.plain_vit import DINO_RULES, split_fused
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.vision.dino import DINO, DINOConfig


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def dino(models):
    sizes = models.config("dino")
    config = DINOConfig(
        size=sizes["trained_size"],
        patch=sizes["patch_size"],
        width=sizes["embed_dim"],
        heads=sizes["num_heads"],
        layers=sizes["depth"],
        mlp=sizes["mlp_ratio"] * sizes["embed_dim"],
        epsilon=sizes["norm_eps"],
    )
    graph, like = abstract_params(DINO, config)
    params = convert(split_fused(models.tensors("dino")), like, DINO_RULES)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


def size_of(name):
    return tuple(int(side) for side in name.split("x"))


def test_the_class_token_matches_for_every_shape(models, dino):
    inputs = models.manifest["dino"]["inputs"]
    assert inputs
    for name in inputs:
        expected = models.outputs[f"dino_cls_{name}"]
        image = models.input("dino", name, (1, 3, *size_of(name)))
        actual = np.asarray(dino(jnp.asarray(np.moveaxis(image, 1, -1))))[0]
        error = np.abs(actual - expected).max() / np.abs(expected).max()
        assert error < models.tolerance("dino"), name


def test_positions_are_resized_at_shifted_places(models, dino):
    names = [n for n in models.outputs if n.startswith("dino_pos_")]
    assert names
    for name in names:
        expected = models.outputs[name]
        table = np.asarray(dino.positions(*size_of(name.removeprefix("dino_pos_"))))
        assert len(table) == len(expected)
        np.testing.assert_allclose(table[:, : expected.shape[1]], expected, atol=1e-5)


def test_positions_of_the_size_in_training_are_the_stored_ones(dino):
    size = dino.config.size
    np.testing.assert_array_equal(dino.positions(size, size), dino.position[...])


def test_an_image_without_a_whole_patch_is_refused(dino):
    with pytest.raises(ValueError, match="no whole patch"):
        dino(jnp.zeros((1, dino.config.patch - 1, dino.config.size, 3)))


def test_the_published_size_has_the_published_number_of_parameters():
    _, like = abstract_params(DINO, DINOConfig.dino_vitb16())
    assert round(sum(leaf.size for leaf in jax.tree.leaves(like)) / 1e6, 1) == 85.8
