"""Resizing, sizes and chosen frames against the published image processors."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tts_jax.verifiers.clip_score import clip_pixels
from tts_jax.verifiers.image_selector import padded_input
from tts_jax.verifiers.videollama3 import frame_size, second_by_second
from tts_jax.verifiers.videoreward import even_frames
from tts_jax.verifiers.videoscore import idefics_input, spread_frames
from tts_jax.verifiers.visionreward import cogvlm_input, even_distances, nearest_frames
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD, cubic_weights
from tts_jax.vision.resize import (
    fit_area,
    fit_between,
    neighbour_means,
    resize,
    resize_matrix,
)

LEVEL = 1 / 255 + 1e-5  # the difference that is allowed in resized images


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden("verifier_preprocess")
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def as_frames(levels):
    return jnp.asarray(levels.astype(np.float32) / 255)


def first_last(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def test_frames_are_chosen_as_published(reference):
    rules = {
        "visionreward_base": lambda c: even_distances(c["total"], c["fps"], len(c["indices"])),
        "visionreward_chat": lambda c: nearest_frames(c["total"], c["fps"], 24),
        "videoscore_v1": lambda c: spread_frames(c["total"], c["cap"]),
        "videoscore_v1_1": lambda c: spread_frames(c["total"], c["cap"]),
        "videoreward": lambda c: even_frames(c["total"], c["fps"], 2.0),
        "videollama3_decord": lambda c: second_by_second(
            c["total"], c["fps"], c["target_fps"], c["cap"]
        ),
    }
    for name, rule in rules.items():
        for case in reference[0]["frames"][name]:
            np.testing.assert_array_equal(rule(case), case["indices"], err_msg=f"{name} {case}")


def test_sizes_are_chosen_as_published(reference, golden):
    sizes = reference[0]["sizes"]
    rules = {
        "videoscore_378_980": lambda h, w: fit_between(h, w, 378, 980),
        "videoreward_200704": lambda h, w: fit_area(h, w, 28, 128 * 28 * 28, 200704),
    }
    for name, rule in rules.items():
        for case in sizes[name]:
            assert list(rule(*case["hw"])) == case["resized"], (name, case)
    for case in json.loads((golden("videollama3") / "size_cases.json").read_text()):
        factor = 14 * case["merge"]
        size = frame_size(case["height"], case["width"], case["frames"], factor, 16384)
        assert list(size) == case["target_hw"], case
        assert size[0] * size[1] // factor**2 == case["tokens_per_frame"]


def test_idefics_frames_match(reference):
    io = reference[1]
    sides = io["idefics2.pixel_values"].shape[-2:]
    for index, name in enumerate(("image_uint8", "image_b_uint8")):
        found = first_last(idefics_input(as_frames(io[name]), 42, max(sides)))
        height, width = found.shape[-2:]
        mask = io["idefics2.pixel_attention_mask"][0, index]
        assert mask[:height, :width].all()
        assert mask.sum() == height * width
        wanted = io["idefics2.pixel_values"][0, index, :, :height, :width]
        assert np.abs(found - wanted).max() <= 2 * LEVEL


def test_clip_images_match(reference):
    io = reference[1]
    wanted = io["clip.pixel_values"][0]
    found = first_last(clip_pixels(as_frames(io["image_uint8"]), wanted.shape[-1]))
    assert np.abs(found - wanted).max() <= LEVEL / min(CLIP_STD)


def test_padded_images_match(reference):
    io = reference[1]
    wanted = io["llava_pad.pixel_values"]
    found = first_last(padded_input(as_frames(io["image_uint8"]), wanted.shape[-1]))
    assert np.abs(found - wanted).max() <= 2 * LEVEL


def test_cogvlm_frames_match(reference):
    io = reference[1]
    clip = np.moveaxis(io["tensor_video_uint8"], 1, -1)
    wanted = io["cogvlm2.pixel_values"]
    found = first_last(cogvlm_input(as_frames(clip), wanted.shape[-1]))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_videoreward_frames_match(reference):
    io = reference[1]
    clip = np.moveaxis(io["tensor_video_uint8"], 1, -1)
    wanted = np.moveaxis(io["videoreward.resized_float"], 1, -1)
    found = np.asarray(resize(clip, wanted.shape[1:3], "bicubic"))
    np.testing.assert_allclose(found, wanted, atol=1e-2 if wanted.max() > 2 else 1e-4)


def test_qwen_images_match(reference):
    io = reference[1]
    patches = io["qwen2vl.pixel_values"]
    _, rows, columns = io["qwen2vl.image_grid_thw"][0]
    side = int((patches.shape[1] / 6) ** 0.5)
    wanted = patches.reshape(rows // 2, columns // 2, 2, 2, 3, 2, side, side)[:, :, :, :, :, 0]
    wanted = wanted.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, 3)
    levels = resize(io["image_uint8"], wanted.shape[:2], "bicubic", quantise=True)
    found = (np.asarray(levels) / 255 - CLIP_MEAN) / CLIP_STD
    assert np.abs(found - wanted).max() <= LEVEL / min(CLIP_STD)


def test_resizing_keeps_even_pictures_even():
    for kernel in ("bilinear", "bicubic"):
        for antialias in (True, False):
            weights = resize_matrix(13, 5, kernel, antialias)
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
            np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        resize_matrix(37, 12, "bicubic"),
        resize_matrix(5, 16, "bilinear", antialias=False),
        cubic_weights(9, 23),
        cubic_weights(1, 3),
    ],
)
def test_a_pass_by_neighbours_is_the_product_with_the_matrix(weights):
    x = np.random.default_rng(0).random((2, weights.shape[1], 4)).astype(np.float32)
    np.testing.assert_allclose(neighbour_means(x, weights, 1), weights @ x, atol=1e-5)
    turned = neighbour_means(x.swapaxes(1, 2), weights, -1)
    np.testing.assert_allclose(turned, (weights @ x).swapaxes(1, 2), atol=1e-5)
