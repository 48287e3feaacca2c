"""Every rule of VBench against the reference, from stored outputs of the networks."""

import json

import numpy as np
import pytest

from tts_jax.evaluation.vbench import rules, sampling
from tts_jax.evaluation.vbench.inputs import unpad
from tts_jax.verifiers.viclip import middle_frames


@pytest.fixture(scope="module")
def load(golden):
    folder = golden("vbench")

    def read(name):
        path = folder / name
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="module")
def clips(load):
    return load("clips.npz")


def compare(verdicts, wanted, tolerance):
    """`verdicts` by the videos' names against a block of the reference, both averages included."""
    for several, branch in ((False, "one_process"), (True, "several_processes")):
        found = rules.combine(list(verdicts.values()), several_processes=several)
        assert abs(found - wanted[branch]) <= tolerance
    records = {name: v.record for name, v in verdicts.items() if v.record is not None}
    assert list(records) == [record["video_path"] for record in wanted["per_video"]]
    for record in wanted["per_video"]:
        found = records[record["video_path"]]
        assert found.keys() == record.keys() - {"video_path"}
        for name, value in found.items():
            assert type(value) is type(record[name])
            scale = max(1.0, np.abs(np.max(record[name])))
            np.testing.assert_allclose(value, record[name], rtol=0, atol=tolerance * scale)


def test_temporal_flickering(load, clips):
    wanted = load("temporal_flickering.json")
    compare({n: rules.temporal_flickering(x) for n, x in clips.items()}, wanted, 1e-6)
    for name, pairs in wanted["mae_between_neighbours"].items():
        np.testing.assert_allclose(rules.neighbour_difference(clips[name]), pairs, rtol=1e-6)


@pytest.mark.parametrize("name", ["subject", "background"])
def test_frame_consistency(load, name):
    wanted, features = load("frame_consistency.json"), load("frame_consistency.npz")
    rule = getattr(rules, f"{name}_consistency")
    found = {n: rule(features[f"{name}_feat_{n}"]) for n in wanted["order"]}
    compare(found, wanted[f"{name}_consistency"], 1e-6)


def test_motion_smoothness(load, clips):
    wanted, outputs = load("motion_smoothness.json"), load("motion_smoothness.npz")

    def rule(name):
        frames = np.moveaxis(outputs[f"interpolated_{name}"].astype(np.float32), 1, -1)
        return rules.motion_smoothness(clips[name], unpad(frames, *clips[name].shape[1:3]))

    compare({name: rule(name) for name in wanted["order"]}, wanted, 1e-9)


def test_dynamic_degree(load, clips):
    wanted, flows = load("dynamic_degree.json"), load("dynamic_degree.npz")
    rates = load("clips.json")
    found = {}
    for name, detail in wanted["detail"].items():
        flow, size = np.moveaxis(flows[f"flow_{name}"], 1, -1), clips[name].shape[1:3]
        frames = clips[name][:: sampling.motion_stride(rates[name]["fps"])]
        assert len(frames) == len(flow) + 1 == detail["frames_used"]
        np.testing.assert_allclose(rules.largest_flow(flow, 0.05), detail["pair_scores"], rtol=1e-5)
        assert rules.motion_threshold(*size) == detail["threshold"]
        assert rules.pairs_needed(len(frames)) == detail["pairs_needed"]
        found[name] = rules.dynamic_degree(flow, *size)
        assert found[name].record["video_results"] is detail["moves"]
    compare(found, wanted, 0)


def test_thresholds_of_motion_for_every_size_and_length(load):
    rows = load("dynamic_degree.json")["rule_grid"]
    assert rows
    for row in rows:
        size = row["h"], row["w"]
        assert rules.motion_threshold(*size) == row["threshold"]
        assert rules.pairs_needed(row["frames"]) == row["pairs_needed"]
        still = np.zeros(row["frames"] - 1)
        assert rules.moves(still, *size) is row["moves_if_all_still"]
        assert rules.moves(still + row["threshold"], *size) is row["moves_if_all_still"]
        assert rules.moves(still + row["threshold"] + 1e-3, *size) is (row["frames"] > 1)


def test_the_frame_rate_decides_how_many_frames_count(load):
    strides = load("dynamic_degree.json")["fps_stride"]
    assert {fps: sampling.motion_stride(float(fps)) for fps in strides} == strides
    with pytest.raises(ValueError, match="frame rate"):
        sampling.motion_stride(0)


def test_the_static_filter(load, clips):
    cases, flows = load("dynamic_degree.json")["static_filter"], load("dynamic_degree.npz")
    assert {case["static"] for case in cases.values()} == {True, False}
    for name, case in cases.items():
        flow = np.moveaxis(flows[f"static_flow_{name}"], 1, -1)
        frames = clips[case["clip"]]
        np.testing.assert_allclose(rules.largest_flow(flow, 0.02), case["pair_scores"], rtol=1e-5)
        limits = rules.static_limits(len(frames), *frames.shape[1:3])
        assert limits == (case["threshold"], case["pairs_allowed"])
        assert rules.is_static(flow, *frames.shape[1:3]) is case["static"]


