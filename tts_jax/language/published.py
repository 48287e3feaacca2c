"""Tokenizers of published text encoders, from the files that lie beside their weights.

`tokenizer.json` is taken where there is one; else CLIP's `vocab.json` and `merges.txt` (arXiv
2103.00020) or T5's `spiece.model`, a Unigram model of SentencePiece (arXiv 1808.06226).
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Saved

from tts_jax.language.tokenizer import Tokenizer

CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
T5_END, T5_PAD = "</s>", "<pad>"

_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def open_published(folder: Path | str, length: int) -> Tokenizer:
    """The tokenizer of a published CLIP or T5; prompts too long are cut, as its pipelines do.

    Args:
      folder: the published folder, or a `tokenizer.json`.
      length: tokens of every row, the end token included.

    Raises:
      FileNotFoundError: the folder holds no tokenizer that can be read.
      ValueError: it is neither CLIP's nor T5's.
    """
    saved = read_saved(folder)
    for end, pad in ((T5_END, T5_PAD), (CLIP_END, CLIP_END)):
        if saved.token_to_id(end) is not None:
            return Tokenizer(saved, length, pad=pad, eos=end, cut=True)
    raise ValueError(f"{folder} has neither {T5_END} nor {CLIP_END} for an end token")


def read_saved(folder: Path | str) -> Saved:
    """Reads the files of one tokenizer, whichever there are; see `open_published`."""
    folder = Path(folder)
    if folder.is_file():
        return Saved.from_file(str(folder))
    if (folder / "tokenizer.json").is_file():
        return Saved.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return read_clip(folder / "vocab.json", folder / "merges.txt")
    if (folder / "spiece.model").is_file():
        return read_sentencepiece(folder / "spiece.model")
    raise FileNotFoundError(
        f"{folder} holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, "
        "nor spiece.model"
    )


def read_clip(vocabulary: Path, merges: Path) -> Saved:
    """CLIP's byte-pair encoding, lower case, between its begin and end tokens.

    Args:
      vocabulary: `vocab.json`, tokens to ids.
      merges: `merges.txt`, a pair a line after a first line of version.
    """
    ids = json.loads(vocabulary.read_text("utf-8"))
    lines = merges.read_text("utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    saved = Saved(
        models.BPE(
            vocab=ids,
            merges=pairs,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=CLIP_END,
        )
    )
    saved.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    saved.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    saved.add_special_tokens([AddedToken(t, special=True) for t in (CLIP_BEGIN, CLIP_END)])
    saved.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_BEGIN} $A {CLIP_END}",
        special_tokens=[(CLIP_BEGIN, ids[CLIP_BEGIN]), (CLIP_END, ids[CLIP_END])],
    )
    return saved


def read_sentencepiece(path: Path) -> Saved:
    """A Unigram model of SentencePiece, with T5's end token after the text.

    Args:
      path: `spiece.model`, a protocol buffer of SentencePiece's `ModelProto`.

    Raises:
      ValueError: the file is damaged or holds another kind of model.
    """
    pieces, unigram, charsmap = [], 1, b""
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:  # SentencePiece: piece, score, type
                piece = dict(_fields(value))
                pieces.append((piece[1].decode(), piece.get(2, 0.0), piece.get(3, 1)))
            elif field == 2:  # TrainerSpec: model_type
                unigram = dict(_fields(value)).get(3, 1)
            elif field == 3:  # NormalizerSpec: precompiled_charsmap
                charsmap = dict(_fields(value)).get(2, b"")
        unknown = [index for index, (_, _, kind) in enumerate(pieces) if kind == 2]
        end = [piece for piece, _, _ in pieces].index(T5_END)
    except (IndexError, KeyError, ValueError, struct.error, AttributeError) as error:
        raise ValueError(f"{path} is not a SentencePiece model: {error!r}") from error
    if unigram != 1 or len(unknown) != 1:
        raise ValueError(f"{path} is not a Unigram model with one unknown piece")
    saved = Saved(models.Unigram([(p, score) for p, score, _ in pieces], unknown[0], False))
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    saved.normalizer = normalizers.Sequence(steps)
    saved.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    saved.post_processor = processors.TemplateProcessing(
        single=f"$A {T5_END}", special_tokens=[(T5_END, end)]
    )
    return saved


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Field numbers and values of one message of a protocol buffer; 4-byte values are floats."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        key = varint()
        field, kind = key >> 3, key & 7
        if kind == 0:
            yield field, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"field {field} has wire type {kind}")
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        if place + size > len(data):
            raise ValueError(f"field {field} ends after the file")
        value = data[place : place + size]
        place += size
        yield field, struct.unpack("<f", value)[0] if kind == 5 else value
