"""experiments.profile: a round of a tiny search, traced, read and told."""

import json
import shutil

import pytest

from experiments import cli, profile
from experiments.trace import Call, Operation, Trace

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def first_frame(checkpoint, tmp_path_factory):
    """The checkpoint as one of videos that end after their first unit: fewer programs."""
    folder = tmp_path_factory.mktemp("checkpoints") / "first_frame"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["generator"]["sampler"]["frames"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(checkpoint, *arguments):
    argv = [
        "profile",
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.mesh.branch=1",
        "--config.search.preset=random_linear",
        "--config.search.branches=2",
        f"--prompt={PROMPT}",
        *arguments,
    ]
    return cli.run(profile.main, doc="", define=profile.define, argv=argv)


def test_one_command_tells_time_by_stage_and_layer_compilation_and_memory(
    first_frame, tmp_path, capsys
):
    output = tmp_path / "profile.json"
    assert run(first_frame, f"--output={output}", f"--trace={tmp_path / 'trace'}") == 0
    found = json.loads(output.read_text())
    told = capsys.readouterr().out
    assert [(r["to"], r["branches"], r["judges"]) for r in found["rounds"]] == [(1, 2, "panel")]
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))

    layers = {(row["stage"], row["layer"]): row for row in found["layers"]}
    judged = {("clip", "attention"), ("clip", "mlp"), ("viclip", "attention"), ("viclip", "mlp")}
    made = {("advance", "attention"), ("advance", "mlp"), ("decode", "conv"), ("decode", "norm")}
    assert judged | made <= set(layers)
    assert {stage for stage, _ in layers} >= {"expand", "prune", "flicker"}
    assert "outside programs" not in {stage for stage, _ in layers}
    for part in ("seconds", "count"):
        whole = sum(row[part] for row in found["layers"])
        assert whole == pytest.approx(sum(row[part] for row in found["operations"]))
    devices = sum(row["seconds"] for row in found["layers"])
    idle = sum(row["seconds"] for row in found["gaps"])
    assert found["busy"] + idle == pytest.approx(found["seconds"])
    assert 0 < found["busy"] <= devices * 1.001

    components = {"generator", "decode", "clip", "viclip", "flicker", "search"}
    assert components | {"elsewhere"} == set(found["compilation"])
    assert all(0 <= r["cached"] <= r["programs"] for r in found["compilation"].values())
    assert components == set(found["memory"]["programs"])
    for sizes in found["memory"]["programs"].values():
        assert 0 < sizes["peak"] <= sum(sizes.values()) - sizes["peak"]
    peaks = [moment["process"] for moment in found["memory"]["process"].values()]
    assert peaks == sorted(peaks) and peaks[0] > 1e6
    kinds = {(row["kind"], row["stage"], row["layer"]) for row in found["operations"]}
    assert {("dot_general", "clip", "mlp"), ("conv_general_dilated", "decode", "conv")} <= kinds
    longest = found["operations"][0]["name"]
    for word in ("device time by stage", longest, "from the cache", "temporaries"):
        assert word in told


def test_gaps_are_what_no_device_fills_and_say_where_they_are():
    def operation(start, end):
        return Operation("dot", "dot", "advance", "mlp", start, end, end - start)

    calls = [Call("generator", 1.0, 4.0), Call("decode", 5.0, 7.0)]
    trace = Trace(0.0, 9.0, [operation(1.5, 3.0), operation(2.0, 3.5), operation(5.0, 7.0)], calls)
    found = [(gap.where, gap.start, gap.end) for gap in trace.gaps()]
    assert found == [
        ("before generator", 0.0, 1.5),
        ("generator to decode", 3.5, 5.0),
        ("after decode", 7.0, 9.0),
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--round=1", "--round=1, but the search has the rounds 0 to 0"),
        ("--output=/no/such/folder/profile.json", "folder of --output=/no/such/folder"),
    ],
)
def test_bad_input_is_one_line(first_frame, capsys, argument, message):
    assert run(first_frame, argument) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
