"""VideoScore against the reference outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from converters.videoscore import IGNORED, RULES
from tts_jax.verifiers.judging import ROW
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


@pytest.fixture(scope="module")
def seen(judge):
    """What the parts make of the recorded frames, of which the last is smaller than the others."""
    io, side = judge.io, judge.config.vision.side
    mask = io["patch_attention_mask"]
    places = np.zeros(mask.shape, int)
    for place, frame in zip(places, mask, strict=True):
        rows, columns = frame[:, 0].sum(), frame[0].sum()
        place[:rows, :columns] = bucketed_places(rows, columns, side)

    def parts(model, pixels):
        states = model.vision(pixels, jnp.asarray(mask), jnp.asarray(places))
        projected = model.projection(states.reshape(len(mask), -1, states.shape[-1]))
        return states, projected, model.perceiver(projected, mask.reshape(len(mask), -1))

    return judge.run(parts, np.moveaxis(io["pixel_values"][0], 1, -1))


def test_tower_and_connector_match(judge, seen, close):
    io, (states, projected, rows) = judge.io, seen
    real = io["patch_attention_mask"].reshape(len(rows), -1)
    wanted = io["vision.last_hidden_state"]
    close(states.reshape(wanted.shape)[real], wanted[real])
    close(projected[real], io["connector.modality_projection"][real])
    close(rows, io["connector.out"])


def test_the_outputs_match(judge, seen, close):
    ids = judge.io["input_ids"][0]
    fake, image = judge.fields["fake_image_token_id"], judge.fields["image_token_id"]
    start = int(np.flatnonzero(ids == fake)[0])
    video = [ROW if token == image else int(token) for token in ids[start:]]
    padded = np.pad(ids[:start], (0, 3))

    def score(model, text, rows):
        states = model.states(text, jnp.arange(len(padded)) < start, video, rows)
        return states, model.score(states)

    rows = seen[2].reshape(1, -1, seen[2].shape[-1])
    states, outputs = judge.run(score, padded.astype(np.int32), rows)
    close(states, judge.io["final_hidden"][:, start:])
    close(outputs, judge.io["logits_all_positions"][:, start:])
    close(outputs[:, -1], judge.io["logits"])


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
