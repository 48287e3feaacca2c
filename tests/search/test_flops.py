"""Operations counted over a jaxpr against hand counts."""

import jax
import jax.numpy as jnp
import pytest

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
