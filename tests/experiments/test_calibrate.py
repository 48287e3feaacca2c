"""experiments.calibrate: from run directories to a calibration, a table and a picture."""

import json

import numpy as np
import pytest

from experiments import calibrate, cli
from tts_jax.search.calibration import load
from tts_jax.search.tree import Node

GENERATOR = {"name": "tiny", "checkpoint": "embedded"}
PANEL = {"verifiers": ["clip", "viclip", "look"], "weights": [0.5, 1.0, 9.0], "held_out": ["look"]}


def write_run(folder, seed=0, prompts=3, generator=GENERATOR, panel=PANEL):
    """A run of three segments: the first says little about the end, the second nearly all."""
    rng = np.random.default_rng(seed)
    for index in range(prompts):
        nodes = []
        for child in range(16):
            quality = rng.normal()
            for depth, noise in ((1, 30.0), (2, 0.1), (3, 0.0)):
                path = (child, 0, 0)[:depth]
                score = quality + noise * rng.normal()
                scores = {"clip": 3 * score, "viclip": 1 - 2 * quality + 3 * score, "look": 0.0}
                nodes.append(Node(path, path[:-1], depth - 1, scores, value=score).to_json())
        place = folder / "prompts" / str(index)
        place.mkdir(parents=True)
        tree = {"prompt": "p", "panel": panel, "nodes": nodes, "best": [0, 0, 0]}
        (place / "tree.json").write_text(json.dumps(tree))
    (folder / "config.json").write_text(json.dumps({"generator": generator, "prompts": []}))
    return folder


def run(*arguments):
    argv = ["calibrate", *arguments]
    return cli.run(calibrate.main, doc=calibrate.__doc__, define=calibrate.define, argv=argv)


def test_runs_become_a_calibration_a_table_and_a_picture(tmp_path, capsys):
    runs = [write_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    output = tmp_path / "calibration.json"
    assert run(f"--runs={runs[0]},{runs[1]}", f"--output={output}") == 0
    calibration = load(output)
    assert calibration.generator == "tiny" and calibration.segments == 3
    assert set(calibration.standards) == {"clip", "viclip"}
    first, second = calibration.depths
    assert (first.depth, first.n, first.prunes) == (1, 96, False)
    assert (second.depth, second.n, second.prunes) == (2, 96, True)
    assert second.correlation > 0.9
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "96 finished videos of 6 searches" in printed
    assert "reported only" in printed and "prunes" in printed
    again = output.read_bytes()
    assert run(f"--runs={runs[0]},{runs[1]}", f"--output={output}") == 0
    assert output.read_bytes() == again


def refused(capsys, *arguments):
    assert run(*arguments) == cli.EXIT_BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_what_cannot_be_calibrated_is_refused_in_one_line(tmp_path, capsys):
    good = write_run(tmp_path / "good")
    output = f"--output={tmp_path / 'out.json'}"
    assert "give finished runs" in refused(capsys, output)
    assert "names a run twice" in refused(capsys, f"--runs={good},{good}", output)
    assert "does not exist" in refused(capsys, f"--runs={tmp_path / 'none'}", output)
    picture = f"--output={tmp_path / 'out.png'}"
    assert "names the picture" in refused(capsys, f"--runs={good}", picture)
    nowhere = f"--output={tmp_path / 'none' / 'out.json'}"
    assert "folder of --output" in refused(capsys, f"--runs={good}", nowhere)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(generator={"name": "other", "checkpoint": "embedded"}), "another generator"),
        (dict(panel={"verifiers": ["clip"], "weights": [1.0]}), "another panel"),
        (dict(panel={"verifiers": ["clip"], "weights": []}), "panel that cannot be read"),
        (dict(prompts=0), "no finished prompt"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, capsys, options, message):
    runs = [write_run(tmp_path / "good")]
    (tmp_path / "bad").mkdir()
    runs.append(write_run(tmp_path / "bad", 1, **options))
    assert message in refused(capsys, f"--runs={runs[0]},{runs[1]}", f"--output={tmp_path}/o.json")


def test_a_file_cut_short_is_named(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    file = folder / "prompts" / "1" / "tree.json"
    file.write_text(file.read_text()[:100])
    message = refused(capsys, f"--runs={folder}", f"--output={tmp_path}/o.json")
    assert str(file) in message and "is not JSON" in message


def test_runs_that_judged_the_end_alone_say_so(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    for file in folder.glob("prompts/*/tree.json"):
        tree = json.loads(file.read_text())
        tree["nodes"] = [node for node in tree["nodes"] if len(node["path"]) == 3]
        file.write_text(json.dumps(tree))
    assert run(f"--runs={folder}", f"--output={tmp_path}/o.json") == 0
    assert "nothing to prune by" in capsys.readouterr().out
    assert load(tmp_path / "o.json").depths == () and not (tmp_path / "o.png").exists()
