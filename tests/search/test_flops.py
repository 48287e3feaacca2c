"""Operations counted over a jaxpr against hand counts."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tts_jax.checkpoints import abstract_params
from tts_jax.generators.pyramid_flow.denoiser import Clip, make_layout, repeat
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.parallel import branch_mesh, over_branches
from tts_jax.search.flops import count_flops

A, B = jnp.ones((3, 5)), jnp.ones((5, 7))
PRODUCT = 2 * 3 * 5 * 7


@jax.custom_vjp
def product(a, b):
    return a @ b


product.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


def scanned(a, b):
    return jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, length=11)


def nested(a, b):
    return jax.lax.scan(lambda c, _: (c + scanned(a, b)[0], None), 0.0, length=2)


CASES = {
    "matrix product": (lambda a, b: a @ b, PRODUCT),
    "elementwise": (lambda a, b: jnp.exp(a).sum() + b.sum(), 0),
    "jit": (jax.jit(lambda a, b: a @ b), PRODUCT),
    "scan": (scanned, 11 * PRODUCT),
    "scan in a scan": (nested, 22 * PRODUCT),
    "loop of known length": (
        lambda a, b: jax.lax.fori_loop(0, 4, lambda _, c: c + a @ b, a @ b),
        5 * PRODUCT,
    ),
    "loop of unknown length": (
        lambda a, b: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + a @ b, a @ b),
        2 * PRODUCT,
    ),
    "dearest side": (
        lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ (b.T @ b)),
        PRODUCT + 2 * 7 * 5 * 7 + 2 * 3 * 7 * 7,
    ),
    "remat": (jax.checkpoint(lambda a, b: a @ b), PRODUCT),
    "custom gradient": (product, PRODUCT),
    "batch": (lambda a, b: jax.vmap(lambda x: x @ b)(jnp.ones((4, 3, 5))), 4 * PRODUCT),
    "shared product": (
        lambda a, b: jax.vmap(lambda s: (a @ b) * s)(jnp.ones(4)),
        PRODUCT,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_counts(name):
    function, flops = CASES[name]
    assert count_flops(function, A, B) == flops


def test_a_gradient_costs_more():
    assert count_flops(jax.grad(lambda a, b: ((a @ b) ** 2).sum()), A, B) == 2 * PRODUCT


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    images, kernel = jnp.ones((2, 9, 8, 4)), jnp.ones((3, 5, 4 // groups, 6))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (2, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    outputs = 2 * 4 * 4 * 6
    assert count_flops(convolve, images, kernel) == 2 * outputs * 3 * 5 * 4 // groups


def test_all_devices_count():
    mesh = branch_mesh(8)
    function = over_branches(lambda b, a: a @ b, mesh, shared=1)
    assert count_flops(function, B, jnp.ones((16, 5))) == 2 * 16 * 5 * 7


def test_abstract_shapes_are_enough():
    shapes = jax.ShapeDtypeStruct((10**5, 10**5), "bfloat16")
    assert count_flops(lambda x: x @ x, shapes) == 2 * 10**15


@pytest.fixture
def siblings():
    """All blocks of a small denoiser for siblings of one parent, and arguments for 4 of them."""
    config = TransformerConfig(
        heads=2,
        head_size=64,
        double_blocks=2,
        single_blocks=2,
        latent_channels=4,
        rope_axes=(16, 24, 24),
        text_width=16,
        pooled_width=16,
    )
    graph, params = abstract_params(Transformer, config)
    text, history = jnp.ones((2, 8, 16)), jnp.ones((2, 2, 8, 8, 4))

    def child(params, text, history, own):
        model, own = nnx.merge(graph, params), jnp.stack([own] * 2)
        clips = [Clip(history, jnp.arange(2), jnp.ones(2, bool))]
        layout = make_layout(own.shape, jnp.array([2]), clips, jnp.ones((2, 8)), config)
        temb = model.embed_condition(jnp.ones(2), jnp.ones((2, 16)))
        streams = model.text_embed(text), *model.embed_latents(own, clips)
        text, history, own = repeat(model.double_blocks, streams, temb, layout)
        context = jnp.concatenate([text, history], axis=1)
        return repeat(model.single_blocks, (context, own), temb, layout)

    return child, (params, text, history), jnp.ones((4, 1, 8, 8, 4))


def test_counts_are_those_of_an_unrolled_compiled_program(siblings, monkeypatch):
    child, parent, own = siblings
    family = jax.vmap(child, (None, None, None, 0), out_axes=(None, 0))
    counted = count_flops(family, *parent, own), count_flops(child, *parent, own[0])
    monkeypatch.setattr(jax.lax, "scan", partial(jax.lax.scan, unroll=True))
    cases = (family, own, counted[0]), (child, own[0], counted[1])
    for function, argument, flops in cases:
        compiled = jax.jit(partial(function)).lower(*parent, argument).compile()
        assert compiled.cost_analysis()["flops"] == pytest.approx(flops, rel=0.05)
    assert counted[0] < 0.6 * 4 * counted[1]
