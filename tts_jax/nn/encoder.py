"""Pre-norm transformer blocks with learned positions, as in CLIP (arXiv 2103.00020).

The text tower, the image tower and the video tower of the CLIP family are stacks of this one block.

B batch  L tokens  D width  N heads  K head size  M hidden size of the feed-forward layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.embeddings import rotate_halves
from tts_jax.nn.stack import stacked


def quick_gelu(x: Array) -> Array:
    """The sigmoid approximation of GELU that the first CLIP models were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """GELU by the error function."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """The approximation of GELU by the hyperbolic tangent."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
}

Rotation = tuple[Array, Array] | None  # cosines and sines of the angles, see `rotate_halves`


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a stack of blocks."""

    width: int
    heads: int
    layers: int
    mlp: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5


class Attention(nnx.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        def linear(deviation):
            init = nnx.initializers.normal(deviation)
            return nnx.Linear(config.width, config.width, kernel_init=init, rngs=rngs)

        self.heads = config.heads
        inner = config.width**-0.5
        self.q, self.k, self.v = linear(inner), linear(inner), linear(inner)
        self.out = linear(inner * (2 * config.layers) ** -0.5)

    @jax.named_scope("attention")
    def __call__(
        self, x: Array, mask: Array | None, *, causal: bool, rotation: Rotation = None
    ) -> Array:
        split = (*x.shape[:-1], self.heads, -1)
        q, k, v = (project(x).reshape(split) for project in (self.q, self.k, self.v))
        if rotation is not None:
            q, k = (rotate_halves(t, *rotation) for t in (q, k))
        seen = None if mask is None else mask[:, None, None]
        x_seen = jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=causal)
        return self.out(x_seen.reshape(x.shape))


class FeedForward(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        first = nnx.initializers.normal((2 * config.width) ** -0.5)
        second = nnx.initializers.normal((2 * config.layers * config.width) ** -0.5)
        self.fc1 = nnx.Linear(config.width, config.mlp, kernel_init=first, rngs=rngs)
        self.fc2 = nnx.Linear(config.mlp, config.width, kernel_init=second, rngs=rngs)
        self.activation = config.activation

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        *,
        causal: bool = False,
        rotation: Rotation = None,
    ) -> Array:
        x = x + self.attention(self.norm1(x), mask, causal=causal, rotation=rotation)
        return x + self.mlp(self.norm2(x))


def stack(config: EncoderConfig, *, rngs: nnx.Rngs) -> Block:
    """`config.layers` blocks in one module whose leaves have a leading layer axis."""
    return stacked(partial(Block, config), config.layers, rngs=rngs)


def run(
    blocks: Block,
    x: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    rotation: Rotation = None,
) -> Array:
    """Applies stacked blocks one after the other.

    Args:
      blocks: what `stack` returned.
      x: tokens, [B, L, D].
      mask: tokens that others may see, [B, L] bool; all if None.
      causal: whether a token sees only itself and those before it.
      rotation: of queries and keys by their positions; none where positions are learned.

    Returns:
      Tokens, [B, L, D].
    """

    def step(h, block):
        return block(h, mask, causal=causal, rotation=rotation), None

    return jax.lax.scan(step, x, blocks)[0]


def normalise(x: Array) -> Array:
    """Rows of length one, float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))
