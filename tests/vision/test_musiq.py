"""MUSIQ at its published size against the reference outputs, whose weights come from a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.core import ConversionError, check, convert
from converters.registry import COMPONENTS
from tests.vbench_models import Models
from tts_jax.checkpoints import abstract_params
from tts_jax.vision.musiq import MUSIQ, MUSIQConfig, hashed_positions, size_at


@pytest.fixture(scope="module")
def models(golden):
    return Models.read(golden("vbench"))


@pytest.fixture(scope="module")
def like():
    return abstract_params(MUSIQ, MUSIQConfig.musiq_spaq())


@pytest.fixture(scope="module")
def musiq(models, like):
    tensors = COMPONENTS["musiq_spaq"].prepare(models.tensors("musiq"))
    params = convert(tensors, like[1], COMPONENTS["musiq_spaq"].rules)
    return nnx.merge(like[0], jax.tree.map(jnp.asarray, params))


@pytest.fixture(scope="module")
def frames(models):
    about = models.manifest["musiq"]["inputs"]
    return jnp.asarray(models.clips[about["clip"]][about["frames"]] / np.float32(255))


@pytest.fixture(scope="module")
def tokens(musiq, frames):
    return musiq.tokens(frames[:1])


@pytest.fixture(scope="module")
def seen(models):
    """Of the reference's tokens, those that are not filled up."""
    return models.outputs["musiq_token_mask"] > 0


def test_scores_match(models, musiq, frames):
    expected = models.outputs["musiq_score"]
    graph, params = nnx.split(musiq)
    actual = np.asarray(jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, frames))
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < models.tolerance("musiq")


def test_patches_of_all_sizes_match(models, tokens, seen):
    expected = models.outputs["musiq_patch_sub"][seen]
    actual = np.moveaxis(np.asarray(tokens[0][0, :, ::11, ::11]), -1, 1)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_patches_look_up_the_reference_s_positions_and_sizes(models, tokens, seen):
    for name, found in zip(("position", "scale"), tokens[1:], strict=True):
        np.testing.assert_array_equal(found, models.outputs[f"musiq_token_{name}"][seen])


def test_positions_round_as_the_original_does():
    assert hashed_positions(1, 10, 10).tolist() == list(range(10))
    assert hashed_positions(2, 3, 10).tolist() == [0, 3, 6, 50, 53, 56]


def test_the_longer_side_is_made_the_wanted_one_and_the_other_follows():
    assert size_at(64, 96, 224) == (149, 224)
    assert size_at(96, 64, 384) == (384, 256)
    assert size_at(5, 448, 224) == (2, 224)  # halves go to the even number


def test_an_image_too_narrow_to_be_resized_is_refused(musiq):
    with pytest.raises(ValueError, match="1x500 is too narrow"):
        musiq.tokens(jnp.zeros((1, 1, 500, 3)))


def test_the_published_size_has_the_published_number_of_parameters(models, like):
    sizes = [leaf.size for leaf in jax.tree.leaves(like[1])]
    assert sum(sizes) == models.manifest["musiq"]["count"]


def test_a_missing_and_a_strange_tensor_are_noticed(models, like):
    shapes = {n: tuple(p["shape"]) for n, p in models.manifest["musiq"]["params"].items()}
    shapes["block2.conv1.weight"] = shapes.pop("block1.conv1.weight")
    with pytest.raises(ConversionError) as error:
        check(shapes, like[1], COMPONENTS["musiq_spaq"].rules)
    assert "block2.conv1.weight: no rule takes it" in str(error.value)
    assert "stem.conv1.kernel [1, 1, 64, 64]: no tensor fills it" in str(error.value)
