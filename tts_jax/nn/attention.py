"""Scaled dot-product attention.

B batch  L tokens  N heads  K head size.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from tts_jax.nn.sequence import head_axes, over_heads

IMPLEMENTATIONS = ("auto", "xla", "blocks", "cudnn", "splash")
BLOCK = 512  # queries of a block
BLOCK_LOGITS = 2**24  # of a block in `attend_in_parts`, which siblings multiply
LONG = 4096
# The most queries and keys that the kernel on TPU works on at once, and what they are multiples of.
# It is chosen for `LANES` queries and half a tile of keys or more, a whole tile if a mask of pairs
# has to be read.
TILE_Q, TILE_K, LANES = 1024, 1024, 128
MODEL = "model"  # the mesh axis over which heads are divided

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


class TokenMask(NamedTuple):
    """A mask by tokens instead of pairs: queries see the keys of their group, up to a last one.

    The TPU's kernel makes it as it goes; a mask of pairs it would have to read.

    Attributes:
      ends: how many of the first keys a query may attend to, [L_q] int32; None for all.
      query_groups, key_groups: [B, L_q] and [B, L_k], bool or non-negative int32.
    """

    ends: Array | None
    query_groups: Array
    key_groups: Array

    def of_keys(self, first: int, last: int) -> "TokenMask":
        """The mask of the same queries and the keys from `first` up to `last`."""
        ends = None if self.ends is None else self.ends - first
        return TokenMask(ends, self.query_groups, self.key_groups[:, first:last])

    def pairs(self) -> Array:
        """The mask of every query and key, bool [B, L_q, L_k]."""
        same = self.query_groups[:, :, None] == self.key_groups[:, None, :]
        if self.ends is None:
            return same
        return same & (jnp.arange(self.key_groups.shape[1]) < self.ends[:, None])


Mask = Array | TokenMask | None


@contextlib.contextmanager
def on_platform(name: str) -> Iterator[None]:
    """Has "auto" choose for another platform than this process's, while programs are traced.

    Args:
      name: "cpu", "gpu" or "tpu".
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def check(implementation: str) -> None:
    """Refuses the name of no implementation.

    Raises:
      ValueError: there is none of that name.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown attention {implementation!r}; there are {', '.join(IMPLEMENTATIONS)}"
        )


@jax.named_scope("attention")
def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask = None,
    *,
    implementation: str = "xla",
) -> Array:
    """Attention of every query over the keys that its mask allows.

    Args:
      q: queries, [B, L_q, N, K].
      k: keys, [B, L_k, N, K].
      v: values, [B, L_k, N, K].
      mask: bool, broadcastable to [B, L_q, L_k], True where the query may attend to the key. A
        row without any True gives the mean of the values, not NaN. Or a `TokenMask`, of which such
        a row gives some mean.
      implementation: one of `IMPLEMENTATIONS`: "xla" (softmax in float32), "blocks" (the same, some
        queries at a time, so that the logits of long sequences fit into memory), "cudnn" (fused,
        GPU, 16-bit inputs only), "splash" (fused, a Pallas kernel for TPU; slowly interpreted
        elsewhere), or "auto": a fused one where there is one for the platform, 16-bit inputs and,
        on TPU, `LANES` queries and half of `TILE_K` keys or more (all of it with a mask of pairs);
        otherwise "blocks" where there are more than `LONG` queries and "xla" where there are not.

    Returns:
      [B, L_q, N, K] in the dtype of `v`.

    Raises:
      ValueError: an unknown implementation.
    """
    check(implementation)
    if axes := head_axes(q.shape[2]):
        whole = partial(attend, implementation=implementation)
        return over_heads(whole, q, k, v, mask, axes)
    if implementation == "auto":
        implementation = _choose(q, k, mask)
    if implementation == "splash":
        return _attend_splash(q, k, v, mask)
    if implementation == "blocks":
        return _attend_in_blocks(q, k, v, mask)
    if isinstance(mask, TokenMask):
        mask = mask.pairs()
    if implementation == "cudnn":
        return _attend_cudnn(q, k, v, mask)
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnqk,bknd->bqnd", weights, v)


def attend_in_parts(
    q: Array,
    parts: Sequence[tuple[Array, Array, Mask]],
    *,
    implementation: str = "blocks",
    kept: bool = False,
) -> Array:
    """Attention over keys and values that lie in several arrays, without joining these.

    Under `vmap` a part that is not mapped stays one array: what siblings share is not copied for
    each of them. Softmax in float32.

    Args:
      q: queries, [B, L_q, N, K].
      parts: of each, keys [B, L_k, N, K], values like them, and which keys are there: bool [L_k],
        or None for all. "splash" also takes a `TokenMask`; in some part every query sees a key.
      implementation: as of `attend`. "splash", which "auto" takes where it would for every part,
        does the parts one after the other and joins results; all others are "blocks", which do some
        queries at a time.
      kept: whether keys and values come from memory, as those of a cache do, and were not just
        made; the kernel then takes them as they lie.

    Returns:
      [B, L_q, N, K] in the dtype of the values.

    Raises:
      ValueError: an unknown implementation.
    """
    check(implementation)
    if by_kernel(q, [k for k, _, _ in parts], implementation):
        kernel = partial(_splash_part, kept=kept)
        found = (_with_heads_divided(kernel, q, *part) for part in parts)
        return _join(*zip(*found, strict=True))
    keys = sum(k.shape[1] for k, _, _ in parts)
    rows = max(1, min(BLOCK, BLOCK_LOGITS // (q.shape[2] * keys)))
    return _in_blocks(q, rows, lambda block: _attend_parts(block, parts))


def by_kernel(q: Array, keys: Sequence[Array], implementation: str) -> bool:
    """Whether `attend_in_parts` does parts with these keys by the kernel on TPU."""
    return {_choose(q, k) if implementation == "auto" else implementation for k in keys} == {
        "splash"
    }


def _attend_parts(q: Array, parts: Sequence[tuple[Array, Array, Array | None]]) -> Array:
    q = q * q.shape[-1] ** -0.5
    logits = []
    for k, _, there in parts:
        own = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
        lowest = jnp.finfo(jnp.float32).min
        logits.append(own if there is None else jnp.where(there, own, lowest))
    top = functools.reduce(jnp.maximum, [own.max(-1, keepdims=True) for own in logits])
    weights = [jnp.exp(own - top) for own in logits]
    total = sum(own.sum(-1, keepdims=True) for own in weights)
    return sum(
        jnp.einsum("bnqk,bknd->bqnd", (own / total).astype(v.dtype), v)
        for own, (_, v, _) in zip(weights, parts, strict=True)
    )


def _in_blocks(q: Array, rows: int, attend: Callable[[Array], Array]) -> Array:
    """Attention of so many queries at a time."""
    if (length := q.shape[1]) <= rows:
        return attend(q)
    count = -(-length // rows)
    q = jnp.pad(q, [(0, 0), (0, count * rows - length), (0, 0), (0, 0)])
    blocks = q.reshape(q.shape[0], count, rows, *q.shape[2:]).swapaxes(0, 1)
    out = jax.lax.map(attend, blocks)
    return out.swapaxes(0, 1).reshape(q.shape)[:, :length]


def _join(outputs: Sequence[Array], logs: Sequence[Array]) -> Array:
    """Attention over several parts from that over each, [B, L, N, K].

    Args:
      outputs: of each part.
      logs: logarithms of the sums over each part's keys, [B, L, N] float32.
    """
    top = functools.reduce(jnp.maximum, logs)
    weights = [jnp.exp(own - top)[..., None] for own in logs]
    whole = sum(own * out.astype(jnp.float32) for own, out in zip(weights, outputs, strict=True))
    return (whole / sum(weights)).astype(outputs[0].dtype)


def attend_by_frames(
    q: Array, k: Array, v: Array, seen: np.ndarray, *, implementation: str = "xla"
) -> Array:
    """Attention of tokens of frames that see whole frames: no mask of tokens, no wasted product.

    Args:
      q, k, v: [B, F*P, N, K].
      seen: bool [F, F], which frames see which; each at least one.
      implementation: as of `attend`.

    Returns:
      [B, F*P, N, K] in the dtype of `v`.
    """
    tokens = q.shape[1] // len(seen)
    starts = [0, *(1 + np.flatnonzero((seen[1:] != seen[:-1]).any(1))), len(seen)]

    def taken(x: Array, frames: np.ndarray) -> Array:
        if len(frames) == frames[-1] + 1 - frames[0]:
            return x[:, frames[0] * tokens : (frames[-1] + 1) * tokens]
        return x[:, (frames[:, None] * tokens + np.arange(tokens)).reshape(-1)]

    def group(first: int, last: int) -> Array:
        keys, values = (taken(x, np.flatnonzero(seen[first])) for x in (k, v))
        own = taken(q, np.arange(first, last))
        return attend(own, keys, values, implementation=implementation)

    return jnp.concatenate([group(*ends) for ends in itertools.pairwise(starts)], axis=1)


def platform() -> str:
    """For what programs are traced; see `on_platform`."""
    return _PLATFORM.get() or jax.default_backend()


def _choose(q: Array, k: Array, mask: Mask = None) -> str:
    if q.dtype.itemsize == 2:
        if platform() == "gpu":
            return "cudnn"
        fewest = TILE_K if isinstance(mask, Array) else TILE_K // 2
        if platform() == "tpu" and q.shape[1] >= LANES and k.shape[1] >= fewest:
            if q.shape[2] >= _divided().get(MODEL, 1):
                return "splash"
    return "blocks" if q.shape[1] > LONG else "xla"


def _divided() -> dict[str, int]:
    """Mesh axes over which the compiler divides the program that is traced, with their sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}


