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

from tts_jax.nn.attention import platform
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
LONG, BLOCK = 1024, 128  # from how many tokens on a CPU's cache is too small, and queries that fit


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a stack of blocks."""

    width: int
    heads: int
    layers: int
    mlp: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5


def _weigh(q: Array, k: Array, v: Array, seen: Array | None) -> Array:
    """Means of the values, of [..., L, K] each; divided by the sums of the weights at last."""
    logits = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)
    if seen is not None:
        logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    found = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)
    return (found / weights.sum(-1, keepdims=True)).astype(v.dtype)


def _attend_on_cpu(q: Array, k: Array, v: Array, mask: Array | None, causal: bool) -> Array:
    """As `jax.nn.dot_product_attention`, up to several times faster on a CPU.

    Heads come first, so that products find their rows side by side. Of many tokens one head's block
    of queries is done after the other: the logits stay in the cache.

    Args:
      q, k, v: [B, L, N, K].
      mask: tokens that others may see, [B, L] bool; all if None.
      causal: whether a token sees only itself and those before it.

    Returns:
      [B, L, N, K].
    """
    batch, length, heads, size = q.shape
    q, k, v = (x.swapaxes(1, 2) for x in (q * size**-0.5, k, v))
    seen = None if mask is None else mask[:, None, None]
    if causal:
        before = jnp.tri(length, dtype=bool)
        seen = before if seen is None else seen & before
    if length < LONG or seen is not None:
        return _weigh(q, k, v, seen).swapaxes(1, 2)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, -length % BLOCK), (0, 0)))
    q = q.reshape(batch * heads, -1, BLOCK, size)
    k, v = (x.reshape(batch * heads, length, size) for x in (k, v))

    def head(own: tuple[Array, Array, Array]) -> Array:
        q, k, v = own
        return jax.lax.map(lambda block: _weigh(block, k, v, None), q)

    found = jax.lax.map(head, (q, k, v)).reshape(batch, heads, -1, size)
    return found[:, :, :length].swapaxes(1, 2)


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
        if platform() == "cpu":
            x_seen = _attend_on_cpu(q, k, v, mask, causal)
        else:
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
