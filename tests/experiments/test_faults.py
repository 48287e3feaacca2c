"""experiments.generate, killed and starved: the same bytes in the end, or one line and a code."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from experiments import cli, generate, runs, stress
from experiments.models import Models
from tests.search.analytic import Exact, Flow, Linear, Mixture, direction
from tts_jax.language.stage_prompts import load_stage_prompts
from tts_jax.search import store
from tts_jax.verifiers.panel import Panel

PROMPT = "a red circle moving right and a blue square moving up"
TREE = (
    "--config.search.branching=(3,2,1,1,1)",
    "--config.search.image_keep=2",
    "--config.search.judge_depths=(1,2)",
    "--config.search.keep=(2,2)",
)
SMALL_TREE = (
    "--config.search.branching=(3,2,2)",
    "--config.search.image_keep=0",
    "--config.search.judge_depths=(0,1)",
    "--config.search.keep=(2,2)",
)
LINEAR = ("--config.search.preset=random_linear", "--config.search.branches=4")
REPEATABLE = (
    "config.json",
    "best.mp4",
    "best.gif",
    "contact_sheet.png",
    "report.html",
    "tree.json",
)


def command(*arguments, checkpoint="embedded"):
    return [
        "generate",
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.mesh.branch=1",
        f"--prompt={PROMPT}",
        *arguments,
    ]


def run(*arguments, **options):
    argv = command(*arguments, **options)
    return cli.run(generate.main, doc=generate.__doc__, define=generate.define, argv=argv)


def repeatable(folder):
    """Names and bytes of what the seed decides, and names of the rest."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.name in REPEATABLE else b""
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for_save(process, workdir):
    """Until some round is saved."""
    searches = workdir / ".state" / "searches"
    while process.poll() is None and not any(store.saves_in(p) for p in searches.glob("*")):
        time.sleep(0.01)


@contextlib.contextmanager
def started(*arguments, **options):
    """The program in a process of its own."""
    program = [sys.executable, "-m", "experiments.generate", *command(*arguments, **options)[1:]]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(program, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_and_interrupted_again_and_again_it_ends_with_the_same_bytes(checkpoint, tmp_path):
    workdir, undisturbed, moments = tmp_path / "run", tmp_path / "undisturbed", random.Random(0)
    assert run(*TREE, f"--workdir={undisturbed}", checkpoint=checkpoint) == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        with started(*TREE, f"--workdir={workdir}", checkpoint=checkpoint) as process:
            process.stdout.readline()  # it has the run directory
            time.sleep(moments.uniform(0, 4))
            process.send_signal(number)
            errors = process.communicate()[1].decode()
        assert "Traceback" not in errors
        if process.returncode > 0:
            assert process.returncode == cli.EXIT_INTERRUPTED
            last = errors.splitlines()[-1]
            assert last.startswith(
                f"interrupted: the same command with --workdir={workdir} goes on"
            )
    assert run(*TREE, f"--workdir={workdir}", checkpoint=checkpoint) == 0
    assert repeatable(workdir) == repeatable(undisturbed)
    assert sorted(path.name for path in workdir.iterdir()) == [
        "config.json",
        "metadata.json",
        "prompts",
    ]


class Faulty(Linear):
    """Does to the true scores what it is told."""

    def __init__(self, fault):
        super().__init__(direction(3))
        self.fault = fault

    def score(self, params, frames, query):
        return self.fault(super().score(params, frames, query))


class Lossy(Exact):
    """Loses a share of its branches."""

    share = 0.0

    def advance(self, params, condition, branch, key, segment, program=None):
        made = super().advance(params, condition, branch, key, segment, program)
        lost = jax.random.uniform(key.keys[0]) < self.share

        def lose(x):
            floating = jnp.issubdtype(x.dtype, jnp.floating)
            return jnp.where(lost, jnp.nan, x) if floating else x

        return jax.tree.map(lose, made)


@pytest.fixture
def easy(monkeypatch):
    """`easy(fault, share)`: makes programs load a small generator and one verifier, with faults."""

    def load(fault=lambda scores: scores, share=0.0):
        generator = Lossy(Mixture.random(frames=1), Flow, 3, 1, 1)
        generator.share = share
        verifier = Faulty(fault)
        models = Models(
            generator=generator,
            generator_params=generator.params,
            panel=Panel([verifier]),
            verifier_params={verifier.name: {}},
            world=None,
            stage_prompts=load_stage_prompts({"source": "prompt"}, None),
        )
        monkeypatch.setattr("experiments.models.load_models", lambda *_, **__: models)

    load()
    return load


def one_line(capsys, message):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error, error
    assert error.count("\n") == 1


def test_a_second_process_is_refused_in_one_line(easy, tmp_path, capsys):
    with runs.RunDirectory(tmp_path / "run", {}, {}):
        assert run(*LINEAR, f"--workdir={tmp_path / 'run'}") == cli.EXIT_BAD_INPUT
    one_line(capsys, "is in use by another process")


def _raise(scores):
    raise IndexError("no such\nframe")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda s: s * jnp.nan, "none of the 4 videos of prompt 0 could be judged"),
        (lambda s: s + jnp.inf, "none of the 4 videos of prompt 0 could be judged"),
        (lambda s: s[:, None], "gives scores of shape (1, 1) for 1 videos"),
        (_raise, "verifier 'reward' fails: IndexError: no such"),
    ],
)
def test_a_verifier_that_fails_is_one_line(easy, tmp_path, capsys, fault, message):
    easy(fault)
    assert run(*LINEAR, f"--workdir={tmp_path / 'run'}") == cli.EXIT_FAULT
    one_line(capsys, message)
    assert not (tmp_path / "run").exists()


