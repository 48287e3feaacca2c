"""Language models: Llama 3 (arXiv 2407.21783), Mistral (2310.06825), Qwen2 (2407.10671).

One network with their small differences as switches; Qwen2.5 and the language parts of Qwen2-VL and
CogVLM2 (arXiv 2408.16500) are the same network. Every token sees itself and those before it. Keys
and values of tokens that were computed before come from a cache of fixed size, and those of a
beginning that several rows have in common from a prefix, which exists once for all of them.

B rows  L tokens  S slots of a cache  D width  N heads  G heads of keys and values  K head size
V vocabulary  P prefixes, of which each serves B / P rows.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import TokenMask, attend
from tts_jax.nn.embeddings import frequencies, rotate_halves
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import GatedMLP
from tts_jax.nn.norms import RMSNorm
from tts_jax.nn.stack import stacked

FAMILIES = ("llama", "mistral", "qwen2")
_NEVER = jnp.finfo(jnp.float32).min


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's longer rotary periods: low frequencies are divided, those between blended.

    Attributes:
      factor: by which the lowest frequencies are divided.
      low, high: turns over `length` tokens below which a frequency is low, above which high.
      length: tokens that the model was first trained on.
    """

    factor: float
    low: float
    high: float
    length: int


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and switches of a decoder.

    Attributes:
      width, heads, kv_heads, head_size, mlp: D, N, G, K and the feed-forward layer's hidden size.
      theta: base of the rotary periods.
      bias: whether queries, keys and values have a bias.
      head: "own" matrix of logits, "tied" to the token embeddings, or "none".
      window: tokens that a token sees, itself included; None for all before it.
      window_from: first layer with the window.
      sections: for positions of three axes, the frequencies that each axis turns; () for one axis.
      coarse_rope: whether frequencies, positions and angles are rounded to bfloat16, as the
        published CogVLM2 does when it is loaded in that type.
      expert: whether visual rows have weights of their own, as in the CogVLM2 image model.
    """

    vocabulary: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    layers: int
    mlp: int
    theta: float = 10000.0
    epsilon: float = 1e-5
    bias: bool = False
    head: str = "own"
    window: int | None = None
    window_from: int = 0
    scaling: RopeScaling | None = None
    sections: tuple[int, ...] = ()
    coarse_rope: bool = False
    expert: bool = False

    @classmethod
    def llama3_8b(cls) -> "DecoderConfig":
        """meta-llama/Meta-Llama-3-8B."""
        return cls(
            vocabulary=128256,
            width=4096,
            heads=32,
            kv_heads=8,
            head_size=128,
            layers=32,
            mlp=14336,
            theta=500000.0,
        )

    @classmethod
    def mistral_7b(cls) -> "DecoderConfig":
        """mistralai/Mistral-7B-v0.1."""
        return cls(
            vocabulary=32000,
            width=4096,
            heads=32,
            kv_heads=8,
            head_size=128,
            layers=32,
            mlp=14336,
            window=4096,
        )

    @classmethod
    def qwen2_7b(cls) -> "DecoderConfig":
        """Qwen/Qwen2-7B and Qwen/Qwen2.5-7B, whose sizes are the same."""
        return cls(
            vocabulary=152064,
            width=3584,
            heads=28,
            kv_heads=4,
            head_size=128,
            layers=28,
            mlp=18944,
            theta=1000000.0,
            epsilon=1e-6,
            bias=True,
        )

    @classmethod
    def qwen2_vl_2b(cls) -> "DecoderConfig":
        """The language model of Qwen/Qwen2-VL-2B-Instruct."""
        return cls(
            vocabulary=151936,
            width=1536,
            heads=12,
            kv_heads=2,
            head_size=128,
            layers=28,
            mlp=8960,
            theta=1000000.0,
            epsilon=1e-6,
            bias=True,
            head="tied",
            sections=(16, 24, 24),
        )

    @classmethod
    def from_reference(
        cls,
        config: Mapping,
        family: str | None = None,
        default: "DecoderConfig | None" = None,
    ) -> "DecoderConfig":
        """The sizes in a published `config.json`, already parsed.

        Args:
          config: its fields, with those of rotary positions as old and new files have them.
          family: one of `FAMILIES`; by default the file's `model_type`.
          default: has the sizes that the file may leave out; None if it may not.

        Raises:
          ValueError: another family, or settings that no supported model has.
        """
        family = family or config["model_type"]
        if family not in FAMILIES:
            raise ValueError(f"{family} is not one of the decoders {', '.join(FAMILIES)}")
        for name, only in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
            if config.get(name, only) != only:
                raise ValueError(f"{name} is {config[name]!r}; the port supports {only!r} only")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        scaling, sections = _read_rope(rope)

        def size(name: str, ours: str):
            return config[name] if default is None else config.get(name, getattr(default, ours))

        window = config.get("sliding_window", default and default.window)
        if family == "llama" or (family == "qwen2" and not config.get("use_sliding_window", False)):
            window = None
        heads, width = size("num_attention_heads", "heads"), size("hidden_size", "width")
        return cls(
            vocabulary=size("vocab_size", "vocabulary"),
            width=width,
            heads=heads,
            kv_heads=config.get("num_key_value_heads", default and default.kv_heads) or heads,
            head_size=config.get("head_dim") or width // heads,
            layers=size("num_hidden_layers", "layers"),
            mlp=size("intermediate_size", "mlp"),
            theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            epsilon=config.get("rms_norm_eps", default.epsilon if default else 1e-6),
            bias=family == "qwen2",
            head="tied" if config.get("tie_word_embeddings", False) else "own",
            window=window,
            window_from=config.get("max_window_layers", 0) if family == "qwen2" and window else 0,
            scaling=scaling,
            sections=sections,
        )

    def frequencies(self) -> np.ndarray:
        """Angles by which a step of the position turns the pairs of a head, float32 [K/2]."""
        rates = frequencies(self.head_size // 2, self.theta)
        if self.scaling is not None:
            s = self.scaling
            turns = s.length * rates / (2 * np.pi)
            blend = np.clip((turns - s.low) / (s.high - s.low), 0.0, 1.0)
            rates = rates * (blend + (1 - blend) / s.factor)
        return rates.astype(np.float32)


def _read_rope(rope: Mapping) -> tuple[RopeScaling | None, tuple[int, ...]]:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    sections = tuple(rope.get("mrope_section") or ())
    if kind == "llama3":
        return RopeScaling(
            factor=rope["factor"],
            low=rope["low_freq_factor"],
            high=rope["high_freq_factor"],
            length=rope["original_max_position_embeddings"],
        ), ()
    if kind not in ("default", "mrope"):
        raise ValueError(f"unsupported rotary positions: {kind!r}")
    return None, sections


class Cache(NamedTuple):
    """Keys and values of tokens that were computed already.

    Attributes:
      k, v: [layers, B, S, G, K]; keys are rotated.
      positions: of the tokens in the slots, [B, S] int32; -1 in a slot that nobody may see.
      length: slots that have been written, int32.
    """

    k: Array
    v: Array
    positions: Array
    length: Array


class Weights(nnx.Module):
    """The linear maps of one block."""

    def __init__(self, config: DecoderConfig, *, bias: bool, rngs: nnx.Rngs):
        width, inner = config.width, config.heads * config.head_size
        kept = config.kv_heads * config.head_size
        self.q = Linear(width, inner, use_bias=bias, rngs=rngs)
        self.k = Linear(width, kept, use_bias=bias, rngs=rngs)
        self.v = Linear(width, kept, use_bias=bias, rngs=rngs)
        self.out = Linear(inner, width, use_bias=False, rngs=rngs)
        self.mlp = GatedMLP(width, config.mlp, rngs=rngs)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.head_size = config.head_size
        self.norm1 = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)
        self.norm2 = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)
        self.text = Weights(config, bias=config.bias, rngs=rngs)
        if config.expert:
            self.vision = Weights(config, bias=True, rngs=rngs)

    @jax.named_scope("attention")
    def qkv(self, x: Array, visual: Array | None) -> tuple[Array, Array, Array]:
        """Queries, keys and values of [B, L, D], each [B, L, heads, K]."""
        h = self.norm1(x)
        return tuple(
            self._route(name, h, visual).reshape(*x.shape[:2], -1, self.head_size)
            for name in ("q", "k", "v")
        )

    def finish(self, x: Array, heads: Array, visual: Array | None) -> Array:
        """The block's output of its input and of what attention gave, [B, L, N, K]."""
        with jax.named_scope("attention"):
            x = x + self._route("out", heads.reshape(*x.shape[:2], -1), visual)
        return x + self._route("mlp", self.norm2(x), visual)

    def _route(self, name: str, x: Array, visual: Array | None) -> Array:
        out = getattr(self.text, name)(x)
        if visual is None:
            return out
        return jnp.where(visual[..., None], getattr(self.vision, name)(x), out)


