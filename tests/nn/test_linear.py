"""From tokens to heads and back, against the plain layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax import precision
from tts_jax.checkpoints import abstract_params
from tts_jax.nn.embeddings import rotate_halves, rotate_pairs
from tts_jax.nn.linear import Linear, evens_first
from tts_jax.nn.norms import RMSNorm

HEADS = 3, 8


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (2, 5, 6))


def layer(inputs, outputs, seed, bias=True):
    made = Linear(inputs, outputs, use_bias=bias, rngs=nnx.Rngs(seed))
    if bias:
        made.bias[...] = jax.random.normal(jax.random.key(seed), (outputs,))
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_heads_are_the_layer_s_outputs_and_its_inputs(x, bias):
    into, out = layer(6, 24, 1, bias), layer(24 + 4, 7, 2, bias)
    heads = into.to_heads(x, HEADS)
    np.testing.assert_allclose(heads.reshape(2, 5, 24), into(x), rtol=1e-5, atol=1e-6)
    rest = x[..., :4]
    joined = jnp.concatenate([heads.reshape(2, 5, 24), rest], axis=-1)
    np.testing.assert_allclose(out.from_heads(heads, rest), out(joined), rtol=1e-4, atol=1e-5)
    alone = layer(24, 7, 3, bias)
    expected = alone(heads.reshape(2, 5, 24))
    np.testing.assert_allclose(alone.from_heads(heads), expected, rtol=1e-4, atol=1e-5)


def test_halves_of_reordered_heads_rotate_to_the_same_products(x):
    angles = np.random.default_rng(0).uniform(-3, 3, (5, 4)).astype(np.float32)
    rope = np.cos(angles), np.sin(angles)
    scale = jax.random.uniform(jax.random.key(1), (8,), minval=0.5, maxval=2)

    def products(change, rotate):
        q, k = (change(layer(6, 24, seed)).to_heads(x, HEADS) for seed in (4, 5))
        norm = RMSNorm(8, rngs=nnx.Rngs(0))
        norm.scale[...] = scale
        q, k = (rotate(change(norm)(t), *rope) for t in (q, k))
        return jnp.einsum("bqnd,bknd->bnqk", q, k)

    expected = products(lambda module: module, rotate_pairs)
    found = products(lambda module: evens_first(module, 8), rotate_halves)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_even_channels_of_every_head_come_first(x):
    made = layer(6, 24, 6)
    plain, ordered = (m.to_heads(x, HEADS) for m in (made, evens_first(made, 8)))
    np.testing.assert_allclose(ordered, plain[..., [0, 2, 4, 6, 1, 3, 5, 7]], rtol=1e-5, atol=1e-6)


def test_heads_of_int8_weights_are_the_layer_s_outputs_too():
    graph, _ = abstract_params(lambda size, rngs: Linear(size, 48, rngs=rngs), 64)
    params = nnx.to_pure_dict(nnx.split(Linear(64, 48, rngs=nnx.Rngs(7)))[1])
    made = nnx.merge(graph, precision.hold(params, precision.INT8))
    assert precision.is_quantised(made.kernel.get_raw_value())
    tokens = jax.random.normal(jax.random.key(8), (2, 5, 64))
    found = evens_first(made, 8).to_heads(tokens, (6, 8))
    expected = made(tokens).reshape(2, 5, 6, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
