"""VideoReward against the reference outputs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from converters.core import check
from converters.videoreward import IGNORED, RULES, merge_adapter, prepare
from tts_jax.checkpoints import abstract_params
from tts_jax.verifiers.judging import ROW, begin, weave
from tts_jax.verifiers.videoreward import (
    MARKS,
    NAMES,
    VideoReward,
    VideoRewardConfig,
    VideoRewardVerifier,
)
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD


@pytest.fixture(scope="module")
def judge(open_judge):
    read = VideoRewardConfig.from_reference
    return open_judge("videoreward", VideoReward, read, RULES, IGNORED, prepare)


def merge_order(x, merge):
    """Patches [T, h, w, ...] with the neighbours of one row together, [T * h * w, ...]."""
    count, rows, columns = x.shape[:3]
    x = x.reshape(count, rows // merge, merge, columns // merge, merge, *x.shape[3:])
    return x.swapaxes(2, 3).reshape(count * rows * columns, *x.shape[5:])


@pytest.fixture(scope="module")
def videos(judge):
    """States and rows of each recorded video."""
    depth = judge.config.vision.depth
    seen = []
    for index in range(len(judge.io["video_grid_thw"])):
        levels = judge.io[f"video_{index}_uint8"].astype(np.float32)
        pixels = (levels / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
        pairs = pixels.reshape(-1, depth, *pixels.shape[1:])
        seen.append(judge.run(lambda m, x: (m.vision(x), m.see(x)), pairs))
    return seen


def sequence(judge, index):
    """Ids of a recorded sequence with places for visual rows, without its padding."""
    ids = judge.io["input_ids"][index][judge.io["attention_mask"][index].astype(bool)]
    return [ROW if token == judge.fields["video_token_id"] else int(token) for token in ids]


def test_tower_and_merger_match(judge, videos, close):
    merge = judge.config.vision.merge
    states = np.concatenate([merge_order(states, merge) for states, _ in videos])
    close(states, judge.io["vision.blocks_out"])
    rows = np.concatenate([rows.reshape(-1, rows.shape[-1]) for _, rows in videos])
    close(rows, judge.io["vision.merger_out"])


@pytest.mark.parametrize("scheme", ["flat", "mrope"])
def test_rewards_match(judge, videos, close, scheme):
    io = judge.io
    marks = [judge.fields["special_token_ids"][name] for name in NAMES]
    for index, (_, rows) in enumerate(videos):
        ids = sequence(judge, index)
        stop = max(i for i, token in enumerate(ids) if token == ROW) + 1
        text = np.asarray(ids[stop:], np.int32)
        places = None
        if scheme == "mrope":
            places = io["mrope.position_ids"][:, index : index + 1, : len(ids)].swapaxes(0, 1)

        def rewards(model, rows, text, places, ids=ids, stop=stop):
            if places is None:
                prefix = begin(model.decoder, ids[:stop], rows)
                found = model.rewards(prefix, text, jnp.ones(text.shape, bool), marks)
            else:
                hidden, _ = model.decoder(weave(model.decoder, ids, rows), places)
                found = model.read(hidden, jnp.asarray([ids]), marks)
            return found, model.normalised(found)

        rows = rows.reshape(1, -1, rows.shape[-1])
        found, normalised = judge.run(rewards, rows, text, places)
        close(found[0], io[f"{scheme}.logits"][index])
        if scheme == "flat":
            close(normalised[0], io["normalised"][index])
            close(normalised[0].sum(), io["overall"][index])


def test_the_adapter_is_merged_as_published(judge, golden):
    folder = golden("videoreward")
    parts = [
        load_file(folder / f"{name}.safetensors")
        for name in ("base", "adapter_model", "non_lora_state_dict")
    ]
    merged = merge_adapter(parts[0] | parts[1] | parts[2], judge.fields["lora"]["alpha"])
    wanted = load_file(folder / "weights.safetensors")
    assert set(merged) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(np.asarray(merged[name]), tensor, atol=1e-6, err_msg=name)
    lonely = {k: v for k, v in parts[1].items() if "lora_A" in k}
    with pytest.raises(ValueError, match="not whole"):
        merge_adapter(parts[0] | lonely)


def test_every_published_tensor_is_taken_once(check_manifest):
    config = VideoRewardConfig.videoreward()
    taken = check_manifest("videoreward_merged", VideoReward, config, RULES, IGNORED, prepare)
    assert taken == 730 + 2 * 64  # queries, keys and values of 32 blocks are stored as one


def test_the_published_adapter_and_its_base_fill_every_parameter(golden):
    shapes = {}
    for name in ("qwen2_vl_2b", "videoreward_checkpoint"):
        shapes |= json.loads((golden("manifests") / f"{name}.json").read_text())
    _, like = abstract_params(VideoReward, VideoRewardConfig.videoreward())
    assert len(check(prepare(shapes), like, RULES, IGNORED)) == 730 + 2 * 64


def test_a_prompt_changes_the_text_alignment_alone(judge, reader):
    template = f" a {MARKS[0]} b {MARKS[1]} c {{text_prompt}} {MARKS[2]}"
    area = judge.config.vision.factor**2
    small = dataclasses.replace(judge.config, least=area, most=6 * area)
    verifier = VideoRewardVerifier(small, reader, template, rate=4.0)
    query = verifier.prepare(judge.params, ["a cat", "dogs run"])
    frames = jax.random.uniform(jax.random.key(0), (2, 8, 20, 30, 3))
    outputs = jax.jit(verifier.outputs)
    queries = (jax.tree.map(lambda leaf, i=i: leaf[i], query) for i in range(2))
    first, second = (np.asarray(outputs(judge.params, frames, q)) for q in queries)
    np.testing.assert_allclose(first[:, :2], second[:, :2], atol=1e-5)
    assert np.abs(first[:, 2] - second[:, 2]).min() > 1e-5
    with pytest.raises(ValueError, match="TA_reward"):
        VideoRewardVerifier(judge.config, reader, "no marks")
