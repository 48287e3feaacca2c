"""The towers' attention gives on a CPU what jax's own function gives, however many tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.nn import encoder
from tts_jax.nn.attention import on_platform
from tts_jax.nn.encoder import EncoderConfig, run, stack

CONFIG = EncoderConfig(width=12, heads=3, layers=2, mlp=16)


@pytest.fixture(scope="module")
def blocks():
    return stack(CONFIG, rngs=nnx.Rngs(0))


def differences(blocks, length, mask=None, **settings):
    """Between what the two functions make of random tokens, relative to the largest value."""
    x = jax.random.normal(jax.random.key(1), (2, length, CONFIG.width))
    found = run(blocks, x, mask, **settings)
    with on_platform("gpu"):
        wanted = run(blocks, x, mask, **settings)
    return float(jnp.abs(found - wanted).max() / jnp.abs(wanted).max())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cpu_weighs_values_as_other_platforms_do(blocks, masked, causal):
    mask = np.random.default_rng(0).random((2, 7)) > 0.4
    mask[0] = False  # sees nothing: the mean of all values
    difference = differences(blocks, 7, jnp.asarray(mask) if masked else None, causal=causal)
    assert difference < 1e-6


def test_many_tokens_are_weighed_block_by_block(blocks, monkeypatch):
    monkeypatch.setattr(encoder, "LONG", 10)
    monkeypatch.setattr(encoder, "BLOCK", 4)
    assert differences(blocks, 11) < 1e-6
    assert differences(blocks, 12) < 1e-6


def test_gradients_are_the_same_on_a_cpu(blocks):
    def loss(x):
        return jnp.square(run(blocks, x)).sum()

    x = jax.random.normal(jax.random.key(2), (1, 5, CONFIG.width))
    found = jax.grad(loss)(x)
    with on_platform("gpu"):
        wanted = jax.grad(loss)(x)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
