"""What the cleaner of captions does to text that no recording has."""

import pytest

from tts_jax.language.captions import clean_caption


def test_text_that_has_no_encoding_is_cleaned_all_the_same():
    assert clean_caption("a \ud83d\ude00 of\ud83d %20 halves") == "a \U0001f600 of\ufffd halves"


def test_markup_that_no_page_has_is_kept():
    assert clean_caption("a <![boat here") == "a <! boat here"


@pytest.mark.parametrize(
    "text, kept, trimmed",
    [
        ('#123 http://a.co/b "text" \'', "text", 'text"'),
        ('... "text" #123 “q” \'', 'text" "q', 'text" "q"'),
        (") : ' shipping a 'quoted' ) (", "' a 'quoted", "a 'quoted"),
        ("a dog, running ", "a dog, running", "a dog, running"),
    ],
)
def test_blanks_protect_punctuation_at_the_ends_unless_they_are_trimmed(text, kept, trimmed):
    """As the pipelines of Latte and of Open-Sora have it."""
    assert clean_caption(text, trim=False) == kept
    assert clean_caption(text) == trimmed
