"""Feed-forward layers that several kinds of networks share."""

from collections.abc import Callable

import jax
from flax import nnx
from jax import Array

from tts_jax.nn.linear import Linear


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)), arXiv 2002.05202, without biases."""

    def __init__(self, width: int, hidden: int, outputs: int | None = None, *, rngs: nnx.Rngs):
        self.gate = Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = Linear(hidden, outputs or width, use_bias=False, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        """[..., D_in] -> [..., D_out]."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MLP(nnx.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int | None = None, rngs: nnx.Rngs):
        self.fc1 = Linear(inputs, hidden or outputs, rngs=rngs)
        self.fc2 = Linear(hidden or outputs, outputs, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        """[..., D_in] -> [..., D_out]."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class FeedForward(nnx.Module):
    """Two linear layers with any activation between them."""

    def __init__(
        self, sizes: tuple[int, int, int], activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.up = Linear(sizes[0], sizes[1], rngs=rngs)
        self.down = Linear(sizes[1], sizes[2], rngs=rngs)
        self.activation = activation

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        """[..., D_in] -> [..., D_out]."""
        return self.down(self.activation(self.up(x)))