class Decoder(nnx.Module):
    """Token embeddings, blocks, a last norm, and logits of the next token."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.token = nnx.Embed(
            config.vocabulary,
            config.width,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.blocks = stacked(partial(Block, config), config.layers, rngs=rngs)
        self.norm = RMSNorm(config.width, eps=config.epsilon, rngs=rngs)
        if config.head == "own":
            self.head = Linear(config.width, config.vocabulary, use_bias=False, rngs=rngs)

    def embed(self, tokens: Array) -> Array:
        """Embeddings of token ids, [...] int32 -> [..., D]."""
        return self.token.embedding[tokens]

    def logits(self, hidden: Array) -> Array:
        """Logits of the next token, [..., D] -> [..., V] float32."""
        if self.config.head == "tied":
            return (hidden @ self.token.embedding[...].T).astype(jnp.float32)
        return self.head(hidden).astype(jnp.float32)

    def cache(self, rows: int, slots: int) -> Cache:
        """An empty cache for `rows` rows of at most `slots` tokens."""
        config = self.config
        shape = (config.layers, rows, slots, config.kv_heads, config.head_size)
        k, v = (jnp.zeros(shape, self.token.embedding.dtype) for _ in range(2))
        return Cache(k, v, jnp.full((rows, slots), -1, jnp.int32), jnp.int32(0))

    def __call__(
        self,
        x: Array,
        positions: Array | None = None,
        seen: Array | None = None,
        *,
        cache: Cache | None = None,
        prefix: Cache | None = None,
        visual: Array | None = None,
    ) -> tuple[Array, Cache]:
        """Processes the next tokens of every row.

        Args:
          x: embeddings, [B, L, D].
          positions: of the tokens, [B, L] int32, or [B, 3, L] where the config has sections; by
            default 0, 1, 2, ... over the tokens that are seen, on every axis, after what the prefix
            holds.
          seen: tokens that others may see, [B, L] bool; all if None. What comes out for the others
            has no meaning.
          cache: tokens of the same rows before these, with room for these; None if there are none.
          prefix: tokens before all of these, which each row r has in common with those rows whose
            r // (B / P) is the same.
          visual: rows with the visual expert's weights, [B, L] bool.

        Returns:
          States after the last norm, [B, L, D], and the cache of these tokens and those before
          them; without the prefix.
        """
        config = self.config
        rows, length = x.shape[:2]
        if positions is None:
            positions = consecutive(jnp.ones((rows, length), bool) if seen is None else seen)
            if prefix is not None:
                start = prefix.positions.max(1) + 1
                positions = positions + jnp.repeat(start, rows // start.shape[0])[:, None]
        line = positions if positions.ndim == 2 else positions[:, 0]
        places = line if seen is None else jnp.where(seen, line, -1)
        start = jnp.int32(0) if cache is None else cache.length
        if cache is not None:
            places = jax.lax.dynamic_update_slice(cache.positions, places, (0, start))
        ends = start + jnp.arange(1, length + 1)
        own = TokenMask(ends, jnp.ones_like(line, bool), places >= 0)
        if prefix is not None or config.window is not None:
            own = own.pairs()
        before = None if prefix is None else (prefix.positions >= 0)[:, None]
        near = None
        if config.window is not None:
            near = [_near(line, places, config.window)]
            if prefix is not None:
                shared = jnp.repeat(prefix.positions, rows // prefix.positions.shape[0], axis=0)
                before = (shared >= 0)[:, None]
                near.append(_near(line, shared, config.window))
        cos, sin = self.rotation(positions)

        def step(x, layer):
            block, index, kept, common = layer
            q, k, v = block.qkv(x, visual)
            q, k = (rotate_halves(t, cos, sin) for t in (q, k))
            if kept is not None:
                k, v = (
                    jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0, 0))
                    for old, new in zip(kept, (k, v), strict=True)
                )
            masks = own, before
            if near is not None:
                far = index < config.window_from
                masks = [mask & (n | far) for mask, n in zip(masks, near, strict=False)]
            return block.finish(x, _attend(q, k, v, masks, common), visual), (k, v)

        layers = (
            self.blocks,
            jnp.arange(config.layers),
            None if cache is None else cache[:2],
            None if prefix is None else prefix[:2],
        )
        x, (k, v) = jax.lax.scan(step, x, layers)
        return self.norm(x), Cache(k, v, places, start + length)

    def rotation(self, positions: Array) -> tuple[Array, Array]:
        """Cosines and sines of the angles at positions, each float32 [B, L, K/2]."""
        rates = jnp.asarray(self.config.frequencies())
        if self.config.coarse_rope:
            rates = rates.astype(jnp.bfloat16)
            angles = positions.astype(jnp.bfloat16)[..., None] * rates
            return tuple(f(angles).astype(jnp.float32) for f in (jnp.cos, jnp.sin))
        angles = positions.astype(jnp.float32)[..., None] * rates
        if positions.ndim == 3:
            runs = np.cumsum([0, *self.config.sections])
            pieces = [
                angles[:, axis, :, low:high]
                for axis, (low, high) in enumerate(itertools.pairwise(runs))
            ]
            angles = jnp.concatenate(pieces, axis=-1)
        return jnp.cos(angles), jnp.sin(angles)


def consecutive(seen: Array) -> Array:
    """Positions 0, 1, 2, ... over the tokens that are seen, [B, L] bool -> [B, L] int32."""
    return jnp.maximum(jnp.cumsum(seen, axis=1, dtype=jnp.int32) - 1, 0)


def last_seen(seen: Array) -> Array:
    """Index of the last token that is seen in every row, [B, L] bool -> [B] int32."""
    return seen.shape[1] - 1 - jnp.argmax(seen[:, ::-1], axis=1)


def take_rows(x: Array, index: Array) -> Array:
    """One token's state of every row, [B, L, D] and [B] -> [B, D]."""
    return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]


