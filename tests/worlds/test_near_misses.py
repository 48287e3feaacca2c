"""Near misses: what is drawn as right is right, and what is made wrong is wrong."""

import numpy as np
import pytest

from tts_jax.worlds import moving_shapes as world
from tts_jax.worlds import near_misses

TIMES = list(range(world.FRAMES))
CAPTIONS = world.sample_captions("train", 24, 0)


def trios(kind, seed=0):
    rng = np.random.default_rng(seed)
    for caption in CAPTIONS:
        changes = near_misses.training_changes(caption, ["colour", "shape", "motion"])
        if changes:
            changed = str(rng.choice(changes))
            yield caption, changed, near_misses.trio(caption, changed, rng, TIMES, kind)


def test_the_right_video_of_a_trio_is_right_and_the_others_are_what_they_say():
    grades = np.array(
        [
            [
                world.grade(right.frames, caption).success,
                world.grade(variant.frames, caption).success,
                world.grade(variant.frames, changed).success,
            ]
            for caption, changed, (right, variant, _) in trios(None)
        ]
    )
    assert (grades.mean(0) >= [0.95, 0, 0.9]).all() and grades[:, 1].mean() <= 0.05


@pytest.mark.parametrize("kind", near_misses.MISSES)
def test_a_near_miss_is_wrong_and_its_label_does_not_claim_otherwise(kind):
    wins = []
    for caption, _, (right, _, miss) in trios(kind):
        objects = tuple(sorted(world.parse(caption)))
        assert right.objects == objects and right.scene == near_misses.scene_of(objects)
        assert miss.objects != objects
        assert miss.scene is None or (miss.scene == right.scene) == (kind == "misstep")
        wins.append(world.grade(miss.frames, caption).success)
    assert np.mean(wins) <= 0.4


def test_one_word_changes_are_captions_that_differ_in_one_word():
    caption = "a red circle moving up and a blue cross standing still"
    found = near_misses.one_word_changes(caption, ["colour", "shape", "motion", "number"])
    assert {kind: len(texts) for kind, texts in found.items()} == {
        "colour": 8,
        "shape": 6,
        "motion": 8,
        "number": 2,
    }
    for texts in found.values():
        for text in texts:
            world.parse(text)
    assert found["number"] == ["a red circle moving up", "a blue cross standing still"]


def test_training_changes_stay_in_the_training_split():
    allowed = set(world.captions("train"))
    for caption in CAPTIONS:
        assert set(near_misses.training_changes(caption, ["colour", "motion"])) <= allowed
