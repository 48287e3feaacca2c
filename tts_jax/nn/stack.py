"""Modules of equal shapes as one, whose leaves have a leading axis for `jax.lax.scan`."""

import itertools
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.conv import Window


def stacked(build: Callable[..., nnx.Module], count: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """`count` modules in one; their leaves have a leading axis of that length.

    Args:
      build: makes one module; its only argument is `rngs`.
      count: how many.
      rngs: of all of them.
    """
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: build(rngs=type(rngs)(key)))(keys)


def in_turn(modules: Sequence[nnx.Module], x: Array, window: Window | None, *about: Array) -> Array:
    """Runs modules one after the other, neighbours of equal shapes as one scan.

    Causal VAEs have many such residual blocks, and compilers take seconds for each convolution.

    Args:
      modules: called with what the one before gave, a window and `about`; those of equal shapes
        give what they take.
      x: what the first one takes.
      window: the memory of their convolutions; None for a whole clip.
      *about: what all of them are told.
    """
    for _, alike in itertools.groupby(modules, _kind):
        group = list(alike)
        if len(group) == 1:
            x = group[0](x, window, *about)
            continue

        def step(x: Array, own: tuple[nnx.Module, list | None]) -> tuple[Array, list]:
            module, past = own
            inner = None if window is None else Window(past)
            return module(x, inner, *about), inner.kept if inner else []

        whole = jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)
        x, kept = jax.lax.scan(step, x, (whole, window.recall() if window else None))
        if window:
            window.kept.append(kept)
    return x


def _kind(module: nnx.Module) -> Hashable:
    leaves, structure = jax.tree.flatten(module)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
