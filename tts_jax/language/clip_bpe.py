"""CLIP's byte-pair tokenizer from the vocabulary file of its first publication.

Definition: https://github.com/openai/CLIP. The file, `bpe_simple_vocab_16e6.txt.gz`, is the user's;
none comes with this package. Unlike the original, texts are not mended: neither wrongly decoded
characters nor escapes of HTML.
"""

import gzip
import itertools
from pathlib import Path

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Saved

from tts_jax.language.tokenizer import Tokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # what the original takes of the file's longer list
WORD_END = "</w>"
PADDING = "!"  # the token of id 0, which the original leaves after the end
PIECES = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def _alphabet() -> list[str]:
    """A printable character for every byte: first those that are printable themselves."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(own))
    return [chr(code) for code in itertools.chain(own, range(256, 256 + others))]


def read_vocabulary(path: Path | str) -> Saved:
    """The tokenizer of a vocabulary file.

    Args:
      path: a gzipped text: a first line that does not count, then two parts of a token a line.

    Returns:
      A tokenizer whose `save` writes the `tokenizer.json` that the converters look for.

    Raises:
      ValueError: the file is no such text.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = list(itertools.islice(file, 1, MERGES + 1))
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no gzipped list of merges ({error})") from None
    merges = [tuple(line.split()) for line in lines]
    if odd := next(
        (line for line, pair in zip(lines, merges, strict=True) if len(pair) != 2), None
    ):
        raise ValueError(f"{path} has a line that is no pair of parts: {odd.strip()!r}")
    letters = _alphabet()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges)]
    ids = {token: index for index, token in enumerate([*tokens, BEGIN, END])}
    for part in itertools.chain.from_iterable(merges):
        if part not in ids:
            raise ValueError(f"{path} merges {part!r}, which is no token")
    saved = Saved(
        models.BPE(ids, merges, unk_token=END, end_of_word_suffix=WORD_END, fuse_unk=False)
    )
    saved.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    saved.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    saved.add_special_tokens([AddedToken(token, special=True) for token in (BEGIN, END)])
    saved.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(t, ids[t]) for t in (BEGIN, END)]
    )
    return saved


def clip_tokenizer(path: Path | str, length: int) -> Tokenizer:
    """Token ids as VBench makes them: zeros after the end, and the end last in a text that is cut.

    Args:
      path: see `read_vocabulary`.
      length: tokens of every row; 77 for CLIP, 32 for ViCLIP.
    """
    return Tokenizer(read_vocabulary(path), length, pad=PADDING, eos=END, cut=True)
