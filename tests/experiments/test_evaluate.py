"""experiments.evaluate: its table holds together, and it goes on where it was stopped."""

import json

import pytest

from experiments import cli, evaluate

SMALL = (
    "--config.evaluation.captions=2",
    "--config.evaluation.linear=(2,4)",
    "--config.evaluation.trees.tof_4.branching=(2,1,2,1,1)",
    "--config.evaluation.exact=true",  # few programs to compile
)


def run(checkpoint, workdir, *arguments):
    argv = [
        "evaluate",
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.mesh.branch=1",
        *SMALL,
        f"--workdir={workdir}",
        *arguments,
    ]
    return cli.run(evaluate.main, doc=evaluate.__doc__, define=evaluate.define, argv=argv)


@pytest.fixture(scope="module")
def done(checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "evaluate"
    assert run(checkpoint, workdir) == 0
    return workdir


def rows(workdir):
    return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def without_seconds(row):
    for search in row["searches"].values():
        del search["seconds"]
    return row


def test_every_search_is_measured_on_every_caption(done):
    found = rows(done)
    assert len({row["caption"] for row in found}) == 2
    for row in found:
        assert list(row["searches"]) == [
            "single",
            "linear_2",
            "chance_2",
            "oracle_2",
            "linear_4",
            "chance_4",
            "oracle_4",
            "tof_4",
            "tof_8",
        ]


def test_controls_enclose_what_the_panel_picks(done):
    for row in rows(done):
        searches = row["searches"]
        for n in (2, 4):
            chance, picked, best = (searches[f"{k}_{n}"] for k in ("chance", "linear", "oracle"))
            assert (best["success"], best["facts"]) >= (picked["success"], picked["facts"])
            assert best["facts"] >= chance["facts"] - 1e-9 or best["success"] == 1
            assert picked["nfe"] == n * searches["single"]["nfe"]
            assert picked["flops"] == pytest.approx(n * searches["single"]["flops"])


def test_the_table_is_the_mean_of_the_rows(done):
    table = json.loads((done / "table.json").read_text())
    assert table["captions"] == 2
    for line in table["rows"]:
        values = [row["searches"][line["search"]]["facts"] for row in rows(done)]
        assert line["facts"] == pytest.approx(sum(values) / 2)
        low, high = line["facts_interval"]
        assert low <= line["facts"] <= high
    assert (done / "table.md").read_text().count("\n") == 2 + len(table["rows"])
    assert (done / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_evaluation_goes_on(done, checkpoint, tmp_path):
    workdir = tmp_path / "evaluate"
    workdir.mkdir()
    (workdir / "config.json").write_bytes((done / "config.json").read_bytes())
    first, second = (done / "results.jsonl").read_text().splitlines(keepends=True)
    (workdir / "results.jsonl").write_text(first + second[: len(second) // 2])
    assert run(checkpoint, workdir) == 0
    assert rows(workdir)[0] == rows(done)[0]
    assert without_seconds(rows(workdir)[1]) == without_seconds(rows(done)[1])


def test_another_config_is_refused(done, checkpoint, capsys):
    assert run(checkpoint, done, "--config.seed=5") == 2
    assert "another config" in capsys.readouterr().err
