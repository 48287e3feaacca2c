"""experiments.sweep: killed, shared or continued, its table holds every row once."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from experiments import cli, sweep
from experiments.models import Models, load_search
from experiments.runs import lock
from tests.search.analytic import Exact, Flow, Linear, Mixture, direction
from tts_jax.language.stage_prompts import load_stage_prompts
from tts_jax.verifiers.panel import Panel

CONFIG = """
from configs import sweep

def get_config():
    config = sweep.get_config()
    del config.sweep.searches, config.sweep.panels
    config.mesh.branch = 1
    config.sweep.seeds = (0, 5)
    config.sweep.searches = dict(
        linear=dict(preset="random_linear", budgets=(2, 4)),
        tree=dict(
            preset="tree_of_frames", keep=(2,), judge_depths=(0,), rule="top_k",
            budgets={"small": dict(branching=(3, 1, 1)), "large": dict(branching=(4, 2, 1))},
        ),
        halving=dict(preset="successive_halving", budgets=(2,)),
    )
    config.sweep.panels = dict(reward=dict(reward=1.0), other=dict(other=1.0))
    return config
"""
PROMPTS, VERIFIERS = ["one", "two"], ["reward", "other"]
POINTS = 3 + 2 + 1  # of each panel, prompt and seed


class Opposite(Linear):
    """Likes what the other dislikes."""

    def score(self, params, frames, query):
        return -super().score(params, frames, query)


@pytest.fixture(scope="module")
def models():
    generator = Exact(Mixture.random(frames=1), Flow, 3, 1, 3)
    verifiers = [Linear(direction(3)), Opposite(direction(3), name="other")]
    return Models(
        generator=generator,
        generator_params=generator.params,
        panel=Panel(verifiers),
        verifier_params={verifier.name: {} for verifier in verifiers},
        world=None,
        stage_prompts=load_stage_prompts({"source": "prompt"}, None),
    )


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """`run(workdir, *arguments)`: the program with small models, whose programs are kept."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.py").write_text(CONFIG)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    made = load_search(cli.parse(["sweep", f"--config={folder / 'grid.py'}"]).config, models)

    def start(workdir, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "open_search", lambda *_, **__: (models, made))
            files = (f"--config={folder / 'grid.py'}", f"--prompts_file={folder / 'prompts.txt'}")
            argv = ["sweep", *files, f"--workdir={workdir}", *arguments]
            return cli.run(sweep.main, doc=sweep.__doc__, define=sweep.define, argv=argv)

    return start


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """An undisturbed sweep; not to be changed."""
    workdir = tmp_path_factory.mktemp("sweeps") / "done"
    assert run(workdir) == 0
    return workdir


