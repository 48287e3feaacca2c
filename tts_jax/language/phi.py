"""The decoder of Phi-2 (microsoft/phi-2) as a text encoder.

Attention and the feed-forward layer of a block read the same norm, and both are added to the input
of the block. Rotary embeddings (arXiv 2104.09864) turn the first part of every head. Attention is
causal, so that padding behind a text changes none of its states.

B batch  L tokens  D width  N heads  K head size  M hidden size of the feed-forward layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from tokenizers import Tokenizer as Saved
from tokenizers import decoders, models, pre_tokenizers

from tts_jax.language.tokenizer import Tokenizer
from tts_jax.nn.attention import attend
from tts_jax.nn.embeddings import frequencies
from tts_jax.nn.linear import Linear
from tts_jax.nn.norms import LayerNorm
from tts_jax.nn.stack import stacked
from tts_jax.reference import refuse_others

END = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class PhiConfig:
    """Sizes of a decoder.

    Attributes:
      rotary: part of a head that is turned.
      theta: base of the rotary frequencies.
      epsilon: of the norms.
    """

    vocabulary: int
    width: int
    heads: int
    layers: int
    mlp: int
    rotary: float = 0.4
    theta: float = 10000.0
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.width % self.heads or self.rotary_size % 2:
            raise ValueError(
                f"{self.width} channels in {self.heads} heads, {self.rotary} of each turned: "
                "heads are equal, and the turned channels of one come in pairs"
            )

    @property
    def rotary_size(self) -> int:
        """Turned channels of a head."""
        return int(self.rotary * (self.width // self.heads))

    @classmethod
    def phi_2(cls) -> "PhiConfig":
        """microsoft/phi-2."""
        return cls(vocabulary=51200, width=2560, heads=32, layers=32, mlp=10240)

    @classmethod
    def from_reference(cls, config: Mapping) -> "PhiConfig":
        """The sizes in a published `config.json`, already parsed.

        Raises:
          ValueError: the file asks for something that Phi-2 does not have.
        """
        rope = config.get("rope_parameters") or config
        heads = config["num_attention_heads"]
        fixed = {
            "hidden_act": "gelu_new",
            "num_key_value_heads": config.get("num_key_value_heads") and heads,
            "qk_layernorm": False,
            "rope_scaling": None,
        }
        odd = []
        if rope.get("rope_type", "default") != "default":
            odd.append(f"rope_type={rope['rope_type']!r}")
        refuse_others("Phi settings", config, fixed, odd)
        partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
        return cls(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            heads=heads,
            layers=config["num_hidden_layers"],
            mlp=config["intermediate_size"],
            rotary=partial,
            theta=rope.get("rope_theta", 10000.0),
            epsilon=config.get("layer_norm_eps", 1e-5),
        )


def rotate_halves(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding of the first channels of every head, pairs (x_k, x_(k + R)).

    Args:
      x: queries or keys, [B, L, N, K].
      cos: cosines of the angles, float32 [L, R]; the first 2R channels are turned.
      sin: their sines, float32 [L, R].

    Returns:
      [B, L, N, K] in the dtype of `x`.
    """
    size = cos.shape[-1]
    first, second, rest = jnp.split(x, [size, 2 * size], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)


class Attention(nnx.Module):
    """Causal self-attention."""

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.q, self.k, self.v, self.out = (Linear(width, width, rngs=rngs) for _ in range(4))
        self.heads = config.heads

    @jax.named_scope("attention")
    def __call__(self, x: Array, cos: Array, sin: Array) -> Array:
        length = x.shape[1]
        split = *x.shape[:2], self.heads, -1
        q, k, v = (layer(x).reshape(split) for layer in (self.q, self.k, self.v))
        q, k = (rotate_halves(part, cos, sin) for part in (q, k))
        seen = jnp.tril(jnp.ones((length, length), bool))[None]
        return self.out(attend(q, k, v, seen).reshape(x.shape))


class Block(nnx.Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm."""

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.width, eps=config.epsilon)
        self.attention = Attention(config, rngs=rngs)
        self.up = Linear(config.width, config.mlp, rngs=rngs)
        self.down = Linear(config.mlp, config.width, rngs=rngs)

    def __call__(self, x: Array, cos: Array, sin: Array) -> Array:
        h = self.norm(x).astype(x.dtype)
        x = x + self.attention(h, cos, sin)
        with jax.named_scope("mlp"):
            return x + self.down(jax.nn.gelu(self.up(h)))


class PhiEncoder(nnx.Module):
    """Token embeddings, blocks, a last norm."""

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.token = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.blocks = stacked(partial(Block, config), config.layers, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=config.epsilon)

    def __call__(self, tokens: Array) -> Array:
        """States of token sequences, after the last norm.

        Args:
          tokens: token ids, [B, L] int32; padding, if any, stands behind.

        Returns:
          [B, L, D], float32.
        """
        config = self.config
        angles = np.outer(
            np.arange(tokens.shape[1]), frequencies(config.rotary_size // 2, config.theta)
        )
        cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))
        x = self.token.embedding[tokens]
        x, _ = jax.lax.scan(lambda x, block: (block(x, cos, sin), None), x, self.blocks)
        return self.norm(x)


class PhiTokenizer(Tokenizer):
    """Phi-2's byte-pair encoding: texts without begin or end token, cut where they are too long."""

    def __init__(self, folder: Path | str, length: int):
        """Reads `tokenizer.json`, or else `vocab.json` and `merges.txt`.

        Args:
          folder: the published folder.
          length: tokens of every row.

        Raises:
          FileNotFoundError: the folder holds neither.
        """
        super().__init__(_read(Path(folder)), length, pad=END, eos=END)

    def tokenize(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, [B, L] int32, and a mask of those before the padding, [B, L] bool."""
        tokens = np.full((len(prompts), self.length), self.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, prompt in enumerate(prompts):
            ids = self._saved.encode(prompt, add_special_tokens=False).ids[: self.length]
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
        return tokens, mask


def _read(folder: Path) -> Saved:
    if (folder / "tokenizer.json").is_file():
        return Saved.from_file(str(folder / "tokenizer.json"))
    files = folder / "vocab.json", folder / "merges.txt"
    if not all(file.is_file() for file in files):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt"
        )
    saved = Saved(models.BPE.from_file(*map(str, files)))
    saved.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    saved.decoder = decoders.ByteLevel()
    return saved
