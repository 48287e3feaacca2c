"""experiments.vbench with detectors of the user's own: here of the embedded world, by colour."""

import json
import shutil

import numpy as np
import pytest

from experiments import cli
from tests.experiments.test_vbench import run
from tts_jax import media
from tts_jax.worlds.moving_shapes import BACKGROUND, COLOURS, render

HERE = "tests.experiments.test_detectors"
FINDER = f"objects={HERE}:Finder,dense_captions={HERE}:Finder,captions={HERE}:caption"
KEPT = ("eval_results.json", "table.json", "table.md")
GROUND = np.array([BACKGROUND, *COLOURS.values()]) * 255
SHOWN = {  # what a file is named after, and what it shows
    "a red circle": "a red circle moving right",
    "a green square": "a red square moving left",
    "a circle and a square": "a yellow circle moving up and a blue square moving up",
}
FOUND = {"relationship": "on the left of", "object_a": "circle", "object_b": "square"}
INFO = [
    {"prompt_en": prompt, "dimension": list(about), "auxiliary_info": about}
    for prompt, about in {
        "a red circle": {"object_class": {"object": "circle"}, "color": {"color": "red"}},
        "a green square": {"color": {"color": "green"}, "scene": {"scene": {"scene": "red"}}},
        "a circle and a square": {
            "multiple_objects": {"object": "circle and square"},
            "spatial_relationship": {"spatial_relationship": FOUND},
        },
    }.items()
]
NAMES = [f"{prompt}-0.mp4" for prompt in SHOWN]


class Finder:
    """Finds every colour of the world, and tells a shape from how it fills its box."""

    calls = 0

    def __call__(self, frames):
        Finder.calls += 1
        distance = ((frames[..., None, :] - GROUND) ** 2).sum(-1)
        return [self._look(owner) for owner in distance.argmin(-1)]

    def _look(self, owner):
        found = {"class": [], "box": [], "caption": []}
        for number, colour in enumerate(COLOURS, 1):
            rows, columns = np.nonzero(owner == number)
            if len(rows) < owner.size / 50:
                continue
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            full = len(rows) / np.prod(box[2:] - box[:2])
            shape = "square" if full > 0.9 else "circle" if full > 0.65 else "triangle"
            found["class"].append(shape)
            found["box"].append(box)
            found["caption"].append(f"a {colour} {shape}")
        return found


def caption(frames):
    """A text for each frame."""
    return [" and ".join(found["caption"]) for found in Finder()(frames)]


def failing(frames):
    """A detector whose model is broken."""
    raise RuntimeError("no memory")


def wrong(frames):
    """A detector that answers for the whole video."""
    return {"class": ["circle"], "box": [[0, 0, 1, 1]]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("detected")
    (root / "videos").mkdir()
    for name, text in zip(NAMES, SHOWN.values(), strict=True):
        media.write_mp4(root / "videos" / name, render(text, 1), fps=8, size=64)
    (root / "info.json").write_text(json.dumps(INFO))
    return root


def score(inputs, workdir, *arguments):
    files = f"--videos={inputs / 'videos'}", f"--info={inputs / 'info.json'}"
    return run(*files, f"--workdir={workdir}", *arguments)


@pytest.fixture(scope="module")
def done(inputs):
    assert score(inputs, inputs / "done", f"--detectors={FINDER}") == 0
    return inputs / "done"


def test_a_detector_of_the_users_own_gives_the_dimensions_that_need_one(done):
    results = json.loads((done / "eval_results.json").read_text())
    assert {name: score for name, (score, _) in results.items() if "flick" not in name} == {
        "object_class": 1.0,
        "multiple_objects": 1.0,
        "color": 0.5,  # the red square is no green one
        "spatial_relationship": 1.0,
        "scene": 1.0,
    }
    recorded = json.loads((done / "detections.json").read_text())
    assert {kind: sorted(videos) for kind, videos in recorded.items()} == {
        "objects": [NAMES[2], NAMES[0]],
        "dense_captions": [NAMES[1], NAMES[0]],
        "captions": [NAMES[1]],
    }
    (first, *_) = recorded["objects"][NAMES[0]]
    assert first["class"] == ["circle"] and first.keys() == {"class", "box"}


def test_what_it_said_is_recorded_and_gives_the_same_bytes_without_it(inputs, done, tmp_path):
    before = Finder.calls
    assert score(inputs, tmp_path / "run", f"--detections={done / 'detections.json'}") == 0
    for name in KEPT:
        assert (tmp_path / "run" / name).read_bytes() == (done / name).read_bytes()
    assert Finder.calls == before and not (tmp_path / "run" / "detections.json").exists()


def test_only_what_is_not_recorded_is_asked_for(inputs, done, tmp_path):
    recorded = json.loads((done / "detections.json").read_text())
    del recorded["objects"][NAMES[0]], recorded["captions"]
    (tmp_path / "part.json").write_text(json.dumps(recorded))
    before, workdir = Finder.calls, tmp_path / "run"
    part = f"--detections={tmp_path / 'part.json'}"
    assert score(inputs, workdir, part, f"--detectors={FINDER}") == 0
    assert Finder.calls == before + 2
    for name in (*KEPT, "detections.json"):
        assert (workdir / name).read_bytes() == (done / name).read_bytes()


def test_a_run_that_goes_on_does_not_ask_again(inputs, done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    for name in (*KEPT, "detections.json"):
        (tmp_path / "run" / name).unlink()
    before = Finder.calls
    assert score(inputs, tmp_path / "run", f"--detectors={FINDER}") == 0
    assert Finder.calls == before
    for name in (*KEPT, "detections.json"):
        assert (tmp_path / "run" / name).read_bytes() == (done / name).read_bytes()


@pytest.mark.parametrize(
    ("detector", "code", "message"),
    [
        ("failing", cli.EXIT_FAULT, "fails on a circle and a square-0.mp4 with RuntimeError: no m"),
        ("wrong", cli.EXIT_FAULT, "each of 16 frames is needed, not {'class': 1 items, 'box'"),
        ("missing", cli.EXIT_BAD_INPUT, "has nothing that is named 'missing'"),
    ],
)
def test_a_broken_detector_is_one_line(inputs, tmp_path, capsys, detector, code, message):
    assert score(inputs, tmp_path, f"--detectors=objects={HERE}:{detector}") == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_no_detector_finds_is_still_said(inputs, tmp_path):
    one = f"--detectors=objects={HERE}:Finder"
    assert score(inputs, tmp_path, one) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["not_computed"]["scene"] == "no recorded captions"
    assert table["not_computed"]["color"] == "no recorded dense_captions"
