"""VisionReward (CogVLM2-Video) and the image model against the reference outputs."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.judge_cases import cogvlm2_image_outputs, visionreward_outputs
from converters.visionreward import IGNORED, RULES, prepare
from tts_jax.language.decoder import Decoder, DecoderConfig
from tts_jax.verifiers.judging import says
from tts_jax.verifiers.panel import Panel
from tts_jax.verifiers.visionreward import (
    Checklist,
    VisionReward,
    VisionRewardConfig,
    VisionRewardVerifier,
    cogvlm_input,
    final_score,
    stage_sum,
)

# VisionReward's published weights (github.com/THUDM/VisionReward), in the order of its questions.
WEIGHTS = (
    0.9543901856422174,
    0.25239747290239256,
    1.141818673357406,
    0.03495652038170829,
    0.025237463294006605,
    0.12600844108184325,
    0.03221505988621183,
    0.16286819641189937,
    0.21673935360893115,
    0.01970324496671629,
    0.13604019362894557,
    0.09647134683834487,
    0.15490927135496332,
    0.1294164598219855,
    0.09891696198970226,
    0.18839328668539077,
    0.1844335421380767,
    0.2635526157239052,
    0.11168980468489233,
    0.05173789659242723,
    0.02562797122879315,
    0.4389890596048526,
    0.26857694964769424,
    0.42925171836383774,
    0.00846154228462919,
    0.12757277121689847,
    0.05798205026065391,
    0.1446334304609205,
    0.39418111694677266,
)


@pytest.fixture(scope="module")
def judge(open_judge):
    read = VisionRewardConfig.from_reference
    return open_judge("cogvlm2_video", VisionReward, read, RULES, IGNORED, prepare)


def test_pixels_match(judge):
    frames = jnp.asarray(judge.io["video_uint8"].astype(np.float32) / 255)
    found = np.moveaxis(np.asarray(cogvlm_input(frames, judge.config.vision.size)), -1, 1)
    np.testing.assert_allclose(found, judge.io["pixel_values"], atol=1e-4)


def test_tower_adapter_positions_states_and_answers_match(judge):
    names = ["vision.patch_embed", "vision.transformer", "vision.conv", "vision.out"]
    for layout in ("chat", "base"):
        kinds = ("position_ids", "inputs_embeds", "final_hidden", "logits", "logits, asked")
        names += [f"{layout}.{kind}" for kind in (*kinds, "decode.logits", "p_yes_no")]
    judge.check(visionreward_outputs, *names)


@pytest.mark.parametrize("coarse", [False, True])
def test_rotary_angles_match(judge, coarse):
    kind = "bf16" if coarse else "f32"
    size = 2 * judge.io["rope.inv_freq_f32"].shape[0]
    config = DecoderConfig(
        vocabulary=2,
        width=2,
        heads=1,
        kv_heads=1,
        head_size=size,
        layers=1,
        mlp=2,
        theta=float(judge.fields["rope_base"]),
        coarse_rope=coarse,
    )
    wanted = judge.io[f"rope.cos_{kind}"]
    cos, _ = Decoder.rotation(SimpleNamespace(config=config), jnp.arange(len(wanted))[None])
    # 300 turns of float32 angles differ by some 1e-5 between implementations
    np.testing.assert_allclose(cos[0], wanted[:, : size // 2], atol=1e-2 if coarse else 5e-5)


def test_every_published_tensor_is_taken_once(check_manifest):
    config = VisionRewardConfig.visionreward_video()
    taken = check_manifest("visionreward_video", VisionReward, config, RULES, IGNORED, prepare)
    fused = 63 * 2 + 32
    assert taken == 1029 - 32 + 2 * fused


def test_visual_rows_pass_their_expert(open_judge):
    def read(fields):
        return VisionRewardConfig.from_reference(fields, expert=True)

    judge = open_judge("cogvlm2_visual_expert", VisionReward, read, RULES, IGNORED, prepare)
    names = ("vision_expert_mask", "position_ids", "vision.out", "final_hidden", "logits")
    judge.check(cogvlm2_image_outputs, *names)


CHECKLIST = Checklist(("is it [[prompt]]?", "is it calm?\n", "is it [[prompt]] or no?"), (1, 2, -1))


@pytest.mark.parametrize("layout", ["chat", "base"])
def test_a_checklist_is_the_weighted_mean_of_its_questions_one_by_one(judge, reader, layout):
    config = dataclasses.replace(judge.config, layout=layout, frames=2)
    size = config.vision.size
    frames = jax.random.uniform(jax.random.key(0), (2, 3, size, size + 6, 3))
    together = VisionRewardVerifier(config, reader, CHECKLIST, rate=1.0)
    query = together.prepare(judge.params, ["a cat"])
    assert query.tokens.shape[:2] == (1, 3)
    query = jax.tree.map(lambda leaf: leaf[0], query)
    ask = jax.jit(together.answers)
    answers = ask(judge.params, frames, query)
    for index in range(3):  # thrice the same one: whatever else is asked plays no part
        alone = jax.tree.map(lambda leaf, i=index: jnp.repeat(leaf[i : i + 1], 3, 0), query)
        alone = ask(judge.params, frames, alone)
        np.testing.assert_allclose(alone, answers[:, [index] * 3], atol=1e-4)
    together.answers = lambda *_: answers
    score = together.score(judge.params, frames, query)
    np.testing.assert_allclose(score, (answers * jnp.array([1, 2, -1])).mean(1), atol=1e-6)


def test_every_stage_of_a_search_asks_its_own_questions(judge, reader):
    stages = [CHECKLIST.chosen([1, "is it still?\n"]), CHECKLIST.chosen([2])]
    verifier = VisionRewardVerifier(judge.config, reader, CHECKLIST, stages=stages)
    panel = Panel([verifier])
    params = {"visionreward": judge.params}
    whole, *asked = panel.queries(params, "a cat", ["a dog", "a fox", "a hen"])
    asked = [queries["visionreward"] for queries in asked]
    assert whole["visionreward"].weights.tolist() == [1, 2, -1]
    assert [query.weights.tolist() for query in asked] == [[1, 1], [1], [1]]
    texts = [["is it calm?", "is it still?"], ["is it a fox or no?"], ["is it a hen or no?"]]
    for query, wanted in zip(asked, texts, strict=True):
        rows = [np.asarray(t)[s].tolist() for t, s in zip(query.tokens, query.seen, strict=True)]
        assert rows == [reader.encode(text) for text in wanted]
    unstaged = VisionRewardVerifier(judge.config, reader, CHECKLIST)
    assert unstaged.at_stage(2).checklist == CHECKLIST
    for wrong in ([], [3], [-1], [" "], [1.5]):
        with pytest.raises(ValueError, match=r"indices in 0\.\.2"):
            CHECKLIST.chosen(wrong)


def test_published_answers_are_plus_and_minus_one():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(says(logits, 1), [1.0, -1.0])


def test_published_scores_are_reproduced_from_answers(golden):
    folder = golden("visionreward_scoring")
    cases = json.loads((folder / "cases.json").read_text())
    top = json.loads((folder / "config.json").read_text())["range"][1]
    weights = WEIGHTS
    assert final_score(["yes"] * len(weights), weights) == pytest.approx(top, abs=1e-14)
    for case in cases["final"]:
        assert final_score(case["answers"], weights) == pytest.approx(case["score"], abs=1e-14)
    for case in cases["pairs"]:
        first, second = (final_score(case[f"answers_{i}"], weights) for i in (1, 2))
        assert (first > second) == case["first_is_better"]
    for case in cases["judging"]:
        assert [stage_sum(answers) for answers in case["answers"]] == case["sums"]


def test_checklists_are_read_from_either_form(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"items": [{"question": "a?", "weight": 2}, {"question": "b?"}]}))
    assert Checklist.load(path) == Checklist(("a?", "b?"), (2.0, 1.0))
    assert Checklist.load(path).chosen([1, 0]).questions == ("b?", "a?")
    lines, weights = tmp_path / "qa.txt", tmp_path / "weight.json"
    lines.write_text("a?\nb?", newline="")
    weights.write_text("[0.5, 1]")
    assert Checklist.published(lines, weights) == Checklist(("a?\n", "b?"), (0.5, 1.0))
    weights.write_text("[1]")
    with pytest.raises(ValueError, match="1 weights for 2"):
        Checklist.published(lines, weights)
    for wrong in ("[]", "{}", '{"items": []}', '{"items": [{"question": " "}]}', "nonsense"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="no checklist"):
            Checklist.load(path)
