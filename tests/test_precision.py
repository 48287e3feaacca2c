"""Parameters in fewer bits: what they become, what modules read of them, and what that costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax import precision
from tts_jax.checkpoints import (
    abstract_params,
    flatten,
    load_parts,
    save_safetensors,
)
from tts_jax.nn.conv import CausalConv3d
from tts_jax.nn.linear import Linear
from tts_jax.nn.norms import LayerNorm
from tts_jax.nn.stack import stacked
from tts_jax.parallel import make_mesh, parameter_shardings, place

WIDTH, LAYERS = 64, 16


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = LayerNorm(WIDTH, eps=1e-6)
        self.up = Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(self.norm(x)))).astype(x.dtype)


class Net(nnx.Module):
    def __init__(self, config, *, rngs):
        self.token = nnx.Embed(80, WIDTH, rngs=rngs)
        self.blocks = stacked(Block, LAYERS, rngs=rngs)
        self.conv = CausalConv3d(WIDTH, 3, rngs=rngs)

    def __call__(self, tokens):
        x = self.token.embedding[tokens]
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return self.conv(x.reshape(1, 2, 2, 2, WIDTH)) + (x @ self.token.embedding[...].T).mean()


@pytest.fixture(scope="module")
def net():
    """The graph and parameters whose outputs have very different sizes."""
    graph, like = abstract_params(Net, None)
    rng, params = np.random.default_rng(0), {}
    for name, leaf in flatten(like).items():
        sizes = np.exp(rng.normal(size=(*leaf.shape[:-2], 1, leaf.shape[-1])[-leaf.ndim :]))
        params[name] = jnp.asarray(0.05 * rng.normal(size=leaf.shape) * sizes, jnp.float32)
    return graph, jax.tree.unflatten(jax.tree.structure(like), list(params.values()))


def apply(graph, params, tokens):
    return nnx.merge(graph, params)(tokens)


def nbytes(params):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_int8_rounds_every_output_of_every_layer_by_at_most_half_a_step(net):
    _, params = net
    kernel = params["blocks"]["up"]["kernel"]
    held = precision.hold(params, "int8")["blocks"]["up"]["kernel"]
    assert held.qvalue.dtype == jnp.int8 and held.scale.shape == (LAYERS, 1, 2 * WIDTH)
    step = np.abs(kernel).max(axis=1, keepdims=True) / 127
    error = np.abs(precision.readable(None, held) - kernel)
    assert (error <= 0.51 * step).all() and error.max() > 0.4 * step.max()


def test_kernels_and_tables_become_int8_and_nothing_else(net):
    _, params = net
    held = precision.hold(params, "int8")
    found = {name for name, leaf in flatten(held).items() if leaf.dtype == jnp.int8}
    layers = "token.embedding", "blocks.up.kernel", "blocks.down.kernel", "conv.kernel"
    assert found == {f"{name}.qvalue" for name in layers}
    assert held["token"]["embedding"].scale.shape == (80, 1)
    np.testing.assert_array_equal(held["blocks"]["up"]["bias"], params["blocks"]["up"]["bias"])


@pytest.mark.parametrize(
    ("weights", "share", "error"), [("float32", 1, 0), ("bfloat16", 0.5, 0.01), ("int8", 0.3, 0.02)]
)
def test_a_network_is_smaller_and_computes_nearly_the_same(net, weights, share, error):
    graph, params = net
    tokens = jnp.arange(8)[None]
    wanted = np.asarray(apply(graph, params, tokens))
    held = precision.hold(params, weights)
    assert nbytes(held) <= share * nbytes(params)
    found = np.asarray(apply(graph, held, tokens), np.float32)
    assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()
    if error:
        assert np.abs(found - wanted).max() > 0


def test_one_layer_of_a_stack_is_read_at_a_time(net):
    graph, params = net
    held = precision.hold(params, "int8")
    program = jax.jit(lambda p, x: apply(graph, p, x)).lower(held, jnp.arange(8)[None]).compile()
    layer = 4 * 2 * 2 * WIDTH**2
    assert program.memory_analysis().temp_size_in_bytes < LAYERS * layer / 2


def test_shapes_are_held_like_arrays(net):
    _, params = net
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    for weights in precision.WEIGHTS:
        found, wanted = precision.hold(shapes, weights), precision.hold(params, weights)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        assert jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), found, wanted)


def test_integers_are_divided_like_the_numbers_and_scales_are_whole(net):
    graph, params = net
    mesh = make_mesh(1, 4)
    held = precision.hold(params, "int8")
    whole, found = (flatten(parameter_shardings(p, mesh)) for p in (params, held))
    for name in ("blocks.up.kernel", "blocks.down.kernel", "token.embedding"):
        assert found[f"{name}.qvalue"] == whole[name] and not whole[name].is_fully_replicated
        assert found[f"{name}.scale"].is_fully_replicated
    tokens = jnp.arange(8)[None]
    divided = jax.jit(lambda p, x: apply(graph, p, x))(place(held, mesh), tokens)
    np.testing.assert_allclose(divided, apply(graph, held, tokens), rtol=1e-4, atol=1e-6)


def test_checkpoints_of_both_kinds_are_read_in_the_type_that_is_asked_for(net, tmp_path):
    from orbax.checkpoint import v1 as ocp

    _, params = net
    save_safetensors(tmp_path / "net.safetensors", params, np.float32)
    ocp.save(tmp_path / "params", {"net": flatten(params), "other": {"w": jnp.ones(3)}})
    likes = {"net": params, "other": {"w": jnp.ones(3)}}
    for weights in ("bfloat16", "int8"):
        wanted = precision.hold(params, weights)
        stored = load_parts(tmp_path, likes, weights=weights)
        jax.tree.map(np.testing.assert_array_equal, stored["net"], wanted)
    (tmp_path / "params").rename(tmp_path / "elsewhere")
    files = load_parts(tmp_path, {"net": params}, weights="int8")
    jax.tree.map(np.testing.assert_array_equal, files["net"], precision.hold(params, "int8"))


def test_a_type_that_cannot_be_had_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="'int4' are none of stored, float32, bfloat16, int8"):
        precision.check("int4")
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "tts_jax\[int8\]"'):
        precision.check("int8")
