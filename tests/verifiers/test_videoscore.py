"""VideoScore against the reference outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from converters.judge_cases import videoscore_outputs
from converters.videoscore import IGNORED, RULES
from tts_jax.verifiers.videoscore import (
    VideoScore,
    VideoScoreConfig,
    VideoScoreVerifier,
    spread_frames,
)
from tts_jax.vision.siglip import bucketed_places


@pytest.fixture(scope="module")
def judge(open_judge):
    return open_judge("videoscore", VideoScore, VideoScoreConfig.from_reference, RULES, IGNORED)


def test_tower_connector_states_and_outputs_match(judge):
    judge.check(
        videoscore_outputs,
        "vision.last_hidden_state",
        "connector.modality_projection",
        "connector.out",
        "final_hidden",
        "logits of the video",
        "logits",
    )


def test_every_published_tensor_is_taken_once(check_manifest):
    config = VideoScoreConfig.videoscore()
    assert check_manifest("videoscore", VideoScore, config, RULES, IGNORED) == 764


def test_positions_are_those_of_the_reference():
    for side in (10, 27, 70):
        edges = torch.arange(1 / side, 1.0, 1 / side)
        for count in range(1, side + 1):
            starts = torch.arange(0, 1 - 1e-6, 1 / count)
            wanted = torch.bucketize(starts, edges, right=True).numpy()
            found = bucketed_places(count, 1, side)[:, 0] // side
            lower = np.flatnonzero(found != wanted)
            assert (lower * side % count == 0).all()  # both begin at the same place
            np.testing.assert_array_equal(found[lower] - 1, wanted[lower])


def test_a_branch_scores_the_same_alone_and_among_others(judge, reader):
    side = judge.config.vision.patch
    config = dataclasses.replace(judge.config, frames=2, shortest=2 * side, longest=4 * side)
    verifier = VideoScoreVerifier(config, reader, "the text is {text_prompt} and then ")
    query = verifier.prepare(judge.params, ["a cat", "a dog"])
    frames = jax.random.uniform(jax.random.key(0), (3, 4, 14, 21, 3))
    score = jax.jit(verifier.score)
    first = jax.tree.map(lambda leaf: leaf[0], query)
    together = score(judge.params, frames, first)
    assert together.shape == (3,)
    assert np.isfinite(together).all()
    assert len(set(np.asarray(together).tolist())) == 3
    alone = score(judge.params, jnp.repeat(frames[1:2], 3, 0), first)
    np.testing.assert_allclose(alone, together[1], atol=1e-5)
    other = score(judge.params, frames, jax.tree.map(lambda leaf: leaf[1], query))
    assert np.abs(other - together).min() > 1e-6


@pytest.mark.parametrize(("total", "most"), [(3, 16), (49, 16), (81, 48)])
def test_frames_are_spread_over_the_video(total, most):
    chosen = spread_frames(total, most)
    assert len(chosen) == min(total, most)
    assert chosen[0] == 0
    assert chosen[-1] < total


def test_sizes_that_the_published_file_leaves_out_are_those_of_idefics2():
    fields = {
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 980,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
        "perceiver_config": {"model_type": "idefics2"},
        "text_config": {"model_type": "mistral", "vocab_size": 32003},
    }
    assert VideoScoreConfig.from_reference(fields) == VideoScoreConfig.videoscore()
