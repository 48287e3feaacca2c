"""Normalisations over the last axis; statistics in float32 whatever the input."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


@jax.named_scope("norm")
def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """Layer normalisation without parameters.

    Args:
      x: [..., D].
      eps: added to the variance.

    Returns:
      [..., D], float32: zero mean and unit variance over D.
    """
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)


@jax.named_scope("norm")
def layer_norm_once(x: Array, eps: float = 1e-6) -> Array:
    """`layer_norm` that reads its input once for both statistics, which what makes `x` can give.

    The variance is the mean square less the square of the mean: it loses what float32 loses where
    the mean is many times larger than the deviation, which it is not in a residual stream.

    Args:
      x: [..., D].
      eps: added to the variance.

    Returns:
      [..., D], float32.
    """
    x = x.astype(jnp.float32)
    mean, square = (jnp.mean(y, axis=-1, keepdims=True) for y in (x, x * x))
    variance = jnp.maximum(square - mean * mean, 0)
    return (x - mean) * jax.lax.rsqrt(variance + eps)


class RMSNorm(nnx.Module):
    """Division by the root mean square, times a learned scale (arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    @jax.named_scope("norm")
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis.

        Args:
          x: [..., D].

        Returns:
          [..., D] in the dtype of `x`.
        """
        y = x.astype(jnp.float32)
        return (y * self.factor(y) * self.scale[...]).astype(x.dtype)

    def factor(self, x: Array, axis: int | tuple[int, ...] = -1) -> Array:
        """One over the root mean square, kept as axes of 1: float32 [..., 1] of [..., D]."""
        return jax.lax.rsqrt(jnp.mean(x * x, axis=axis, keepdims=True) + self.eps)


class LayerNorm(nnx.Module):
    """`layer_norm` times a learned scale, plus a learned bias."""

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    @jax.named_scope("norm")
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis.

        Args:
          x: [..., D].

        Returns:
          [..., D], float32.
        """
        return layer_norm(x, self.eps) * self.scale[...] + self.bias[...]
