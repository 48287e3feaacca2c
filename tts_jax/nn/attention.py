"""Scaled dot-product attention.

B batch  L tokens  N heads  K head size.
"""

import jax
import jax.numpy as jnp
from jax import Array

BLOCK = 512  # queries of a block
LONG = 4096


def attend(
    q: Array, k: Array, v: Array, mask: Array | None = None, *, implementation: str = "xla"
) -> Array:
    """Attention of every query over the keys that its mask allows.

    Args:
      q: queries, [B, L_q, N, K].
      k: keys, [B, L_k, N, K].
      v: values, [B, L_k, N, K].
      mask: bool, broadcastable to [B, L_q, L_k], True where the query may attend to the key. A
        row without any True gives the mean of the values, not NaN.
      implementation: "xla" (softmax in float32), "blocks" (the same, some queries at a time, so
        that the logits of long sequences fit into memory) or "cudnn" (fused, GPU, 16-bit inputs
        only), or "auto": "cudnn" on a GPU with 16-bit inputs; otherwise "blocks" where there are
        more than `LONG` queries and "xla" where there are not.

    Returns:
      [B, L_q, N, K] in the dtype of `v`.
    """
    if implementation == "auto":
        fused = jax.default_backend() == "gpu" and q.dtype.itemsize == 2
        implementation = "cudnn" if fused else "blocks" if q.shape[1] > LONG else "xla"
    if implementation == "blocks":
        return _attend_in_blocks(q, k, v, mask)
    if implementation != "xla":
        mask = None if mask is None else mask[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnqk,bknd->bqnd", weights, v)


def _attend_in_blocks(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    length = q.shape[1]
    count = -(-length // BLOCK)
    padding = count * BLOCK - length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], count, BLOCK, *x.shape[2:]).swapaxes(0, 1)

    if mask is None:
        out = jax.lax.map(lambda q: attend(q, k, v), split(q))
    else:
        mask = jnp.broadcast_to(mask, (q.shape[0], length, k.shape[1]))
        out = jax.lax.map(lambda block: attend(block[0], k, v, block[1]), (split(q), split(mask)))
    return out.swapaxes(0, 1).reshape(q.shape[0], -1, *out.shape[3:])[:, :length]
