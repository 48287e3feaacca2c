"""In what type the parameters of networks are held: as stored, float32, bfloat16 or int8.

Int8 is of weights alone, after training (arXiv 2206.01861): kernels and embedding tables become
integers with a scale for each output channel of each layer, row of a table, or channel and tap of a
convolution; everything else stays, and so do activations, in the type of the checkpoint. A module
reads floating-point numbers where it uses them. Of stacked blocks this is inside the scan, so that
one layer's floating-point weights exist at a time.

The arrays and their arithmetic are `qwix`'s. Its `quantize_model` is not used: it finds weights by
the operations that take them in a traced call, and takes no slices of a scan for weights, so that
all of our stacked blocks would stay as they are.
"""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

STORED, INT8 = "stored", "int8"
WEIGHTS = (STORED, "float32", "bfloat16", INT8)

# Smaller parameters, and those that sum fewer inputs under one scale, are not worth the rounding.
SMALL, FEWEST = 2**10, 16


def check(weights: str) -> None:
    """Refuses what is none of `WEIGHTS`, or cannot be had here.

    Raises:
      ValueError: it says what to change.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights of type {weights!r} are none of {', '.join(WEIGHTS)}")
    if weights == INT8 and importlib.util.find_spec("qwix") is None:
        raise ValueError('int8 weights need qwix: pip install "tts_jax[int8]"')


def read_as(weights: str, otherwise: Any = None) -> Any:
    """The floating-point type to read a checkpoint in; `otherwise` where none is asked for."""
    return otherwise if weights in (STORED, INT8) else jnp.dtype(weights)


def hold(params: Any, weights: str) -> Any:
    """Parameters in the type in which they are held.

    A parameter is freed when it has been converted, if nothing else refers to it.

    Args:
      params: nested dictionary of arrays, or of their shapes and dtypes.
      weights: one of `WEIGHTS`.

    Returns:
      The same dictionary, in which kernels and tables are `qwix.QArray`s if they are int8.
    """
    if weights == STORED:
        return params
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    del params
    held = []
    while paths:
        path, leaf = paths.pop()
        axis = _summed(path, leaf) if weights == INT8 else None
        if axis is not None:
            leaf = _quantise(leaf, axis)
        elif weights != INT8 and jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = _cast(leaf, jnp.dtype(weights))
        held.append(leaf)
    return jax.tree.unflatten(tree, held[::-1])


def is_quantised(value: Any) -> bool:
    """Whether it is an int8 parameter: integers and their scales."""
    return hasattr(value, "qvalue")


def readable(variable: Any, value: Any) -> Any:
    """What a module reads of a parameter: floating-point numbers; a hook of `nnx.Variable`."""
    del variable
    if not is_quantised(value):
        return value
    from qwix import dequantize

    return dequantize(value)


def _summed(path: tuple, leaf: Any) -> int | None:
    """The axis whose numbers share a scale; None of what is not quantised."""
    axis = {"kernel": -2, "embedding": -1}.get(str(getattr(path[-1], "key", "")))
    if axis is None or len(leaf.shape) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    return axis if leaf.size >= SMALL and leaf.shape[axis] >= FEWEST else None


def _cast(leaf: Any, dtype: jnp.dtype) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    return leaf.astype(dtype)


def _quantise(leaf: Any, axis: int) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda x: _rounded(x, axis), leaf)
    return _rounded(leaf, axis)


def _round(leaf: jax.Array, axis: int) -> Any:
    from qwix import quantize

    alone = [own for own in range(leaf.ndim) if own != leaf.ndim + axis]
    return quantize(leaf, jnp.int8, channelwise_axes=alone)


_rounded = jax.jit(_round, static_argnums=1)
