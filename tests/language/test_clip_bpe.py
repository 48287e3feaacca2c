"""CLIP's tokenizer on a small vocabulary file of the published form."""

import gzip

import pytest

from tts_jax.language.clip_bpe import clip_tokenizer, read_vocabulary
from tts_jax.language.tokenizer import open_tokenizer

MERGES = ("c a", "ca t</w>", "' s</w>", "c o", "co w</w>")
FIRST = 512  # after the bytes, and the bytes that end a word
CAT, POSSESSIVE, COW = FIRST + 1, FIRST + 2, FIRST + 4
BEGIN, END = FIRST + len(MERGES), FIRST + len(MERGES) + 1


def letter(character, last=False):
    """The id of a printable ASCII character."""
    return ord(character) - ord("!") + 256 * last


def write(path, *lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(["a heading", *lines]) + "\n")
    return path


@pytest.fixture
def vocabulary(tmp_path):
    return write(tmp_path / "vocabulary.txt.gz", *MERGES)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("cat", [CAT]),
        ("  CAT \n cow ", [CAT, COW]),
        ("cat's", [CAT, POSSESSIVE]),
        ("cats", [FIRST, letter("t"), letter("s", last=True)]),
        ("cat12", [CAT, letter("1", last=True), letter("2", last=True)]),
        ("cow,!", [COW, letter(","), letter("!", last=True)]),
        ("", []),
    ],
)
def test_words_are_merged_and_zeros_follow_the_end(vocabulary, text, ids):
    tokens, mask = clip_tokenizer(vocabulary, 8).tokenize([text])
    wanted = [BEGIN, *ids, END]
    assert tokens[0].tolist() == wanted + [0] * (8 - len(wanted))
    assert mask.sum() == len(wanted)


def test_letters_beyond_ascii_are_their_bytes(vocabulary):
    tokens, _ = clip_tokenizer(vocabulary, 4).tokenize(["É"])
    first, second = "é".encode()  # 0xC3 is printable, 0xA9 too
    places = [94 + code - 0xA1 - (code > 0xAD) for code in (first, second)]
    assert tokens[0].tolist() == [BEGIN, places[0], 256 + places[1], END]


def test_a_text_that_is_cut_keeps_its_end(vocabulary):
    with pytest.warns(UserWarning, match="cut to 4"):
        tokens, _ = clip_tokenizer(vocabulary, 4).tokenize(["cat cow cat cow"])
    assert tokens[0].tolist() == [BEGIN, CAT, COW, END]


def test_saved_it_opens_as_the_tokenizer_of_a_checkpoint(vocabulary, tmp_path):
    read_vocabulary(vocabulary).save(str(tmp_path / "tokenizer.json"))
    tokens, _ = open_tokenizer(tmp_path / "tokenizer.json", 4).tokenize(["cow"])
    assert tokens[0].tolist() == [BEGIN, COW, END, END]


@pytest.mark.parametrize(
    ("lines", "message"),
    [(("c a t",), "no pair of parts"), (("ca t",), "'ca', which is no token")],
)
def test_a_damaged_file_is_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_vocabulary(write(tmp_path / "vocabulary.txt.gz", *lines))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "vocabulary.txt.gz").write_text("c a\n")
    with pytest.raises(ValueError, match="no gzipped list of merges"):
        read_vocabulary(tmp_path / "vocabulary.txt.gz")
