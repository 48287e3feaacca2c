"""The image selector against the reference outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.image_selector import IGNORED, RULES
from converters.judge_cases import image_selector_outputs
from tts_jax.verifiers.image_selector import (
    QUESTIONS,
    ImageSelector,
    ImageSelectorConfig,
    ImageSelectorVerifier,
    padded_input,
)


@pytest.fixture(scope="module")
def judge(open_judge):
    read = ImageSelectorConfig.from_reference
    return open_judge("llava_onevision_orm", ImageSelector, read, RULES, IGNORED)


def test_tower_connector_and_answer_match(judge):
    judge.check(image_selector_outputs, "vision.features", "projector.out", "logits", "p_yes_no")
    assert judge.io["projector.out"].shape[1] + 1 == judge.fields["image_tokens"]


def test_pixels_match(judge):
    image = jnp.asarray(judge.io["image_uint8"].astype(np.float32) / 255)
    wanted = np.moveaxis(judge.io["pixel_values"][0], 0, -1)
    found = padded_input(image, judge.config.size)
    assert np.abs(found - wanted).max() <= 2 / 255 + 1e-5


def test_every_published_tensor_is_taken_once(check_manifest):
    config = ImageSelectorConfig.llava_onevision_7b()
    taken = check_manifest("llava_onevision_qwen2_7b", ImageSelector, config, RULES, IGNORED)
    assert taken == 765 - 2  # the tower's last norm is not used


def test_all_questions_are_answered_from_one_reading(judge, reader):
    questions = {name: f"{name} [[prompt]] yes or no" for name in QUESTIONS}
    verifiers = {
        mode: ImageSelectorVerifier(judge.config, reader, questions, mode=mode)
        for mode in ("orm", "potential", "parm")
    }
    query = verifiers["orm"].prepare(judge.params, ["a cat"])
    query = jax.tree.map(lambda leaf: leaf[0], query)
    frames = jax.random.uniform(jax.random.key(0), (2, 2, 20, 30, 3))
    answers = jax.jit(verifiers["orm"].answers)
    odds = answers(judge.params, frames, query)
    alone = jax.tree.map(lambda leaf: jnp.concatenate([leaf[2:], leaf[2:], leaf[2:]]), query)
    again = answers(judge.params, frames, alone)
    assert set(odds) == set(QUESTIONS)
    for name in odds:
        np.testing.assert_allclose(again[name], odds["orm"], atol=1e-5)
    verifiers["parm"].answers = lambda *_: {
        "clarity": jnp.array([1.0, -1.0]),
        "potential": jnp.array([0.5, 3.0]),
    }
    scores = verifiers["parm"].score(judge.params, frames, query)
    np.testing.assert_allclose(scores, [-1 / (1 + np.exp(0.5)), -1.0], rtol=1e-6)


def test_unknown_modes_and_missing_questions_are_refused(judge, reader):
    with pytest.raises(ValueError, match="'best'"):
        ImageSelectorVerifier(judge.config, reader, mode="best")
    with pytest.raises(ValueError, match="potential"):
        ImageSelectorVerifier(judge.config, reader, {"orm": "?"})