def _near(line: Array, places: Array, window: int) -> Array:
    return line[:, :, None] - places[:, None] < window


@jax.named_scope("attention")
def _attend(q: Array, k: Array, v: Array, masks: Sequence, common: tuple | None) -> Array:
    """Attention over a row's own keys and those of its prefix: one softmax, two products."""
    own = masks[0]
    rows, length, heads, size = q.shape
    groups = k.shape[2]
    if common is None:
        k, v = (jnp.repeat(t, heads // groups, axis=2) for t in (k, v))
        return attend(q, k, v, own, implementation="auto")
    prefixes = common[0].shape[0]
    q, k, v, own = (t.reshape(prefixes, rows // prefixes, *t.shape[1:]) for t in (q, k, v, own))
    q = q.reshape(*q.shape[:3], groups, heads // groups, size) * size**-0.5
    first = jnp.einsum("pblgnk,psgk->pgnbls", q, common[0], preferred_element_type=jnp.float32)
    second = jnp.einsum("pblgnk,pbsgk->pgnbls", q, k, preferred_element_type=jnp.float32)
    before = masks[1].reshape(prefixes, -1, *masks[1].shape[1:])  # for each row, or once
    first = jnp.where(before[:, None, None], first, _NEVER)
    second = jnp.where(own[:, None, None], second, _NEVER)
    weights = jax.nn.softmax(jnp.concatenate([first, second], axis=-1), axis=-1).astype(v.dtype)
    first, second = jnp.split(weights, [common[0].shape[1]], axis=-1)
    out = jnp.einsum("pgnbls,psgk->pblgnk", first, common[1])
    out = out + jnp.einsum("pgnbls,pbsgk->pblgnk", second, v)
    return out.reshape(rows, length, heads, size)


def generate(
    decoder: Decoder,
    x: Array,
    seen: Array,
    steps: int,
    *,
    ends: Sequence[int] = (),
    keys: Array | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Array:
    """Continues every row, which may be padded on either side.

    Args:
      decoder: with logits.
      x: embeddings of the beginnings, [B, L, D].
      seen: tokens that are not padding, [B, L] bool.
      steps: most tokens of a continuation.
      ends: tokens after which a row ends; it is filled up with the first of them.
      keys: random keys, [B], of which a row's tokens depend on its own alone; None takes the most
        likely token at every step.
      temperature: by which logits are divided before a token is drawn.
      top_k: how many of the likeliest tokens can be drawn; 0 for all.
      top_p: the likeliest tokens whose probabilities sum to this can be drawn; 1 for all.

    Returns:
      Tokens, [B, steps] int32.
    """
    rows, length = seen.shape
    hidden, cache = decoder(x, seen=seen, cache=decoder.cache(rows, length + steps))
    logits = decoder.logits(take_rows(hidden, last_seen(seen)))
    count = seen.sum(1, dtype=jnp.int32)
    stops = jnp.asarray(ends, jnp.int32)
    fill = stops[0] if len(ends) else jnp.int32(0)

    def choose(logits, step):
        if keys is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = restrict(logits / temperature, top_k, top_p)
        draw = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))
        return draw(keys, logits).astype(jnp.int32)

    def unfinished(state):
        step, _, done, *_ = state
        return (step < steps) & ~done.all()

    def advance(state):
        step, tokens, done, logits, cache = state
        token = jnp.where(done, fill, choose(logits, step))
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, step))
        done = done | (token[:, None] == stops).any(1)
        hidden, cache = decoder(decoder.embed(token)[:, None], (count + step)[:, None], cache=cache)
        return step + 1, tokens, done, decoder.logits(hidden[:, 0]), cache

    tokens = jnp.full((rows, steps), fill, jnp.int32)
    state = jnp.int32(0), tokens, jnp.zeros(rows, bool), logits, cache
    return jax.lax.while_loop(unfinished, advance, state)[1]


def restrict(logits: Array, top_k: int = 0, top_p: float = 1.0) -> Array:
    """Logits of which the unlikeliest are -inf; the likeliest stays.

    Args:
      logits: [B, V] float32.
      top_k: how many stay, and what is as likely as the last of them; 0 for all.
      top_p: sum of the probabilities that stay, among those that `top_k` leaves; 1 for all.

    Returns:
      [B, V] float32.
    """
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        above = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.where(above < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
