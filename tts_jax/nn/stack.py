"""Modules of equal shapes as one, whose leaves have a leading axis for `jax.lax.scan`."""

from collections.abc import Callable

import jax
from flax import nnx


def stacked(build: Callable[..., nnx.Module], count: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """`count` modules in one; their leaves have a leading axis of that length.

    Args:
      build: makes one module; its only argument is `rngs`.
      count: how many.
      rngs: of all of them.
    """
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: build(rngs=type(rngs)(key)))(keys)
