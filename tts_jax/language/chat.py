"""A language model of a converted checkpoint that answers one message: text to text, greedily.

Llama 3, Mistral and Qwen2 checkpoints that were trained to converse. A message is data: what looks
like a special token in it is read as plain text.

L tokens.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tts_jax import precision
from tts_jax.checkpoints import CheckpointError, abstract_params, flatten, load_parts, parse
from tts_jax.language.decoder import FAMILIES, Decoder, DecoderConfig, generate
from tts_jax.language.published import read_saved
from tts_jax.language.reader import Reader

PART = "language_model"
MESSAGE = "[[message]]"
_LENGTHS = (256, 512, 1024, 2048, 4096)  # of messages, filled up: a program for each at most


@dataclass(frozen=True)
class Turns:
    """How a family of checkpoints writes a conversation (the published chat templates).

    Attributes:
      before: what comes before a message, special tokens included.
      after: what comes between it and the answer.
      ends: tokens that end an answer, of which a tokenizer has at least one.
    """

    before: str
    after: str
    ends: tuple[str, ...]


TURNS = {
    "llama": Turns(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|end_of_text|>"),
    ),
    "mistral": Turns("<s>[INST] ", " [/INST]", ("</s>",)),
    "qwen2": Turns(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_end|>", "<|endoftext|>"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """A decoder and the family that says how conversations are written."""

    family: str
    decoder: DecoderConfig

    @classmethod
    def llama3_8b(cls) -> "ChatConfig":
        """meta-llama/Meta-Llama-3-8B-Instruct."""
        return cls(family="llama", decoder=DecoderConfig.llama3_8b())

    @classmethod
    def from_reference(cls, config: Mapping) -> "ChatConfig":
        """The sizes in a published `config.json`, already parsed.

        Raises:
          ValueError: another family, or settings that no supported model has.
        """
        return cls(family=config["model_type"], decoder=DecoderConfig.from_reference(config))


def build(config: ChatConfig, *, rngs: nnx.Rngs) -> Decoder:
    """The network of a configuration."""
    return Decoder(config.decoder, rngs=rngs)


class LanguageModel:
    """Answers messages; its parameters are loaded when the first one comes.

    Attributes:
      config: its sizes and family.
      folder: its checkpoint.
      loaded: how often parameters were loaded.
    """

    def __init__(self, folder: Path | str, *, answer: int = 256, weights: str = precision.STORED):
        """Reads configuration and tokenizer, and no parameters.

        Args:
          folder: that `converters.convert --model=language_model` wrote.
          answer: most tokens of an answer.
          weights: the type in which parameters are held, see `tts_jax.precision`.

        Raises:
          ValueError: weights of an unknown type.
          CheckpointError: the folder holds no language model, or one whose tokenizer lacks what its
            family writes conversations with.
        """
        precision.check(weights)
        self.folder, self._answer, self._weights = Path(folder), answer, weights
        path = self.folder / "config.json"
        try:
            fields = json.loads(path.read_text("utf-8"))
            self.config = parse(ChatConfig, fields[PART])
            self._stored = fields.get("converted", {}).get("dtype", "float32")
            self._saved = read_saved(self.folder)
        except FileNotFoundError as error:
            missing = f"checkpoint {error.filename} does not exist" if error.filename else error
            raise CheckpointError(str(missing)) from error
        except KeyError as error:
            raise CheckpointError(
                f"{path} holds no language model: convert one with --model={PART}"
            ) from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        if self.config.family not in TURNS:
            raise CheckpointError(f"{path}: family {self.config.family!r} is none of {FAMILIES}")
        turns = TURNS[self.config.family]
        found = [self._saved.token_to_id(token) for token in turns.ends]
        self._ends = [index for index in found if index is not None]
        if not self._ends:
            raise CheckpointError(
                f"the tokenizer of {self.folder} has none of {', '.join(turns.ends)}, which "
                f"end the answers of the family {self.config.family}"
            )
        after = turns.after
        if self._saved.token_to_id(after.strip()) is not None:  # Mistral 0.3 has no blank there
            after = after.strip()
        self._template = f"{turns.before}{MESSAGE}{after}"
        self._reader = Reader(self._saved, limit=_LENGTHS[-1] // 2)
        self._graph, self.abstract_params = abstract_params(build, self.config)
        self._params, self.loaded = None, 0

    @property
    def identity(self) -> str:
        """Differs between checkpoints: the folder and when it was written."""
        changed = (self.folder / "config.json").stat().st_mtime_ns
        return f"{self.folder.resolve()} {changed}"

    @property
    def size(self) -> int:
        """Numbers among its parameters."""
        return sum(leaf.size for leaf in flatten(self.abstract_params).values())

    @property
    def held_params(self) -> dict:
        """Shapes and dtypes of its parameters in memory."""
        dtype = precision.read_as(self._weights, jnp.dtype(self._stored))
        stored = jax.tree.map(lambda x: x.update(dtype=dtype), self.abstract_params)
        return precision.hold(stored, self._weights)

    def encode(self, message: str) -> list[int]:
        """Token ids of a conversation that waits for the answer to a message."""
        return self._reader.fill(self._template, message, MESSAGE)

    def __call__(self, message: str) -> str:
        """The answer to a message, cut after the most tokens that it may have.

        A message of more than 2048 tokens loses its end, with a warning.
        """
        ids = self.encode(message)
        length = next(length for length in _LENGTHS if length >= len(ids))
        tokens = np.zeros((1, length), np.int32)
        tokens[0, length - len(ids) :] = ids
        seen = np.arange(length)[None] >= length - len(ids)
        if self._params is None:
            parts = {PART: self.abstract_params}
            loaded = load_parts(self.folder, parts, weights=self._weights)
            self._params, self.loaded = loaded[PART], self.loaded + 1
        found = np.asarray(self._generate(self._params, tokens, seen))[0]
        ends = np.flatnonzero(np.isin(found, self._ends))
        if not len(ends):
            warnings.warn(
                f"an answer of the language model is cut after {self._answer} tokens", stacklevel=2
            )
        return self._saved.decode([int(token) for token in found[: ends[0] if len(ends) else None]])

    @partial(jax.jit, static_argnums=0)
    def _generate(self, params: dict, tokens: jax.Array, seen: jax.Array) -> jax.Array:
        decoder = nnx.merge(self._graph, params)
        return generate(decoder, decoder.embed(tokens), seen, self._answer, ends=self._ends)

    def release(self) -> None:
        """Forgets the parameters; a later message loads them again."""
        self._params = None