def _attend_cudnn(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """By a kernel that takes whole masks, and maps over queries, keys and values alike or not."""
    if mask is not None:
        mask = jnp.broadcast_to(mask, (mask.shape[0], q.shape[1], k.shape[1]))[:, None]
    # A choice between equals, which the compiler drops: these are mapped over what queries are.
    some = q.ravel()[0] > 0
    k, v = (jax.lax.select(some, x, x) for x in (k, v))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def _attend_splash(q: Array, k: Array, v: Array, mask: Mask) -> Array:
    if isinstance(mask, Array):
        mask = jnp.broadcast_to(mask, (mask.shape[0], q.shape[1], k.shape[1]))
    return _with_heads_divided(_splash, q, k, v, mask)


def _with_heads_divided(kernel: Callable, q: Array, k: Array, v: Array, other: Mask):
    """Runs a kernel that the compiler cannot divide: each device has heads of its own.

    Heads of zeros make them a multiple of the devices. Over other axes that are left to the
    compiler every device does the same.
    """
    axes = _divided()
    if not axes:
        return kernel(q, k, v, other)
    count = q.shape[2]
    if missing := -count % axes.get(MODEL, 1):
        q, k, v = (jnp.pad(x, [(0, 0), (0, 0), (0, missing), (0, 0)]) for x in (q, k, v))
    heads = PartitionSpec(None, None, MODEL if MODEL in axes else None)
    own = jax.shard_map(
        kernel,
        in_specs=(heads, heads, heads, PartitionSpec()),
        out_specs=heads,
        axis_names=set(axes),
        check_vma=False,
    )
    return jax.tree.map(lambda x: x[:, :, :count], own(q, k, v, other))


def _tile(length: int, most: int) -> int:
    """Tokens of a tile: of the larger ones those that leave the least of the last tile empty."""
    if length <= most:
        return -(-length // LANES) * LANES
    sizes = range(most, max(most * 3 // 4, LANES) - 1, -LANES)
    return min(sizes, key=lambda size: -(-length // size) * size)


def _see_before(ends: Array, keys: Array) -> Array:
    return keys < ends


class _Kernel:
    """The kernel for some queries and keys: how they are cut into tiles, and what else it takes.

    Tokens are the last axis of what it reads, which is also how the compiler lays out what was made
    just before: see `Linear.to_heads`. Keys and values that are `kept` lie in memory with channels
    last, and to turn them would take a pass over all of them at every call.
    """

    def __init__(self, queries: int, keys: int, *, kept: bool = False):
        from jax.experimental.pallas.ops.tpu import splash_attention as splash

        self.splash, self.queries, self.keys = splash, queries, keys
        tiles = [_tile(n, most) for n, most in ((queries, TILE_Q), (keys, TILE_K))]
        self.rows, self.columns = (
            -(-n // t) * t for n, t in zip((queries, keys), tiles, strict=True)
        )
        tokens, channels = splash.QKVLayout.SEQ_MINOR, splash.QKVLayout.HEAD_DIM_MINOR
        last = channels if kept else tokens
        self.options = dict(
            block_sizes=splash.BlockSizes(
                block_q=tiles[0],
                block_kv=tiles[1],
                q_layout=tokens,
                k_layout=last,
                v_layout=last,
            ),
            head_shards=1,
            q_seq_shards=1,
            interpret=platform() != "tpu",
        )

    def arrays(self, q: Array, k: Array, v: Array) -> list[Array]:
        """Filled up to whole tiles, tokens last but one, queries scaled: [B, N, L, K]."""

        def tokens_last_but_one(x, length):
            x = jnp.pad(x, [(0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)])
            return x.swapaxes(1, 2)

        return [
            tokens_last_but_one(q, self.rows) * q.shape[-1] ** -0.5,
            tokens_last_but_one(k, self.columns),
            tokens_last_but_one(v, self.columns),
        ]

    def unmasked(self, heads: int, **options):
        """The kernel in which all see all."""
        full = self.splash.FullMask((self.rows, self.columns))
        mask = self.splash.MultiHeadMask([full] * heads)
        return self.splash.make_splash_mha(mask, **self.options, **options)

    def set_ends(self, kernel, mask: TokenMask | None) -> None:
        """Has a kernel stop at the last key of every query."""
        if mask is None or mask.ends is None:
            return
        ends = jnp.pad(mask.ends.astype(jnp.int32), (0, self.rows - self.queries))
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(q_sequence=ends)
        kernel.kwargs["mask_function"] = _see_before

    def segments(self, batch: int, mask: TokenMask | None):
        """Groups of queries and keys; what fills the last tile is in a group of its own."""
        if mask is None:
            if self.columns == self.keys:
                return None
            mask = TokenMask(None, jnp.zeros((1, self.queries)), jnp.zeros((1, self.keys)))
        groups = zip((mask.query_groups, mask.key_groups), (self.rows, self.columns), strict=True)
        return self.splash.SegmentIds(
            *(
                jnp.pad(
                    jnp.broadcast_to(own.astype(jnp.int32), (batch, own.shape[1])),
                    [(0, 0), (0, length - own.shape[1])],
                    constant_values=-1,
                )
                for own, length in groups
            )
        )


def _run(kernel: Callable, *args):
    """On TPU the kernel has one precision for 16-bit products, whatever is asked of others."""
    precision = "default" if args[0].dtype.itemsize == 2 else None
    with jax.default_matmul_precision(precision or jax.config.jax_default_matmul_precision):
        return kernel(*args)


def _splash_part(q: Array, k: Array, v: Array, mask: Mask, *, kept: bool) -> tuple[Array, Array]:
    tiled = _Kernel(q.shape[1], k.shape[1], kept=kept)
    kernel = tiled.unmasked(q.shape[2], save_residuals=True)
    if isinstance(mask, Array):
        mask = TokenMask(None, jnp.ones((1, q.shape[1]), bool), mask[None])
    tiled.set_ends(kernel, mask)
    run = jax.vmap(partial(_run, kernel))
    out, (logs,) = run(*tiled.arrays(q, k, v), tiled.segments(len(q), mask))
    return out.swapaxes(1, 2)[:, : q.shape[1]].astype(v.dtype), logs.swapaxes(1, 2)[:, : q.shape[1]]


def _splash(q: Array, k: Array, v: Array, mask: Mask) -> Array:
    queries, keys = q.shape[1], k.shape[1]
    tiled = _Kernel(queries, keys)
    args = tiled.arrays(q, k, v)
    if not isinstance(mask, Array):
        kernel = tiled.unmasked(q.shape[2])
        tiled.set_ends(kernel, mask)
        out = jax.vmap(partial(_run, kernel))(*args, tiled.segments(len(q), mask))
        return out.swapaxes(1, 2)[:, :queries].astype(v.dtype)
    padded = jnp.pad(mask, [(0, 0), (0, tiled.rows - queries), (0, tiled.columns - keys)])

    def one(q, k, v, mask):
        kernel = tiled.splash.make_splash_mha(mask[None], **tiled.options)
        # Known, but traced like the arrays beside it, and then the kernel cannot ask.
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
        return _run(kernel, q, k, v)

    if len(padded) == 1:
        out = jax.vmap(one, (0, 0, 0, None))(*args, padded[0])
    else:
        out = jax.lax.map(lambda own: one(*own), (*args, padded))
    out = out.swapaxes(1, 2)[:, :queries].astype(v.dtype)
    mean = v.astype(jnp.float32).mean(1, keepdims=True).astype(v.dtype)
    return jnp.where(mask.any(-1)[..., None, None], out, mean)


def _attend_in_blocks(q: Array, k: Array, v: Array, mask: Mask) -> Array:
    if mask is None:
        return _in_blocks(q, BLOCK, lambda block: attend(block, k, v))
    length = q.shape[1]
    count = -(-length // BLOCK)
    padding = count * BLOCK - length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], count, BLOCK, *x.shape[2:]).swapaxes(0, 1)

    if isinstance(mask, TokenMask):
        ends = None if mask.ends is None else split(mask.ends[None])[:, 0]

        def attend_own(block):
            q, ends, groups = block
            return attend(q, k, v, TokenMask(ends, groups, mask.key_groups))

        out = jax.lax.map(attend_own, (split(q), ends, split(mask.query_groups)))
    else:
        mask = jnp.broadcast_to(mask, (q.shape[0], length, k.shape[1]))
        out = jax.lax.map(lambda block: attend(block[0], k, v, block[1]), (split(q), split(mask)))
    return out.swapaxes(0, 1).reshape(q.shape[0], -1, *out.shape[3:])[:, :length]
