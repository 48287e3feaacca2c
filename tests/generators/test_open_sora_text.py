"""Open-Sora's prompts against those that the original made of the same words."""

import json

import pytest

from tts_jax.generators.open_sora.text import Scores, prepare
from tts_jax.language.captions import clean_caption


@pytest.fixture(scope="module")
def cases(golden):
    """`cases(name)`: the recorded calls of a function, at least one."""
    recorded = json.loads((golden("open_sora_scheduler") / "text_cases.json").read_text("utf-8"))

    def read(name):
        assert recorded[name]
        return recorded[name]

    return read


def scores(named):
    fields = {"aes": "aesthetic", "flow": "motion", "camera_motion": "camera"}
    assert set(named) <= set(fields)
    return Scores(**{ours: named.get(theirs) for theirs, ours in fields.items()})


def test_captions_are_cleaned_as_by_the_original(cases):
    for case in cases("text_preprocessing"):
        assert clean_caption(case["input"]) == case["output"]


def test_scores_that_a_prompt_does_not_name_are_appended(cases):
    for case in cases("append_score_to_prompts"):
        append = scores(case["kwargs"]).append
        assert [append(prompt) for prompt in case["input"]] == case["output"]


def test_scores_are_appended_before_cleaning(cases):
    for case in cases("score_then_clean"):
        assert prepare([case["input"]], scores(case["kwargs"])) == [case["output"]]


def test_the_unconditional_prompt_stays_empty():
    assert prepare(["", "A boat"], Scores()) == ["", "a boat aesthetic score: 6.5."]
