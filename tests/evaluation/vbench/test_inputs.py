"""Inputs of networks against the reference's pipelines."""

import json

import numpy as np
import pytest

from tts_jax.evaluation.vbench import inputs

EXACT = 1e-4
LEVEL = 0.018  # a byte, after dividing by a standard deviation


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden("vbench")
    about = json.loads((folder / "preprocess.json").read_text())
    with np.load(folder / "clips.npz") as clips, np.load(folder / "preprocess.npz") as wanted:
        return dict(clips), dict(wanted), about


def compare(found, wanted, *, rounded=False):
    assert found.shape == wanted.shape
    error = np.abs(found - wanted)
    if rounded:
        assert (error > EXACT).mean() < 0.02
        assert error.max() < LEVEL
    else:
        assert error.max() < EXACT


def channels_first(x):
    return np.moveaxis(x, -1, -3)


SMALL = {
    "dino32_float": (lambda x: inputs.dino_input(x, 32), False),
    "dino32_pil": (lambda x: inputs.dino_input(x, 32, picture=True), True),
    "clip32_float": (lambda x: inputs.clip_frames(x, 32), False),
    "clip32_uint8": (lambda x: inputs.clip_frames(x, 32, "uint8"), True),
    "clip32_pil": (lambda x: inputs.clip_frames(x, 32, "picture"), True),
}


@pytest.mark.parametrize("name", SMALL)
def test_whole_small_inputs_match(reference, name):
    clips, wanted, _ = reference
    prepare, rounded = SMALL[name]
    for clip, frames in clips.items():
        compare(channels_first(prepare(frames[:1]))[0], wanted[f"{name}_{clip}"], rounded=rounded)


LARGE = {
    "dino224": (inputs.dino_input, False),
    "clip224": (inputs.clip_frames, False),
    "style224": (lambda x: inputs.clip_frames(x, variant="picture"), True),
}


@pytest.mark.parametrize("name", LARGE)
def test_published_sizes_match_in_pixels_mean_and_spread(reference, name):
    clips, wanted, about = reference
    prepare, rounded = LARGE[name]
    for clip, frames in clips.items():
        found = channels_first(prepare(frames[:1]))[0]
        facts = about[f"{name}_{clip}"]
        assert list(found.shape) == facts["shape"]
        compare(found[:, 3::8, 3::8], wanted[f"{name}_sub_{clip}"], rounded=rounded)
        np.testing.assert_allclose(found.mean((1, 2)), facts["mean"], atol=1e-4)
        np.testing.assert_allclose(found.std((1, 2)), facts["std"], atol=1e-4)


def test_the_clips_of_viclip_match(reference):
    clips, wanted, about = reference
    for clip, frames in clips.items():
        found = channels_first(inputs.viclip_input(frames))
        facts = about[f"viclip224_{clip}"]
        assert list(found.shape) == facts["shape"]
        ends = found[[0, -1], :, 3::8, 3::8]
        compare(ends, wanted[f"viclip224_sub_{clip}"], rounded=True)
        assert abs(found.mean() - facts["mean"]) < 1e-4
        assert abs(found.std() - facts["std"]) < 1e-4


def test_the_clip_of_umt_matches(reference):
    clips, wanted, about = reference
    found = np.moveaxis(inputs.umt_input(clips[about["umt224"]["clip"]]), -1, 0)
    assert list(found.shape) == about["umt224"]["shape"]
    compare(found[:, [0, -1], 3::8, 3::8], wanted["umt224_sub"], rounded=True)


def test_sizes_for_the_imaging_quality_match(golden):
    rows = json.loads((golden("vbench") / "imaging_quality.json").read_text())["size_rule"]
    assert rows
    for row in rows:
        for mode in ("longer", "shorter", "shorter_centercrop"):
            assert inputs.imaging_size(row["h"], row["w"], mode) == tuple(row[mode])


def test_frames_for_the_imaging_quality_are_shrunk_only_when_long():
    frames = np.full((2, 20, 1024, 3), 51, np.uint8)
    assert inputs.imaging_input(frames).shape == (2, 10, 512, 3)
    small = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    np.testing.assert_allclose(inputs.imaging_input(small), small / 255, atol=1e-7)


def test_padding_repeats_edges_and_is_undone():
    frames = np.arange(2 * 13 * 10 * 3).reshape(2, 13, 10, 3)
    padded = inputs.pad_to(frames, 8)
    assert padded.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(padded[:, 0, 3:13], frames[:, 0])  # one row above, two below
    np.testing.assert_array_equal(inputs.unpad(padded, 13, 10), frames)


@pytest.mark.parametrize(
    "call",
    [
        lambda: inputs.clip_frames(np.zeros((1, 8, 8, 3), np.uint8), 8, "pil"),
        lambda: inputs.imaging_size(8, 8, "both"),
    ],
)
def test_unknown_variants_are_refused(call):
    with pytest.raises(ValueError, match="must be"):
        call()
