"""The text tower: what its pooled state may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.language.clip_text import TextConfig, TextTower

CONFIG = TextConfig(
    vocabulary=11, length=7, width=16, heads=2, layers=2, mlp=32, projection=8, eos_id=2
)


@pytest.fixture(scope="module")
def tower():
    return TextTower(CONFIG, rngs=nnx.Rngs(0))


def test_the_pooled_state_is_that_of_the_first_end_token(tower):
    tokens = jnp.array([[1, 9, 2, 2, 2, 2, 2], [1, 5, 6, 7, 8, 2, 0]])
    hidden, pooled = tower(tokens)
    np.testing.assert_array_equal(pooled, jnp.stack([hidden[0, 2], hidden[1, 5]]))


def test_padding_and_length_do_not_change_what_comes_before(tower):
    short = jnp.array([[1, 9, 4, 2]])
    padded = jnp.array([[1, 9, 4, 2, 0, 0, 0]])
    other = jnp.array([[1, 9, 4, 2, 7, 7, 7]])
    embed = jax.jit(lambda tokens: tower.embed(tokens))
    np.testing.assert_allclose(embed(short), embed(padded), atol=1e-6)
    np.testing.assert_allclose(embed(other), embed(padded), atol=1e-6)


def test_word_order_matters(tower):
    a, b = tower.embed(jnp.array([[1, 4, 5, 2], [1, 5, 4, 2]]))
    assert float(jnp.abs(a - b).max()) > 1e-3
