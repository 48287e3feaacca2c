import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.solvers import noise

SHAPE = (3, 40, 50)
TAG = 0xFFFFFFFD


def linked(key, size, strengths):
    chain = noise.chain(key, size)
    for index, strength in enumerate(strengths):
        chain = noise.link(chain, TAG, jnp.uint32(index), jnp.float32(strength))
    return chain


def draw(key, fold=None):
    key = key if fold is None else noise.fold_in(key, fold)
    return np.asarray(jax.jit(noise.normal, static_argnums=1)(key, SHAPE))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("fold", [None, 7])
def test_a_chain_without_links_draws_what_its_key_draws(size, fold):
    key = jax.random.key(3)
    plain = jax.random.normal(key if fold is None else jax.random.fold_in(key, fold), SHAPE)
    np.testing.assert_array_equal(draw(noise.chain(key, size), fold), plain)
    np.testing.assert_array_equal(draw(key, fold), plain)


def test_room_that_is_not_used_changes_no_bit():
    draws = [draw(linked(jax.random.key(0), size, (0.9, 0.5)), 2) for size in (3, 4, 16)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.95])
def test_a_link_moves_a_draw_by_its_angle_on_the_sphere(strength):
    key = jax.random.key(1)
    start, moved = draw(key, 5), draw(linked(key, 2, (strength,)), 5)
    np.testing.assert_allclose(np.linalg.norm(moved), np.linalg.norm(start), rtol=1e-5)
    cosine = np.vdot(start, moved) / np.linalg.norm(start) ** 2
    np.testing.assert_allclose(cosine, strength, atol=1e-4)
    np.testing.assert_allclose(moved.std(), 1, atol=0.03)


def test_a_full_strength_changes_nothing():
    key = jax.random.key(1)
    np.testing.assert_allclose(draw(linked(key, 2, (1.0,))), draw(key), atol=1e-5)


def test_links_go_on_from_where_the_last_one_led():
    key = jax.random.key(2)
    near = draw(linked(key, 3, (0.9,)))
    far = draw(linked(key, 3, (0.9, 0.8)))
    cosine = np.vdot(near, far) / np.linalg.norm(near) ** 2
    np.testing.assert_allclose(cosine, 0.8, atol=1e-4)


def test_neighbours_of_different_indices_differ_and_of_equal_ones_do_not():
    key = noise.chain(jax.random.key(2), 2)
    draws = [draw(noise.link(key, TAG, jnp.uint32(i), jnp.float32(0.9))) for i in (0, 1, 0)]
    assert (draws[0] != draws[1]).mean() > 0.99
    np.testing.assert_array_equal(draws[0], draws[2])


def test_chains_are_mapped_like_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    chains = jax.vmap(lambda key: linked(key, 3, (0.7,)))(keys)
    found = jax.vmap(lambda chain: noise.normal(noise.fold_in(chain, 4), SHAPE))(chains)
    for i, key in enumerate(keys):
        np.testing.assert_allclose(found[i], draw(linked(key, 3, (0.7,)), 4), atol=1e-6)
