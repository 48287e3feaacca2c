"""Prompts to token ids, by a tokenizer saved in the Hugging Face `tokenizer.json` format.

B prompts  L tokens.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Saved

ASSET = Path(__file__).parent.parent / "assets" / "tokenizer.json"

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def clean(text: str) -> str:
    """A text that has bytes: halves of surrogate pairs, which have none, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class PromptError(ValueError):
    """A prompt that cannot be tokenized: an unknown word, or too many of them."""


class Tokenizer:
    """A saved tokenizer with a fixed token length.

    Attributes:
      length: tokens of every row, the beginning and end tokens included.
      pad_id, eos_id: ids of the padding and the end token.
    """

    def __init__(
        self,
        path: Path | str | Saved,
        length: int,
        *,
        pad: str = PAD,
        eos: str = EOS,
        closed: bool = False,
        cut: bool = False,
    ):
        """Reads a tokenizer.

        Args:
          path: a `tokenizer.json`, or one read already; its template adds the beginning and end
            tokens.
          length: tokens of every row.
          pad: the padding token.
          eos: the end token.
          closed: whether a word outside the vocabulary is an error.
          cut: whether a prompt that is too long loses its end, with a warning, instead of being an
            error, and special tokens in it are plain text: both as befits an open vocabulary.
        """
        self._saved = path if isinstance(path, Saved) else Saved.from_file(str(path))
        self._saved.no_padding()
        self._saved.no_truncation()
        self._saved.encode_special_tokens = cut
        self.length = length
        self.pad_id = self._saved.token_to_id(pad)
        self.eos_id = self._saved.token_to_id(eos)
        self._closed = closed
        self._cut = cut
        self._special = {
            index: token.content for index, token in self._saved.get_added_tokens_decoder().items()
        }

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id, special tokens included, in the order of ids."""
        return dict(sorted(self._saved.get_vocab().items(), key=lambda entry: entry[1]))

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens that are not special, in the order of ids."""
        return tuple(word for word, index in self.vocabulary.items() if index not in self._special)

    def tokenize(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of prompts; an empty prompt is the unconditional one.

        Args:
          prompts: B texts.

        Returns:
          Token ids, [B, L] int32, and a mask, [B, L] bool, true on the tokens before the padding.

        Raises:
          PromptError: a prompt has an unknown word, or more tokens than `length`.
        """
        tokens = np.full((len(prompts), self.length), self.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, prompt in enumerate(prompts):
            encoding = self._saved.encode(clean(prompt))
            if self._closed:
                self._reject_unknown(prompt, encoding)
            ids = encoding.ids
            if len(ids) > self.length and self._cut:
                warnings.warn(
                    f"a prompt of {len(ids)} tokens is cut to {self.length} for a text encoder",
                    stacklevel=2,
                )
                ids = [*ids[: self.length - 1], self.eos_id]
            count = len(ids)
            if count > self.length:
                raise PromptError(
                    f"prompt {prompt!r} has {count} tokens, begin and end included; "
                    f"the longest allowed is {self.length}"
                )
            tokens[row, :count] = ids
            mask[row, :count] = True
        return tokens, mask

    def _reject_unknown(self, prompt: str, encoding) -> None:
        """Special tokens have an empty span unless a word of the prompt became one."""
        for index, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if index in self._special and stop > start:
                raise PromptError(
                    f"unknown word {prompt[start:stop]!r} in prompt {prompt!r}; "
                    f"the words are: {', '.join(self.words)}"
                )


class WorldTokenizer(Tokenizer):
    """The tokenizer of the embedded world: whole words, unknown ones are errors."""

    def __init__(self, path: Path | str = ASSET, length: int = 13):
        """Reads the shipped tokenizer.

        Args:
          path: the `tokenizer.json`.
          length: tokens of every row; 13 holds the longest caption, eleven words.
        """
        super().__init__(path, length, closed=True)


def open_tokenizer(path: Path | str, length: int) -> Tokenizer:
    """The tokenizer of a checkpoint folder: the world's, or that of a published CLIP.

    Args:
      path: a `tokenizer.json`.
      length: tokens of every row.
    """
    end = "<|endoftext|>"
    if Saved.from_file(str(path)).token_to_id(end) is None:
        return WorldTokenizer(path, length)
    return Tokenizer(path, length, pad=end, eos=end)


def write_word_tokenizer(path: Path | str, words: Sequence[str]) -> None:
    """Writes a whitespace tokenizer over a closed list of words.

    Args:
      path: the `tokenizer.json` to write.
      words: the words, which get the ids after the four special tokens.
    """
    from tokenizers import AddedToken, models, pre_tokenizers, processors

    special = (PAD, BOS, EOS, UNK)
    ids = {word: index for index, word in enumerate((*special, *words))}
    saved = Saved(models.WordLevel(ids, unk_token=UNK))
    saved.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    saved.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])]
    )
    saved.add_special_tokens([AddedToken(token, special=True) for token in special])
    saved.enable_padding(pad_id=ids[PAD], pad_token=PAD)
    saved.save(str(path))