def rows(workdir):
    """What is repeatable of every row."""
    found = pq.read_table(workdir / "results.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def test_the_grid_is_there_once(done):
    found = rows(done)
    keys = {(r["prompt"], r["seed"], r["search"], r["budget"], r["panel"]) for r in found}
    assert len(found) == len(keys) == len(PROMPTS) * 2 * 2 * POINTS
    assert {r["prompt"] for r in found} == set(PROMPTS) and {r["seed"] for r in found} == {0, 5}
    assert {r["budget"] for r in found if r["search"] == "linear"} == {"1", "2", "4"}


def test_fewer_branches_are_part_of_more_and_cost_their_share(done):
    for four in rows(done):
        if (four["search"], four["budget"]) != ("linear", "4"):
            continue
        same = {
            r["budget"]: r
            for r in rows(done)
            if all(r[k] == four[k] for k in ("prompt", "seed", "search", "panel"))
        }
        scores = four[f"all_score_{four['panel']}"]
        for count in (1, 2, 4):
            row = same[str(count)]
            assert row["nfe"] * 4 == four["nfe"] * count
            assert row[f"score_{four['panel']}"] == pytest.approx(max(scores[:count]))
            assert row[f"chance_score_{four['panel']}"] == pytest.approx(np.mean(scores[:count]))
            assert json.loads(row["path"])[0] == int(np.argmax(scores[:count]))


def test_what_is_held_out_is_measured_and_not_paid(done):
    by_panel = {
        r["panel"]: r
        for r in rows(done)
        if (r["prompt"], r["seed"], r["search"], r["budget"]) == ("one", 0, "linear", "4")
    }
    assert by_panel["reward"]["score_reward"] >= by_panel["other"]["score_reward"]
    assert by_panel["other"]["score_other"] >= by_panel["reward"]["score_other"]
    assert by_panel["reward"]["nfe"] == by_panel["other"]["nfe"]


def test_a_name_with_a_dot_is_weighed_by_two_underscores():
    panels = ConfigDict({"all": {"vbench__dynamic_degree": 1.0, "clip_score": 0.5}})
    assert sweep.read_weights(panels) == {"all": {"vbench.dynamic_degree": 1.0, "clip_score": 0.5}}


class Killed(BaseException):
    """What no handler catches, as a kill."""


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_killed_at_every_part_it_loses_and_doubles_nothing(run, done, tmp_path, moment):
    from experiments import table

    workdir, starts, made = tmp_path / "sweep", 0, []
    write = table.write_bytes

    def fatal(path, data):
        if path.suffix != ".parquet" or path.parent.name != "parts":
            return write(path, data)
        made.append(path.name)
        if moment == "after the rename" or made.count(path.name) == 2:
            write(path, data)
        else:
            path.with_name(f".{path.name}.1.part").write_bytes(data[: len(data) // 2])
        if moment == "after the rename" or made.count(path.name) == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "write_bytes", fatal)
        while True:
            starts += 1
            try:
                assert run(workdir) == 0
                break
            except Killed:
                pass
    parts = len(PROMPTS) * 2 * (1 + 2 * 2)
    assert starts == parts + 1
    assert rows(workdir) == rows(done)
    assert len(list((workdir / "parts").iterdir())) == parts
    assert (workdir / "results.parquet").exists() and (workdir / "report.html").exists()


HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(); input()"


def test_what_another_process_works_on_is_left_to_it_until_it_dies(run, done, tmp_path, capsys):
    workdir = tmp_path / "sweep"
    claims = workdir / "claims"
    claims.mkdir(parents=True)
    (workdir / "config.json").write_bytes((done / "config.json").read_bytes())
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", HOLD, claims / "00001-5"], **pipes) as other:
        other.stdout.readline()
        assert run(workdir) == 0
        assert "5 parts are with other processes" in capsys.readouterr().out
        assert not (workdir / "report.html").exists()
        assert not list((workdir / "parts").glob("00001-5.*"))
        other.send_signal(signal.SIGKILL)
    assert run(workdir) == 0
    assert "15 of 20 parts are done already" in capsys.readouterr().out
    assert rows(workdir) == rows(done)
    with open(claims / "00000-0", "ab") as free:
        lock(free)


def test_a_finished_sweep_only_tells_its_results_again(run, done, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in (done / "parts").iterdir()}
    assert run(done) == 0
    assert {p: p.stat().st_mtime_ns for p in (done / "parts").iterdir()} == before
    output = capsys.readouterr().out
    assert "20 of 20 parts are done already" in output and "efficiency" in output


@pytest.mark.parametrize(
    ("missing", "there"),
    [
        (["00001-5"], {("one", 0), ("one", 5)}),
        (["00001-5", "00000-5"], {("one", 0), ("two", 0)}),
    ],
)
def test_what_is_there_so_far_is_told_with_the_same_seeds_of_every_prompt(
    run, done, tmp_path, missing, there
):
    workdir = tmp_path / "sweep"
    shutil.copytree(done, workdir, ignore=shutil.ignore_patterns("results.parquet", "report.html"))
    for task in missing:
        next((workdir / "parts").glob(f"{task}.*")).unlink()
    parts = set((workdir / "parts").iterdir())
    assert run(workdir, "--so_far") == 0
    assert {(r["prompt"], r["seed"]) for r in rows(workdir)} == there
    assert (workdir / "report.html").exists() and set((workdir / "parts").iterdir()) == parts


def test_nothing_so_far_is_said(run, tmp_path, capsys):
    assert run(tmp_path / "sweep", "--so_far") == cli.EXIT_BAD_INPUT
    assert "holds no prompt with every search yet" in capsys.readouterr().err


def test_the_summary_and_the_page_hold_every_point(done):
    summary = json.loads((done / "summary.json").read_text())
    assert len(summary["points"]) == 2 * POINTS
    for point in summary["points"]:
        found = point["quality"]["score_reward"]
        assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    fits = {(s["search"], s["panel"]) for s in summary["saturation"]}
    assert fits == {("linear", "reward"), ("linear", "other")}
    curves = {f"{p}_score_{m}.{k}" for p in VERIFIERS for m in VERIFIERS for k in ("png", "svg")}
    assert {path.name for path in (done / "curves").iterdir()} == curves
    page = (done / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["points"] == summary["points"]
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.seed=7"], "holds another sweep, with other seed"),
        (["--config.sweep.searches.tree.rule=magic"], "search tree at budget large: rule 'magic'"),
        (["--config.sweep.searches.linear.budgets=(0,)"], "numbers of branches"),
        (["--config.sweep.searches.linear.preset=greedy"], "one search of preset random_linear"),
        (["--config.sweep.panels.reward.reward=-1.0"], "panel reward: the weight of verifier"),
    ],
)
def test_bad_input_is_one_line(run, done, capsys, arguments, message):
    assert run(done, *arguments) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
