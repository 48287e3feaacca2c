"""The world against itself: what it draws it must grade right, and nothing else."""

import dataclasses

import numpy as np
import pytest

from tts_jax.worlds import moving_shapes as world


def changed(objects, rng):
    """The caption with one word, of one object, another."""
    objects = list(objects)
    i, field = rng.integers(len(objects)), rng.choice(["colour", "shape", "motion"])
    taken = {thing.colour for thing in objects} | {getattr(objects[i], field)}
    words = {"colour": world.COLOURS, "shape": world.SHAPES, "motion": world.MOTIONS}[field]
    word = rng.choice([w for w in words if w not in taken])
    objects[i] = dataclasses.replace(objects[i], **{str(field): str(word)})
    return world.caption_of(objects)


def test_the_oracle_passes_what_is_true_and_nothing_with_a_word_changed():
    rng = np.random.default_rng(0)
    captions = world.sample_captions("train", 500, 0) + world.sample_captions("test", 500, 0)
    right, wrong = [], []
    for seed, caption in enumerate(captions):
        frames = world.render(caption, seed)
        right.append(world.grade(frames, caption).success)
        wrong.append(world.grade(frames, changed(world.parse(caption), rng)).success)
    assert len(right) == 1000
    assert np.mean(right) >= 0.97
    assert np.mean(wrong) <= 0.03


def test_the_grammar_is_large_enough():
    assert len(world.COLOURS) >= 6
    assert len(world.SHAPES) >= 4
    assert len(world.MOTIONS) >= 5
    assert "standing still" in world.MOTIONS


def test_no_held_out_pair_of_objects_occurs_in_training():
    seen = {frozenset(world.parse(caption)) for caption in world.captions("train")}
    held_out = {frozenset(world.parse(caption)) for caption in world.captions("test")}
    assert not seen & held_out
    assert len(seen | held_out) == 120 + 120 * 100 // 2
    assert set(map(len, held_out)) == {1, 2}


def test_every_caption_is_what_its_objects_say():
    for caption in world.captions("test"):
        assert world.caption_of(world.parse(caption)) == caption


def test_a_sample_of_captions_is_half_single_and_repeats_only_when_it_must():
    chosen = world.sample_captions("test", 200, 0)
    sizes = [len(world.parse(caption)) for caption in chosen]
    assert sizes == [1] * 100 + [2] * 100
    assert len(set(chosen[100:])) == 100
    assert len(set(chosen[:100])) == sum(
        len(world.parse(caption)) == 1 for caption in world.captions("test")
    )
    assert chosen == world.sample_captions("test", 200, 0)


def test_equal_seeds_draw_equal_videos():
    caption = "a red circle moving right and a blue square moving up"
    first, again, other = (world.render(caption, seed) for seed in (1, 1, 2))
    assert first.shape == (9, 32, 32, 3)
    assert first.dtype == np.float32
    assert 0 <= first.min() and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5


def test_edges_are_anti_aliased():
    frames = world.render("a red circle standing still", 0)
    red = (frames[0, ..., 0] - world.BACKGROUND[0]) / (
        world.COLOURS["red"][0] - world.BACKGROUND[0]
    )
    assert ((red > 0.1) & (red < 0.9)).sum() > 10


def test_findings_name_what_is_wrong():
    frames = world.render("a red circle moving right and a blue square moving up", 0)
    grade = world.grade(frames, "a red circle moving left and a green square moving up")
    assert grade.objects == (
        {"colour": True, "shape": True, "motion": False},
        {"colour": False, "shape": False, "motion": False},
    )
    assert not grade.no_extra
    assert grade.facts == pytest.approx(2 / 7)
    assert not grade.success


def test_a_second_object_of_the_same_colour_is_extra():
    one = world.render("a red circle standing still", 0)
    twin = np.maximum(one, np.roll(one, 16, axis=2))
    assert not world.grade(twin, "a red circle standing still").no_extra


def test_noise_and_emptiness_are_graded_without_success():
    rng = np.random.default_rng(0)
    for frames in (
        np.zeros((9, 32, 32, 3)),
        rng.random((9, 32, 32, 3)),
        np.full((9, 32, 32, 3), np.nan),
    ):
        assert not world.grade(frames, "a red circle moving right").success


def test_stage_prompts_split_a_caption():
    caption = "a red circle moving right and a blue square moving up"
    scene, motion, ending = world.stage_prompts(caption)
    assert scene == ending == "a red circle and a blue square"
    assert motion == caption


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red circle",
        "a pink circle moving right",
        "a red circle moving right and a red square moving up",
        "a red circle moving right and",
        "red circle moving right",
    ],
)
def test_what_is_not_a_caption_is_refused(caption):
    with pytest.raises(world.CaptionError):
        world.parse(caption)


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="frames have shape"):
        world.grade(np.zeros((8, 32, 32, 3)), "a red circle moving right")
