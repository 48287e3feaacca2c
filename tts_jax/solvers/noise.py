"""Gaussian draws that a search can move a little.

A chain of keys stands for noise that has been moved link by link on its sphere. It is folded and
drawn from like a key, so that whatever a model draws from it later is a neighbour of what it would
have drawn without the last link.

M keys of a chain.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chain:
    """Keys whose draws are mixed one after the other.

    Attributes:
      keys: the first is a plain key, each further one a link, [M] typed keys.
      strengths: of each link, [M] float32; the first is not used.
      links: links in use, int32; the others change nothing.
    """

    keys: Array
    strengths: Array
    links: Array


Key = Array | Chain

# Of a model's own draws: children are fold_in(key, index), and no child has this index.
NOISE_TAG = 0xFFFFFFFF


def chain(key: Array, size: int = 1) -> Chain:
    """A chain without links, with room for size - 1 of them."""
    keys = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(key)] * size))
    return Chain(keys, jnp.ones(size, jnp.float32), jnp.int32(0))


def link(chain: Chain, tag: int, index: Array, strength: Array) -> Chain:
    """The chain with one more link, the index-th of those made from it.

    Args:
      chain: must have room.
      tag: of the kind of move; no child's index.
      index: uint32.
      strength: s of `sphere_step`.
    """
    last = jax.random.fold_in(chain.keys[chain.links], tag)
    place = chain.links + 1
    return Chain(
        chain.keys.at[place].set(jax.random.fold_in(last, index)),
        chain.strengths.at[place].set(strength),
        place,
    )


def fold_in(key: Key, data: int | Array) -> Key:
    """`jax.random.fold_in`, for every key of a chain."""
    if not isinstance(key, Chain):
        return jax.random.fold_in(key, data)
    keys = jax.vmap(jax.random.fold_in, (0, None))(key.keys, data)
    return dataclasses.replace(key, keys=keys)


def normal(key: Key, shape: tuple[int, ...]) -> Array:
    """Standard normal values, float32; of a chain, the neighbour that its links lead to.

    A chain's room has no part in the bits, nor in those of what is computed from the draw: the loop
    keeps a compiler from merging the two. A plain key has no loop, and is so merged.
    """
    if not isinstance(key, Chain):
        return jax.random.normal(key, shape, jnp.float32)

    def move(carry):
        place, values = carry
        fresh = jax.random.normal(key.keys[place], shape, jnp.float32)
        return place + 1, sphere_step(values, fresh, key.strengths[place])

    start = jax.random.normal(key.keys[0], shape, jnp.float32)
    return jax.lax.while_loop(lambda carry: carry[0] <= key.links, move, (jnp.int32(1), start))[1]


def sphere_step(noise: Array, fresh: Array, strength: Array) -> Array:
    """A neighbour at equal distance from the origin (arXiv 2501.09732).

    Args:
      noise: n.
      fresh: independent noise, same shape.
      strength: s, the cosine of the angle between n and the neighbour.

    Returns:
      |n| (s u + sqrt(1 - s^2) w), with u the direction of n and w that of `fresh` made orthogonal
      to it.
    """
    length = jnp.linalg.norm(noise)
    direction = noise / length
    across = fresh - jnp.vdot(fresh, direction) * direction
    across = across / jnp.linalg.norm(across)
    return length * (strength * direction + jnp.sqrt(1 - strength**2) * across)