@pytest.mark.parametrize("name", ["overall_consistency", "temporal_style"])
def test_a_video_and_its_prompt(load, name):
    wanted, features = load("text_video.json"), load("text_video.npz")
    found = {
        video: rules.text_consistency(features[f"video_feat_{video}"], text)
        for prompt, text in zip(wanted["prompts"], features["text_feat"], strict=True)
        for video in prompt["videos"]
    }
    compare(found, wanted[name], 1e-6)


def test_appearance_style(load):
    wanted, features = load("text_video.json"), load("text_video.npz")
    text = features["style_text_feat"]
    found = {
        n: rules.appearance_style(features[f"style_frame_feat_{n}"], text) for n in wanted["order"]
    }
    compare(found, wanted["appearance_style"], 1e-6)


def test_aesthetic_quality(load):
    wanted, arrays = load("aesthetic_quality.json"), load("aesthetic_quality.npz")
    head = arrays["head_weight"], arrays["head_bias"]
    found = {n: rules.aesthetic_quality(arrays[f"feat_{n}"], *head) for n in wanted["order"]}
    compare(found, wanted, 1e-5)
    ratings = rules.aesthetic_head(arrays["rating_mean_embeddings"], *head)
    np.testing.assert_allclose(ratings, wanted["rating_mean_scores_0_to_10"], atol=1e-5)


def test_imaging_quality(load):
    wanted = load("imaging_quality.json")
    found = {n: rules.imaging_quality(x) for n, x in wanted["frame_scores"].items()}
    compare(found, wanted, 1e-15)


@pytest.fixture(scope="module")
def detections(load):
    return load("detections.json")


@pytest.mark.parametrize("name", ["object_class", "multiple_objects"])
def test_detected_classes(detections, name):
    wanted = detections[name]
    rule = getattr(rules, name)
    compare({n: rule(x, wanted["object"]) for n, x in wanted["frames"].items()}, wanted, 1e-15)


def test_detected_colours(detections):
    wanted = detections["color"]
    found = {
        n: rules.color(x, wanted["color"], wanted["prompt"]) for n, x in wanted["frames"].items()
    }
    compare(found, wanted, 1e-15)
    unseen = [v for v in found.values() if v.record is None]
    assert unseen
    with pytest.raises(ValueError, match="no score"):
        rules.combine(unseen)


@pytest.mark.parametrize("relation", rules.RELATIONS)
def test_detected_relations(detections, relation):
    wanted = detections["spatial_relationship"]
    found = {
        n: rules.spatial_relationship(x, tuple(wanted["objects"]), relation)
        for n, x in wanted["frames"].items()
    }
    compare(found, wanted[relation], 1e-15)


def test_pairs_of_boxes(detections):
    pairs = detections["spatial_relationship"]["pair_scores"]
    assert pairs
    for pair in pairs:
        for relation, way in (("on the right of", "horizontal"), ("on the top of", "vertical")):
            found = rules.box_relation(pair["a"], pair["b"], relation)
            assert abs(found - pair[way]) < 1e-12
    with pytest.raises(ValueError, match="none of"):
        rules.box_relation([0, 0, 1, 1], [2, 0, 3, 1], "beside")


def test_captions_of_scenes(detections):
    blocks = {k.removeprefix("scene: "): v for k, v in detections.items() if k.startswith("scene:")}
    assert blocks
    for name, wanted in blocks.items():
        captions = detections["scene_captions"]
        compare({n: rules.scene(x, name) for n, x in captions.items()}, wanted, 1e-15)


def test_human_action(load):
    wanted, logits = load("human_action.json"), load("human_action.npz")["logits"]
    labels = [f"class {i}" for i in range(logits.shape[1])]
    for label, index in wanted["class_index"].items():
        labels[index] = label
    found = {
        name: rules.human_action(row, name.rsplit("-", 1)[0], labels)
        for name, row in zip(wanted["videos"], logits, strict=True)
    }
    compare(found, wanted, 1e-15)
    with pytest.raises(ValueError, match="what a person is doing"):
        rules.human_action(logits[0], "A cat", labels)


def test_middle_frames_and_prompts_of_file_names(load):
    wanted = load("frame_indices.json")
    assert wanted["middle"] and wanted["prompt_from_filename"]
    for case in wanted["middle"]:
        assert middle_frames(case["length"], case["want"]).tolist() == case["index"]
    for name, prompt in wanted["prompt_from_filename"].items():
        assert sampling.prompt_of(name) == prompt


FEW = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.temporal_flickering(FEW), "at least two frames"),
        (lambda: rules.subject_consistency(np.ones((1, 4))), "at least two frames"),
        (lambda: rules.motion_smoothness(FEW, FEW), "at least three frames"),
        (lambda: rules.motion_smoothness(np.repeat(FEW, 5, 0), FEW / 1.0), r"\[2, 8, 8, 3\]"),
        (lambda: rules.is_static(np.zeros((2, 8, 8, 2)), 8, 8), "both flows"),
    ],
)
def test_too_little_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