def test_a_generator_without_numbers_is_one_line(easy, tmp_path, capsys):
    easy(share=1.0)
    assert run(*LINEAR, f"--workdir={tmp_path / 'run'}") == cli.EXIT_FAULT
    one_line(capsys, "none of the 4 videos of prompt 0 could be judged")


def test_branches_without_numbers_lose_and_are_recorded(easy, tmp_path):
    easy(share=0.3)
    assert run(*LINEAR, "--config.search.branches=12", f"--workdir={tmp_path / 'run'}") == 0
    tree = json.loads((tmp_path / "run" / "prompts" / "0" / "tree.json").read_text())
    lost = [node for node in tree["nodes"] if node["value"] is None]
    assert 0 < len(lost) < 12 and tree["winner"]["panel"] is not None


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_between_rounds_is_one_line_and_what_was_saved_stays(
    easy, tmp_path, monkeypatch, capsys
):
    saves, arguments = [], [*SMALL_TREE, f"--workdir={tmp_path / 'run'}"]

    def second_time(*given, save=store._save_orbax):
        saves.append(given)
        return save(*given) if len(saves) == 1 else _full()

    with monkeypatch.context() as patch:
        patch.setattr(store, "_save_orbax", second_time)
        assert run(*arguments) == cli.EXIT_FAULT
    one_line(capsys, "no space is left on the device")
    assert store.saves_in(tmp_path / "run" / ".state" / "searches" / "0") == [1]
    assert not list(tmp_path.rglob("*.part"))
    assert run(*arguments) == 0
    assert run(*SMALL_TREE, f"--workdir={tmp_path / 'undisturbed'}") == 0
    assert repeatable(tmp_path / "run") == repeatable(tmp_path / "undisturbed")


@pytest.mark.parametrize("place", ["write_bytes", "write_mp4"])
def test_a_full_disk_at_the_end_is_one_line_and_nothing_half_written(
    easy, tmp_path, monkeypatch, capsys, place
):
    monkeypatch.setattr(generate.media, place, _full)
    assert run(*LINEAR, f"--workdir={tmp_path / 'run'}") == cli.EXIT_FAULT
    one_line(capsys, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_saved_search_is_named_with_what_to_do(easy, tmp_path, monkeypatch, capsys):
    arguments = [*SMALL_TREE, f"--workdir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(generate, "_write", _full)
        assert run(*arguments) == cli.EXIT_FAULT
    capsys.readouterr()
    record = max(tmp_path.rglob("record.json"))
    record.write_bytes(record.read_bytes()[:-1])
    assert run(*arguments) == cli.EXIT_FAULT
    folder = tmp_path / "run" / ".state" / "searches" / "0"
    one_line(capsys, f"remove {folder} to start this search anew")
    shutil.rmtree(folder)
    assert run(*arguments) == 0


def test_stress_tells_which_files_differ_but_for_those_with_times(tmp_path, capsys):
    for run, seconds, extra in (("one", b"1", "a"), ("other", b"2", "b")):
        (tmp_path / run).mkdir()
        for name in ("metadata.json", "ledger.json", "tree.json", extra):
            (tmp_path / run / name).write_bytes(seconds if name != "tree.json" else b"")
    assert stress.differing(tmp_path / "one", tmp_path / "other") == ["a", "b"]
    (tmp_path / "one" / "tree.json").write_bytes(b"half")
    assert stress.differing(tmp_path / "one", tmp_path / "other") == ["a", "b", "tree.json"]
    assert stress.program(["stress", "--kills=0"]) == cli.EXIT_BAD_INPUT
    one_line(capsys, "kills")
