"""The world's tokenizer: its words, its length, and what it rejects."""

import numpy as np
import pytest

from tts_jax.language.tokenizer import ASSET, PromptError, WorldTokenizer, write_word_tokenizer
from tts_jax.worlds import moving_shapes as world

LONGEST = "a red circle moving right and a blue square moving up"


@pytest.fixture(scope="module")
def tokenizer():
    return WorldTokenizer()


def test_the_vocabulary_is_the_words_of_the_grammar(tokenizer):
    motions = {word for motion in world.MOTIONS for word in motion.split()}
    assert set(tokenizer.words) == {"a", "and", *world.COLOURS, *world.SHAPES, *motions}


def test_every_caption_and_stage_prompt_fits(tokenizer):
    for caption in world.captions("train")[::7] + world.captions("test")[::7]:
        for prompt in (caption, *world.stage_prompts(caption)):
            tokens, mask = tokenizer.tokenize([prompt])
            assert mask.sum() == len(prompt.split()) + 2
            assert tokens[0, mask[0]][-1] == tokenizer.eos_id


def test_the_longest_caption_fills_the_length(tokenizer):
    tokens, mask = tokenizer.tokenize([LONGEST])
    assert tokens.shape == (1, 13) and tokens.dtype == np.int32
    assert mask.all()


def test_an_empty_prompt_is_begin_and_end(tokenizer):
    tokens, mask = tokenizer.tokenize(["", "a cross"])
    assert mask.sum(1).tolist() == [2, 4]
    assert (tokens[~mask] == tokenizer.pad_id).all()


@pytest.mark.parametrize("word", ["pink", "<eos>", "<unk>", "circle,", "Red", "круг"])
def test_an_unknown_word_is_named_beside_the_words_of_the_world(tokenizer, word):
    with pytest.raises(PromptError) as error:
        tokenizer.tokenize(["a red circle", f"a {word} circle moving up"])
    assert repr(word) in str(error.value)
    assert ", ".join(tokenizer.words) in str(error.value)


def test_a_prompt_that_is_too_long_is_an_error(tokenizer):
    with pytest.raises(PromptError, match="14 tokens"):
        tokenizer.tokenize([LONGEST + " still"])


def test_the_shipped_file_is_what_the_words_give(tokenizer, tmp_path):
    write_word_tokenizer(tmp_path / "tokenizer.json", tokenizer.words)
    assert (tmp_path / "tokenizer.json").read_text() == ASSET.read_text()
