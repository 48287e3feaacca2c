import numpy as np
import pytest

from tts_jax.evaluation.selection import (
    attribute_gains,
    attributes,
    difficulty_buckets,
    over_optimisation,
    pareto_front,
    pick,
    standardise,
)
from tts_jax.worlds import moving_shapes


def test_a_pick_lies_between_its_control_and_its_upper_bound():
    found = pick([0.1, np.nan, 0.9, 0.3], [(0, 0.5), (1, 1.0), (0, 0.75), (1, 1.0)])
    assert (found.picked, found.best, found.chance) == (2, 1, 0.5)
    broken = pick([0.1, 0.2, 0.3], [np.nan, 1.0, 0.5])
    assert (broken.picked, broken.best, broken.chance) == (2, 1, 0.75)
    assert np.isnan(pick([0.1], [np.nan]).chance)
    with pytest.raises(ValueError, match="make no choice"):
        pick([1.0], [1.0, 2.0])


def test_standard_scores_are_of_the_reference():
    reference = np.array([[0.0, 10.0], [2.0, 10.0]])
    assert standardise([3.0, 10.0], reference).tolist() == [2.0, 0.0]


def test_attributes_of_a_drawn_caption_are_right_and_those_of_another_are_not():
    caption = "a red circle moving right and a blue square moving up"
    frames = moving_shapes.render(caption, 0)
    right = attributes(moving_shapes.grade(frames, caption))
    assert right == {"colour": 1, "shape": 1, "motion": 1, "count": 1}
    other = "a red circle moving right and a green square moving up"
    half = attributes(moving_shapes.grade(frames, other))
    assert half == {"colour": 0.5, "shape": 0.5, "motion": 0.5, "count": 0}


def test_gains_are_told_by_attribute():
    single = {"colour": [1, 1, 1, 1], "motion": [0, 0, 1, 0]}
    found = attribute_gains({"colour": [1, 1, 1, 1], "motion": [1, 1, 1, 0]}, single)
    assert found["colour"]["gain"] == 0 and found["colour"]["interval"] == (0, 0)
    assert found["motion"]["gain"] == 0.5
    assert found["motion"]["interval"][0] <= 0.5 <= found["motion"]["interval"][1]


def test_every_prompt_has_one_difficulty():
    quality = np.array([0.9, 0.1, 0.5, 0.0, 1.0, 0.4, 0.6])
    found = difficulty_buckets(quality)
    assert sorted(np.concatenate(list(found.values()))) == list(range(7))
    assert quality[found["hard"]].max() <= quality[found["medium"]].min()
    assert quality[found["medium"]].max() <= quality[found["easy"]].min()
    assert list(difficulty_buckets([1.0])) == ["hard"]


def test_a_verifier_that_is_noise_is_pleased_and_the_held_out_one_is_not():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 400, 16))
    empty = over_optimisation(noise, truth, (1, 4, 16))
    assert empty[2]["searching"] > 1.5 and abs(empty[2]["held_out"]) < 0.2
    useful = over_optimisation(truth + noise, truth, (1, 4, 16))
    assert useful[2]["held_out"] > useful[1]["held_out"] > useful[0]["held_out"]
    low, high = useful[2]["held_out_interval"]
    assert low < useful[2]["held_out"] < high
    with pytest.raises(ValueError, match="same 32 candidates"):
        over_optimisation(truth, noise, (32,))


def test_the_front_holds_what_nothing_cheaper_beats():
    assert pareto_front([1, 2, 2, 4, 8], [0.5, 0.7, 0.6, 0.7, 0.9]) == [0, 1, 4]
