"""The encoder of T5 v1.1 (arXiv 1910.10683, 2002.05202) and of UMT5 (arXiv 2304.09151).

Positions are told by a bias on the attention's logits that depends on the distance of two tokens.
T5 has one table for all layers, UMT5 one for each.

B batch  L tokens  D width  N heads  K head size  M hidden size of the feed-forward layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.linear import Linear
from tts_jax.nn.norms import RMSNorm
from tts_jax.nn.stack import stacked


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Sizes of an encoder.

    Attributes:
      width: D.
      heads, head_size: N and K; N * K need not be the width.
      mlp: M.
      buckets: rows of a table of biases: half for each direction.
      max_distance: tokens from which on all distances share a bucket.
      bias_per_layer: whether every layer has a table of its own (UMT5), or all share one (T5).
      epsilon: of the norms.
    """

    vocabulary: int
    width: int
    heads: int
    head_size: int
    layers: int
    mlp: int
    buckets: int = 32
    max_distance: int = 128
    bias_per_layer: bool = False
    epsilon: float = 1e-6

    @classmethod
    def t5_v1_1_xxl(cls) -> "T5Config":
        """google/t5-v1_1-xxl."""
        return cls(vocabulary=32128, width=4096, heads=64, head_size=64, layers=24, mlp=10240)

    @classmethod
    def umt5_xxl(cls) -> "T5Config":
        """google/umt5-xxl."""
        return cls(
            vocabulary=256384,
            width=4096,
            heads=64,
            head_size=64,
            layers=24,
            mlp=10240,
            bias_per_layer=True,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "T5Config":
        """The sizes in a published `config.json`, already parsed.

        Raises:
          ValueError: it is of another model, or has another feed-forward layer.
        """
        kind = config.get("model_type", "t5")
        activation = config["feed_forward_proj"]
        if kind not in ("t5", "umt5") or activation != "gated-gelu":
            raise ValueError(f"unsupported T5 settings: {kind=}, feed_forward_proj={activation!r}")
        return cls(
            vocabulary=config["vocab_size"],
            width=config["d_model"],
            heads=config["num_heads"],
            head_size=config["d_kv"],
            layers=config["num_layers"],
            mlp=config["d_ff"],
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            bias_per_layer=kind == "umt5",
            epsilon=config.get("layer_norm_epsilon", 1e-6),
        )


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every query and key, int [L, L].

    Of a direction's buckets, half are for single distances and half for ranges that grow
    geometrically up to `max_distance`; keys after the query use the upper half of all.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32)
    far = np.log(far / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (far * np.float32(half - exact)).astype(np.int64), half - 1)
    near = np.abs(distance)
    return np.where(near < exact, near, far) + half * (distance > 0)


class Attention(nnx.Module):
    """Self-attention without biases of its projections and without a scale of its logits."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        inner = config.heads * config.head_size

        def linear(inputs, outputs):
            return Linear(inputs, outputs, use_bias=False, rngs=rngs)

        self.q, self.k, self.v = (linear(config.width, inner) for _ in range(3))
        self.out = linear(inner, config.width)
        self.heads = config.heads, config.head_size

    @jax.named_scope("attention")
    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        q, k, v = (
            layer(x).reshape(*x.shape[:2], *self.heads) for layer in (self.q, self.k, self.v)
        )
        seen = None if mask is None else mask[:, None, None]
        heads = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=seen, scale=1.0)
        return self.out(heads.reshape(*x.shape[:2], -1))


class GatedMLP(nnx.Module):
    """Feed-forward layer gated by GELU (tanh), arXiv 2002.05202."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.gate = Linear(config.width, config.mlp, use_bias=False, rngs=rngs)
        self.up = Linear(config.width, config.mlp, use_bias=False, rngs=rngs)
        self.down = Linear(config.mlp, config.width, use_bias=False, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        return self.down(jax.nn.gelu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)
        self.mlp = GatedMLP(config, rngs=rngs)

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        x = x + self.attention(self.norm1(x), bias, mask)
        return x + self.mlp(self.norm2(x))


class T5Encoder(nnx.Module):
    """Token embeddings, blocks, a last norm."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal
        self.config = config
        self.token = nnx.Embed(
            config.vocabulary, config.width, embedding_init=normal(1.0), rngs=rngs
        )
        tables = (config.layers,) if config.bias_per_layer else ()
        shape = (*tables, config.buckets, config.heads)
        self.bias = nnx.Param(normal(config.width**-0.5)(rngs.params(), shape))
        self.blocks = stacked(partial(Block, config), config.layers, rngs=rngs)
        self.norm = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)

    def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
        """Encodes token sequences.

        Args:
          tokens: token ids, [B, L] int32.
          mask: tokens that others may see, [B, L] bool or 0 and 1; all if None.

        Returns:
          States of all tokens, those of the padding included, [B, L, D].
        """
        config = self.config
        buckets = distance_buckets(tokens.shape[1], config.buckets, config.max_distance)
        mask = None if mask is None else mask.astype(bool)

        def spread(table):
            """[buckets, N] to [1, N, L, L]."""
            return jnp.moveaxis(table[buckets], -1, 0)[None]

        shared = None if config.bias_per_layer else spread(self.bias[...])

        def step(x, layer):
            block, table = layer
            bias = shared if table is None else spread(table)
            return block(x, bias.astype(jnp.float32), mask), None

        tables = self.bias[...] if config.bias_per_layer else None
        x, _ = jax.lax.scan(step, self.token.embedding[tokens], (self.blocks, tables))
        return self.norm(x)
