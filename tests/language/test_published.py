"""Published tokenizers, read from their files, beside the originals."""

import io
import json
import struct

import pytest
import sentencepiece
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from tts_jax.language.published import open_published, read_saved

TEXTS = (
    "A red circle, moving right!",
    "  two   spaces\tand a tab\n",
    "it's Ünïcode ﬁ ½ 漢字 №5 don't they've 12345",
    "a",
    "",
    "zzz qqq … <extra> under_score",
)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A folder with a small SentencePiece model laid out as T5's, and that model."""
    words = "red blue green circle square moving right left up down and the a it's don't".split()
    lines = [" ".join(words[i % len(words)] for i in range(s, s + 9)) for s in range(60)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=38,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder, sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a small byte-pair encoding laid out as CLIP's."""
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "m o", "mo v", "i n", "in g</w>", "' s</w>", "1 2"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return folder


def test_sentencepiece_models_give_the_pieces_of_the_original(spiece):
    folder, original = spiece
    tokenizer = open_published(folder, 64)
    tokens, mask = tokenizer.tokenize(TEXTS)
    for text, row, real in zip(TEXTS, tokens, mask, strict=True):
        assert list(row[real]) == [*original.encode(text), 1], text
        assert (row[~real] == 0).all()


def test_clip_vocabularies_give_the_tokens_of_the_original(clip):
    original = transformers.CLIPTokenizer.from_pretrained(clip)
    tokens, mask = open_published(clip, 77).tokenize(TEXTS)
    for text, row, real in zip(TEXTS, tokens, mask, strict=True):
        assert list(row[real]) == original(text).input_ids, text


@pytest.mark.parametrize("name", ["spiece", "clip"])
def test_a_saved_tokenizer_reads_as_its_sources_do(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    folder = folder[0] if name == "spiece" else folder
    read_saved(folder).save(str(tmp_path / "tokenizer.json"))
    found, _ = open_published(tmp_path, 40).tokenize(TEXTS)
    wanted, _ = open_published(folder, 40).tokenize(TEXTS)
    assert (found == wanted).all()


def test_long_prompts_keep_their_end_token(clip):
    tokenizer = open_published(clip, 6)
    tokens, mask = tokenizer.tokenize(["red red red red red red red"])
    long, _ = open_published(clip, 9).tokenize(["red red red red red red red"])
    assert mask.all() and tokens[0, -1] == tokenizer.eos_id
    assert (tokens[0, :-1] == long[0, :5]).all()


def test_folders_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        open_published(tmp_path, 8)
    for damaged in (b"\x0a\xff", b"\x0b", b"", b"\x0a\x02\x08\x01", struct.pack("<I", 7)):
        (tmp_path / "spiece.model").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"spiece\.model"):
            open_published(tmp_path, 8)
