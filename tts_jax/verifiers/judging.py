"""What the judges made of a vision tower and a language model have in common.

A judge reads a sequence of text and of visual rows. What does not depend on the question, above all
the video, is computed once and kept as a prefix; questions are short rows that continue it.

B branches  P prompts  Q questions  L tokens  R visual rows  D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.language.decoder import Cache, Decoder, last_seen, take_rows

ROW = -1  # stands for a visual row among token ids


class Questions(NamedTuple):
    """Token ids of questions, padded on the right.

    Attributes:
      tokens: [P, Q, L] int32.
      seen: which are no padding, [P, Q, L] bool.
    """

    tokens: Array
    seen: Array


def pack(rows: Sequence[Sequence[Sequence[int]]], multiple: int = 16) -> Questions:
    """Pads token ids of P prompts by Q questions to one length, a multiple of `multiple`."""
    longest = max(len(ids) for row in rows for ids in row)
    length = -(-longest // multiple) * multiple
    tokens = np.zeros((len(rows), len(rows[0]), length), np.int32)
    seen = np.zeros(tokens.shape, bool)
    for p, row in enumerate(rows):
        for q, ids in enumerate(row):
            tokens[p, q, : len(ids)] = ids
            seen[p, q, : len(ids)] = True
    return Questions(jnp.asarray(tokens), jnp.asarray(seen))


def weave(decoder: Decoder, ids: Sequence[int], rows: Array) -> Array:
    """Embeddings of a sequence of tokens and visual rows.

    Args:
      decoder: the language model.
      ids: token ids, with `ROW` where the next visual row stands, [L].
      rows: visual rows, [B, R, D].

    Returns:
      [B, L, D].
    """
    ids = np.asarray(ids)
    places = np.flatnonzero(ids == ROW)
    if len(places) != rows.shape[1]:
        raise ValueError(f"the sequence has room for {len(places)} rows, given are {rows.shape[1]}")
    x = decoder.embed(jnp.asarray(np.where(ids == ROW, 0, ids), jnp.int32))
    x = jnp.broadcast_to(x, (rows.shape[0], *x.shape))
    return x.at[:, places].set(rows.astype(x.dtype))


def begin(
    decoder: Decoder,
    ids: Sequence[int],
    rows: Array,
    *,
    keep: Array | None = None,
    positions: np.ndarray | None = None,
) -> Cache:
    """The prefix that all questions about a video continue.

    Args:
      decoder: the language model.
      ids, rows: as for `weave`.
      keep: visual rows that are read at all, [B, R] bool; all if None.
      positions: of all tokens, [L] int; by default consecutive over those that are read.
    """
    x = weave(decoder, ids, rows)
    seen = None
    if keep is not None:
        seen = jnp.ones(x.shape[:2], bool)
        seen = seen.at[:, np.flatnonzero(np.asarray(ids) == ROW)].set(keep)
    if positions is not None:
        positions = jnp.broadcast_to(jnp.asarray(positions, jnp.int32), x.shape[:2])
    return decoder(x, positions, seen)[1]


def ask(decoder: Decoder, prefix: Cache, tokens: Array, seen: Array) -> Array:
    """States at the last tokens of questions that continue the prefixes of branches.

    Args:
      decoder: the language model.
      prefix: of B branches; shared by the questions, not copied.
      tokens, seen: questions of one prompt, [Q, L].

    Returns:
      [B, Q, D].
    """
    branches = prefix.positions.shape[0]
    x = jnp.tile(decoder.embed(tokens), (branches, 1, 1))
    seen = jnp.tile(seen, (branches, 1))
    hidden, _ = decoder(x, seen=seen, prefix=prefix)
    return take_rows(hidden, last_seen(seen)).reshape(branches, tokens.shape[0], -1)


def log_odds(logits: Array, yes: int, no: int) -> Array:
    """Logarithm of P(yes) / P(no) of the next token, [..., V] -> [...] float32."""
    return (logits[..., yes] - logits[..., no]).astype(jnp.float32)


def says(logits: Array, yes: int) -> Array:
    """+1 where the likeliest next token is `yes`, else -1, [..., V] -> [...] float32."""
    return jnp.where(jnp.argmax(logits, axis=-1) == yes, 1.0, -1.0)
