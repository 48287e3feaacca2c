"""Linear layers over tokens, and from tokens to attention heads and back.

B batch  L tokens  D width  N heads  K head size.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

Layer = TypeVar("Layer", bound=nnx.Module)


class Linear(nnx.Linear):
    """`nnx.Linear` over tokens flattened to one axis.

    The gradient of the kernel then contracts one axis instead of two, which XLA's CPU backend does
    without transposing its operands first: a training step takes an eighth less.
    """

    def __call__(self, x: Array) -> Array:
        """[..., D_in] -> [..., D_out]."""
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        return super().__call__(flat).reshape(*x.shape[:-1], self.out_features)

    def to_heads(self, x: Array, heads: tuple[int, ...]) -> Array:
        """[B, L, D_in] -> [B, L, N, K], for `heads` N and K; or more axes, as N, 2 and K/2.

        Tokens and batch stay apart: flattened, no axis of theirs fits the TPU's tiles of 8 x 128,
        and the compiler copies queries and keys between layouts for longer than it makes them.
        """
        y = jnp.tensordot(x, self.kernel[...].reshape(-1, *heads), 1)
        return y if self.bias is None else y + self.bias[...].reshape(heads)

    def from_heads(self, x: Array, rest: Array | None = None) -> Array:
        """[B, L, N, K] -> [B, L, D_out], of the heads and the rest, [B, L, D_in - N * K], if any.

        Nothing is joined before, which would copy all of it.
        """
        kernel, width = self.kernel[...], x.shape[2] * x.shape[3]
        y = jnp.einsum("blnk,nkd->bld", x, kernel[:width].reshape(*x.shape[2:], -1))
        if rest is not None:
            y = y + rest @ kernel[width:]
        return y if self.bias is None else y + self.bias[...]


def evens_first(layer: Layer, size: int) -> Layer:
    """A layer that gives the channels of every head in another order: 0, 2, 4, ..., 1, 3, 5, ...

    What is made for `rotate_pairs` is then rotated by `rotate_halves`, to the same products of
    queries and keys. Neighbouring channels are slow to bring together on a TPU; halves are not.

    Args:
      layer: linear or a norm; the last axis of each of its parameters are channels of heads.
      size: K, even.
    """

    def order(x):
        return x.reshape(*x.shape[:-1], -1, size // 2, 2).swapaxes(-1, -2).reshape(x.shape)

    graph, params = nnx.split(layer)
    return nnx.merge(graph, jax.tree.map(order, params))
