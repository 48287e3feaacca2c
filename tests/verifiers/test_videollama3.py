"""VideoLLaMA3 against the reference outputs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.judge_cases import videollama3_outputs
from converters.videollama3 import IGNORED, RULES
from tts_jax.verifiers.videollama3 import VideoLLaMA3, VideoLLaMA3Config, VideoLLaMA3Verifier
from tts_jax.vision.resize import normalise_levels
from tts_jax.vision.siglip import MEAN, STD


@pytest.fixture(scope="module")
def judge(open_judge):
    read = VideoLLaMA3Config.from_reference
    return open_judge("videollama3", VideoLLaMA3, read, RULES, IGNORED)


def recorded_pixels(judge):
    return normalise_levels(jnp.asarray(judge.io["video_uint8"], jnp.float32), MEAN, STD)


def test_pixels_are_the_recorded_ones(judge):
    pixels = recorded_pixels(judge)
    side, merge = judge.config.vision.patch, judge.config.merge
    count, height, width, _ = pixels.shape
    rows, columns = height // side // merge, width // side // merge
    tiles = np.asarray(pixels).reshape(count, rows, merge, side, columns, merge, side, 3)
    found = tiles.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(judge.io["pixel_values"].shape)
    np.testing.assert_allclose(found, judge.io["pixel_values"], atol=1e-6)


def test_tower_connector_left_out_rows_and_answer_match(judge):
    names = ("vision.out", "projector.out", "compression_mask", "tokens_per_frame")
    judge.check(videollama3_outputs, *names, "input_ids", "logits", "p_yes_no")


@pytest.mark.parametrize("name", ["videollama3_7b", "videollama3_7b_package_names"])
def test_every_published_tensor_is_taken_once(check_manifest, name):
    config = VideoLLaMA3Config.videollama3_7b()
    assert check_manifest(name, VideoLLaMA3, config, RULES, IGNORED) == 779


def test_a_branch_scores_the_same_alone_and_among_others(judge, reader):
    config = dataclasses.replace(judge.config, rows=40)
    verifier = VideoLLaMA3Verifier(config, reader, "is it [[prompt]] yes or no", rate=2.0)
    query = verifier.prepare(judge.params, ["a cat"])
    query = jax.tree.map(lambda leaf: leaf[0], query)
    frames = jax.random.uniform(jax.random.key(0), (2, 6, 24, 32, 3))
    score = jax.jit(verifier.score)
    together = score(judge.params, frames, query)
    alone = score(judge.params, jnp.repeat(frames[1:], 2, 0), query)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(alone, together[1], atol=1e-4)
    assert abs(together[0] - together[1]) > 1e-6


def test_other_connectors_are_refused(golden):
    fields = json.loads((golden("videollama3") / "config.json").read_text())
    with pytest.raises(ValueError, match="qformer"):
        VideoLLaMA3Config.from_reference({**fields, "mm_projector_type": "qformer"})
