"""Networks of full size compute with int8 parameters: traced, not run."""

import jax
import jax.numpy as jnp
import pytest

from tts_jax import precision
from tts_jax.planning.published import JUDGES, published_generator, published_verifier

PROMPT = ["a cat"]


def int8(like):
    """Shapes of parameters as converted and as held, and what share of the memory is left."""
    stored = jax.tree.map(lambda x: x.update(dtype=jnp.bfloat16), like)
    held = precision.hold(stored, "int8")
    sizes = [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(p)) for p in (held, stored)]
    return stored, held, sizes[0] / sizes[1]


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_a_generator_computes_with_int8():
    generator = published_generator("wan", "wan2_1_1_3b")
    stored, held, share = int8(generator.abstract_params)
    assert share < 0.53
    assert shapes(video(generator, held)) == shapes(video(generator, stored))


def video(generator, params):
    """Frames of the first segment."""

    def run(params, key):
        condition = jax.tree.map(lambda x: x[0], generator.encode(params, PROMPT))
        branch = generator.init(params, condition, key)
        branch = generator.advance(params, condition, branch, key, 0, generator.program(0))
        return generator.decode(params, generator.estimate(params, condition, branch, 0, "clean"))

    return jax.eval_shape(run, params, jax.random.key(0))


@pytest.mark.parametrize("name", [*JUDGES, "clip_score"])
def test_verifiers_compute_with_int8(name):
    verifier = published_verifier(name, {})
    _, held, share = int8(verifier.abstract_params)
    assert share < 0.53

    def run(params, frames):
        query = jax.tree.map(lambda x: x[0], verifier.prepare(params, PROMPT))
        return verifier.score(params, frames, query)

    found = jax.eval_shape(run, held, jax.ShapeDtypeStruct((1, 9, 64, 64, 3), jnp.float32))
    assert (found.shape, found.dtype) == ((1,), jnp.float32)
