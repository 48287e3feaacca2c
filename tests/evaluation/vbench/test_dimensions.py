"""Dimensions: what they ask of networks and recorded detections, and what they refuse."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from tts_jax.evaluation.vbench import inputs, rules
from tts_jax.evaluation.vbench.dimensions import (
    DIMENSIONS,
    NETWORKS,
    RECORDED,
    Network,
    Video,
    ask,
    ask_all,
    is_static,
)
from tts_jax.evaluation.vbench.recorded import read_recorded
from tts_jax.evaluation.vbench.scores import NAMES


def video(frames=5, height=128, width=136, fps=8.0, prompt="a person is riding a bike", **known):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Video("clip", pixels, fps, prompt, **known)


def mean_colours(frames):
    return frames.mean(axis=tuple(range(1, frames.ndim - 1)))


TEXT = np.array([1.0, 0.5, 0.0])
NETS = {
    "dino": Network(mean_colours, 32),
    "clip_b32": Network(mean_colours, 32),
    "clip_b32_text": Network(lambda texts: np.stack([TEXT for _ in texts])),
    "aesthetic": Network(lambda frames: mean_colours(frames).sum(-1), 32),
    "viclip": Network(mean_colours, 32),
    "viclip_text": Network(lambda texts: np.stack([TEXT for _ in texts])),
    "musiq": Network(lambda frames: 100 * mean_colours(frames)[:, 0]),
    "raft": Network(lambda first, second: np.ones_like(first)[..., :2] * 4, at_once=2),
    "amt": Network(lambda first, last: (first + last) / 2, at_once=1),
    "umt": Network(
        lambda clips: np.full((len(clips), 3), 3.0), 32, labels=("riding a bike", "b", "c")
    ),
}
INFO = {
    "object_class": {"object": "dog"},
    "multiple_objects": {"object": "dog and cat"},
    "color": {"color": "red"},
    "spatial_relationship": {
        "spatial_relationship": {
            "object_a": "dog",
            "object_b": "cat",
            "relationship": "on the left of",
        }
    },
    "scene": {"scene": {"scene": "art gallery"}},
    "appearance_style": {"appearance_style": "oil"},
}
SEEN = {
    "objects": [{"class": ["dog", "cat"], "box": [[0, 0, 4, 4], [8, 0, 12, 4]]}] * 16,
    "dense_captions": [{"class": ["car"], "caption": ["a red car"]}] * 16,
    "captions": ["art in a gallery"] * 16,
}


def known(name):
    return {"info": {k: v for k, v in INFO.items() if k == name}, "recorded": SEEN}


def test_every_dimension_runs_with_the_networks_it_names_and_lacks_them_otherwise():
    assert tuple(DIMENSIONS) == NAMES
    for name, dimension in DIMENSIONS.items():
        prompt = "a red car" if name == "color" else "a person is riding a bike"
        clip = video(prompt=prompt, **known(name))
        own = {n: NETS[n] for n in dimension.networks}
        assert dimension.lacks(own, SEEN) is None
        verdict = dimension(clip, own)
        assert verdict.count and "video_results" in verdict.record
        json.dumps(verdict.record)
        if dimension.networks:
            assert dimension.networks[0] in dimension.lacks({}, SEEN)
        if dimension.recorded:
            assert dimension.recorded in dimension.lacks(NETS, {})
    used = {n for d in DIMENSIONS.values() for n in d.networks}
    assert used == set(NETWORKS) and {d.recorded for d in DIMENSIONS.values()} == {*RECORDED, None}


def test_frames_reach_the_rules_as_the_networks_need_them():
    clip = video()
    features = mean_colours(inputs.dino_input(clip.frames, 32))
    found = DIMENSIONS["subject_consistency"](clip, NETS)
    assert found.total == pytest.approx(rules.subject_consistency(features).total)
    middle = inputs.viclip_input(clip.frames, 32)
    cosine = rules.text_consistency(mean_colours(middle[None])[0], TEXT).total
    assert DIMENSIONS["temporal_style"](clip, NETS).total == pytest.approx(cosine)
    between = (clip.frames[:-2:2] / 255.0 + clip.frames[2::2] / 255.0) / 2
    smooth = rules.motion_smoothness(clip.frames, between.astype(np.float32)).total
    assert DIMENSIONS["motion_smoothness"](clip, NETS).total == pytest.approx(smooth, abs=1e-3)


def test_a_higher_frame_rate_leaves_fewer_frames_to_move():
    seen = []

    def still(first, second):
        seen.append(len(first))
        return np.zeros((*first.shape[:3], 2))

    nets = {"raft": Network(still)}
    assert not DIMENSIONS["dynamic_degree"](video(8), nets).total
    assert not DIMENSIONS["dynamic_degree"](video(8, fps=24), nets).total
    assert DIMENSIONS["dynamic_degree"](video(8, fps=60), {"raft": NETS["raft"]}).total == 0
    assert seen == [7, 2]
    with pytest.raises(ValueError, match="clip: the dynamic degree depends on the frame rate"):
        DIMENSIONS["dynamic_degree"](video(fps=0), nets)


def test_the_static_filter_asks_for_both_ends():
    asked = []

    def flow(first, second):
        asked.append((first[:, 0, 0, 0].tolist(), second[:, 0, 0, 0].tolist()))
        return np.zeros((*first.shape[:3], 2))

    clip = video(3)
    assert ask(is_static(clip), clip, {"raft": Network(flow)})
    a, b, c = clip.frames[:, 0, 0, 0].tolist()
    assert asked == [([a, b, a, c], [b, c, c, a])]
    assert not ask(is_static(clip), clip, NETS)


@pytest.mark.parametrize("name", ["dynamic_degree", "motion_smoothness"])
def test_flow_networks_refuse_small_videos(name):
    with pytest.raises(ValueError, match=r"clip: .*at least 128 pixels, not 127 x 136"):
        DIMENSIONS[name](video(height=127), NETS)


def test_a_network_gets_its_rows_in_calls_of_one_shape():
    shapes = []

    def call(x):
        shapes.append(x.shape)
        return x * 2

    found = Network(call, at_once=4)(np.arange(10).reshape(5, 2))
    np.testing.assert_array_equal(found, 2 * np.arange(10).reshape(5, 2))
    assert shapes == [(4, 2), (4, 2)]


def test_calls_are_about_even_so_that_few_rows_are_filled_up():
    for count, rows in ((24, [12, 12]), (17, [12, 12]), (33, [12, 12, 12]), (16, [16])):
        spy = Spy()
        assert len(spy.networks["musiq"](np.zeros((count, 2, 2, 3)))) == count
        assert spy.rows["musiq"] == rows


def test_a_size_that_is_compiled_already_serves_fewer_rows_unless_most_are_filled_up():
    shapes = []

    def call(x):
        shapes.append(x.shape)
        return x + 1

    network = Network(call, at_once=8)
    for count in (16, 5, 11, 3):
        rows = np.arange(2 * count).reshape(count, 2)
        np.testing.assert_array_equal(network(rows), rows + 1)
    assert shapes == [(8, 2)] * 5 + [(3, 2)]
    network(np.zeros((5, 1)))
    assert shapes[-1] == (5, 1)


def test_what_is_no_number_is_refused():
    nets = {"musiq": Network(lambda frames: np.full(len(frames), np.nan))}
    with pytest.raises(ValueError, match="clip: imaging_quality is not a number"):
        DIMENSIONS["imaging_quality"](video(), nets)


def test_what_a_dimension_looks_for_must_be_known():
    with pytest.raises(ValueError, match="nothing says what color looks for"):
        DIMENSIONS["color"](video(recorded=SEEN), NETS)
    with pytest.raises(ValueError, match="no captions are recorded"):
        DIMENSIONS["scene"](video(info={"scene": INFO["scene"]}), NETS)


def test_recorded_detections_are_read_back(tmp_path):
    content = {kind: {"a-0.mp4": frames} for kind, frames in SEEN.items()}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(content))
    assert read_recorded(path) == content


FRAME = {"class": ["dog"], "box": [[0, 0, 1, 1]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be an object of objects"),
        ({"boxes": {}}, "must be an object of objects"),
        ({"objects": []}, "from file names to lists"),
        ({"objects": {"a": [FRAME] * 15}}, "each of 16 frames"),
        ({"objects": {"a": [FRAME] * 15 + [{"class": ["dog"], "box": []}]}}, "frame 15 needs"),
        ({"objects": {"a": [7] * 16}}, "frame 0 needs"),
        ({"objects": {"a": [{"class": ["dog"], "box": [[1, 2, 3]]}] * 16}}, "four numbers"),
        ({"dense_captions": {"a": [{"class": ["dog"], "caption": [1]}] * 16}}, "must be texts"),
        ({"captions": {"a": [0] * 16}}, "must be texts"),
    ],
)
def test_detections_of_another_form_are_refused(tmp_path, content, message):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_recorded(path)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    path = tmp_path / "detections.json"
    with pytest.raises(ValueError, match="cannot be read"):
        read_recorded(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_recorded(path)


class Spy:
    """Networks that note how many rows each call has."""

    def __init__(self):
        self.rows = {}
        self.networks = {n: dataclasses.replace(x, call=self._note(n, x)) for n, x in NETS.items()}

    def _note(self, name, network):
        def call(*arrays):
            self.rows.setdefault(name, []).append(len(arrays[0]))
            return network.call(*arrays)

        return call


ASKING = [d for d in DIMENSIONS.values() if d.networks]


def test_what_two_dimensions_ask_of_a_video_is_computed_once_for_both():
    spy, clip = Spy(), video(**known("appearance_style"))
    together = ask_all([(d.asking(clip, spy.networks), clip) for d in ASKING], spy.networks)
    assert together == [d(clip, NETS) for d in ASKING]
    assert spy.rows["viclip"] == spy.rows["viclip_text"] == [1]
    assert spy.rows["clip_b32"] == [10]  # two variants of five frames


def test_rows_of_all_videos_go_through_a_network_together():
    spy, clips = Spy(), [video(5), video(6), video(5, width=144)]
    subject, smooth = DIMENSIONS["subject_consistency"], DIMENSIONS["motion_smoothness"]
    pairs = [(d, clip) for d in (subject, smooth) for clip in clips]
    found = ask_all([(d.asking(clip, spy.networks), clip) for d, clip in pairs], spy.networks)
    assert spy.rows["dino"] == [11, 5]
    assert spy.rows["amt"] == [1] * 6
    for (dimension, clip), verdict in zip(pairs, found, strict=True):
        assert verdict == dimension(clip, NETS)


def test_a_text_is_encoded_once_for_all_videos_of_its_prompt():
    spy, style = Spy(), DIMENSIONS["temporal_style"]
    clips = [video(5), video(6), video(5, prompt="another one")]
    found = ask_all([(style.asking(clip, spy.networks), clip) for clip in clips], spy.networks)
    assert spy.rows["viclip_text"] == [2] and spy.rows["viclip"] == [3]
    assert found == [style(clip, NETS) for clip in clips]


def test_two_networks_work_at_the_same_time():
    both = threading.Barrier(2)

    def meet(name):
        def call(*arrays):
            both.wait(timeout=20)  # alone, neither would go on
            return NETS[name].call(*arrays)

        return dataclasses.replace(NETS[name], call=call, at_once=16)

    nets, clip = {name: meet(name) for name in ("dino", "musiq")}, video()
    two = [DIMENSIONS[name] for name in ("subject_consistency", "imaging_quality")]
    found = ask_all([(d.asking(clip, nets), clip) for d in two], nets)
    assert found == [d(clip, NETS) for d in two]


def test_an_interrupt_ends_the_other_networks_after_the_call_that_runs():
    begun, over, calls = threading.Event(), threading.Event(), []

    def interrupted(frames):
        begun.wait(timeout=20)
        raise KeyboardInterrupt

    def long(frames):
        calls.append(len(frames))
        begun.set()
        over.wait(timeout=0.5)
        return mean_colours(frames)

    nets = {"musiq": Network(interrupted), "dino": Network(long, 32, at_once=1)}
    clip = video()
    two = [DIMENSIONS[name] for name in ("imaging_quality", "subject_consistency")]
    with pytest.raises(KeyboardInterrupt):
        ask_all([(d.asking(clip, nets), clip) for d in two], nets)
    assert calls == [1]


def test_a_video_that_is_refused_leaves_the_others_their_verdicts():
    def call(frames):
        if frames.shape[1] == 128:
            raise ValueError("too low")
        return np.ones(len(frames))

    nets = {**NETS, "musiq": Network(call)}
    imaging, moving = DIMENSIONS["imaging_quality"], DIMENSIONS["dynamic_degree"]
    low, high, small = video(), video(height=136), video(height=120)
    pairs = [(d, clip) for clip in (low, high, small) for d in (imaging, moving)]
    found = ask_all([(d.asking(clip, nets), clip) for d, clip in pairs], nets)
    faults = {0: "clip: too low", 5: "clip: optical flow needs sides"}
    for i, one in enumerate(found):
        if i in faults:
            assert str(one).startswith(faults[i])
        else:
            assert one == pairs[i][0](pairs[i][1], nets)


def test_large_rows_are_fewer_in_one_call():
    spy = Spy()
    network = dataclasses.replace(spy.networks["musiq"], at_once=8, pixels=100)
    for side, rows in ((2, [8, 8]), (5, [4, 4, 4]), (20, [1] * 9)):
        spy.rows.clear()
        assert len(network(np.zeros((9, side, side, 3)))) == 9
        assert spy.rows["musiq"] == rows
