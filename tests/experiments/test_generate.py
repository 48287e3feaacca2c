"""experiments.generate: what a run leaves, that it repeats, and what it says to bad input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import cli, generate, replay

PROMPT = "a red circle moving right and a blue square moving up"
FILES = ["best.gif", "best.mp4", "contact_sheet.png", "ledger.json", "report.html", "tree.json"]
SMALL = (
    "--config.search.branching=(3,1,2,1,1)",
    "--config.search.image_keep=2",
    "--config.search.judge_depths=(2,)",
    "--config.search.keep=(2,)",
)


def command(checkpoint, *arguments):
    return [
        "generate",
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.mesh.branch=1",
        *arguments,
    ]


def run(checkpoint, *arguments):
    argv = command(checkpoint, *arguments)
    return cli.run(generate.main, doc=generate.__doc__, define=generate.define, argv=argv)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def results(workdir, index=0):
    folder = workdir / "prompts" / str(index)
    return tuple(json.loads((folder / f"{name}.json").read_text()) for name in ("tree", "ledger"))


@pytest.fixture(scope="module")
def done(checkpoint, tmp_path_factory):
    """A finished run of the small tree; not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    assert run(checkpoint, *SMALL, f"--prompt={PROMPT}", f"--workdir={workdir}", "--seed=3") == 0
    return workdir


def test_a_run_directory_holds_what_the_design_says(done):
    expected = ["config.json", "metadata.json", *(f"prompts/0/{name}" for name in FILES)]
    assert sorted(contents(done)) == expected
    assert [path.name for path in done.parent.iterdir()] == ["first"]
    config = json.loads((done / "config.json").read_text())
    assert config["seed"] == 3
    assert config["prompts"] == [PROMPT]
    assert config["search"]["branching"] == [3, 1, 2, 1, 1]


def test_the_tree_holds_every_path_and_its_scores(done):
    tree, _ = results(done)
    paths = {tuple(node["path"]) for node in tree["nodes"]}
    assert {(0,), (1,), (2,)} <= paths
    finished = [node for node in tree["nodes"] if len(node["path"]) == 5]
    assert len(finished) == 2
    assert all(set(node["scores"]) == {"clip", "viclip", "flicker"} for node in finished)
    assert tree["best"] == max(finished, key=lambda node: node["value"])["path"]
    assert tree["best"] == tree["winner"]["path"]
    assert tree["single"]["path"] == [0] * 5
    assert tree["winner"]["panel"] >= tree["single"]["panel"]
    assert 0 <= tree["winner"]["oracle"]["facts"] <= 1
    assert tree["stage_prompts"][0] == "a red circle and a blue square"


def test_the_ledger_counts_the_search_and_the_single_sample_apart(done):
    tree, ledger = results(done)
    # Units grown: 3 first, 2 second, 4 third, 2 fourth and fifth; 6 denoiser calls each.
    assert ledger["search"]["generator"]["nfe"] == 6 * (3 + 2 + 4 + 2 + 2)
    assert tree["cost"]["generator"]["nfe"] == ledger["search"]["generator"]["nfe"]
    assert "seconds" not in tree["cost"]["generator"]
    among = [0] * 5 in [node["path"] for node in tree["nodes"]]
    assert (ledger["single_sample"] is None) == among
    if not among:
        assert ledger["single_sample"]["generator"]["nfe"] == 6 * 5


def test_the_pictures_show_the_winner(done):
    folder = done / "prompts" / "0"
    with Image.open(folder / "best.gif") as image:
        assert image.size == (256, 256)
    sheet = np.asarray(Image.open(folder / "contact_sheet.png"))
    assert sheet.shape[1] > 1000 and sheet.std() > 10


def test_the_same_seed_gives_the_same_bytes(done, checkpoint, tmp_path):
    arguments = [*SMALL, f"--prompt={PROMPT}", f"--workdir={tmp_path / 'again'}", "--seed=3"]
    assert run(checkpoint, *arguments) == 0
    first, second = contents(done), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    differ = {name for name in first if first[name] != second[name]}
    assert differ <= {"metadata.json", "prompts/0/ledger.json"}


def test_many_prompts_are_searched_and_a_run_is_continued(checkpoint, tmp_path, capsys):
    prompts = ["a green cross standing still", PROMPT]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    workdir = tmp_path / "run"
    arguments = [
        "--config.search.preset=random_linear",
        "--config.search.branches=2",
        f"--prompts_file={tmp_path / 'prompts.txt'}",
        f"--workdir={workdir}",
    ]
    assert run(checkpoint, *arguments) == 0
    complete = contents(workdir)
    assert [results(workdir, i)[0]["prompt"] for i in (0, 1)] == prompts
    assert "2 prompts" in capsys.readouterr().out

    shutil.rmtree(workdir / "prompts" / "1")
    assert run(checkpoint, *arguments) == 0
    continued = contents(workdir)
    assert "1 of 2 prompts are done already" in capsys.readouterr().out
    assert continued.keys() == complete.keys()
    differ = {name for name in complete if complete[name] != continued[name]}
    assert differ <= {"prompts/1/ledger.json"}


def test_the_last_lines_tell_score_grade_cost_and_place(done, checkpoint, capsys):
    arguments = [*SMALL, f"--prompt={PROMPT}", f"--workdir={done}", "--seed=3"]
    assert run(checkpoint, *arguments) == 0
    output = capsys.readouterr().out
    for word in ("winner", "single sample", "oracle", "generator", "decode", "NFE", "GFLOP"):
        assert word in output
    assert str(done / "prompts" / "0") in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --prompt or --prompts_file"),
        (["--prompt="], "the prompt is empty"),
        (["--prompt=  "], "the prompt is empty"),
        (["--prompt=a red teapot moving right"], "unknown word 'teapot'"),
        (["--prompt=a red circle"], "COLOUR SHAPE MOTION"),
        (["--prompts_file=/no/such/file"], "prompts file /no/such/file cannot be read"),
        ([f"--prompt={PROMPT}", "--config.search.depth=1"], "unknown config field"),
        ([f"--prompt={PROMPT}", "--config.search.judge_depths=(7,)"], "judge depths [7]"),
        ([f"--prompt={PROMPT}", "--config.search.branching=(0,1,1,1,1)"], "branching"),
        ([f"--prompt={PROMPT}", "--config.search.branching=(8,1,1)"], "branching has 3 entries"),
        ([f"--prompt={PROMPT}", "--config.search.branching=many"], "branching has 1 entries"),
        ([f"--prompt={PROMPT}", "--config.search.keep=('a',)"], "config.search has a field"),
        ([f"--prompt={PROMPT}", "--config.search.preset=magic"], "preset 'magic'"),
        ([f"--prompt={PROMPT}", "--config.budget.nfe=5"], "too small for one video: 30 nfe of 5"),
        ([f"--prompt={PROMPT}", "--config.mesh.branch=4096"], "4096 devices"),
        ([f"--prompt={PROMPT}", "--config.micro_batch=-1"], "micro_batch is -1"),
        ([f"--prompt={PROMPT}", "--seed=-1"], "--seed=-1"),
        ([f"--prompt={PROMPT}", "--config.seed=4294967296"], "seed 4294967296"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    checkpoint, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(checkpoint, *arguments) == cli.EXIT_BAD_INPUT
    _one_line(capsys, message)
    assert list(tmp_path.iterdir()) == []


def _one_line(capsys, message):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error, error
    assert error.count("\n") == 1


@pytest.mark.parametrize("workdir", ["file", "file/run", "/proc/run"])
def test_a_workdir_that_cannot_be_written_is_one_line(checkpoint, tmp_path, capsys, workdir):
    (tmp_path / "file").write_text("")
    place = tmp_path / workdir
    assert run(checkpoint, f"--prompt={PROMPT}", f"--workdir={place}") == cli.EXIT_BAD_INPUT
    _one_line(capsys, f"workdir {place}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_workdir_with_another_run_is_one_line_and_stays_as_it_is(done, checkpoint, capsys):
    before = contents(done)
    arguments = [*SMALL, f"--prompt={PROMPT}", f"--workdir={done}", "--seed=4"]
    assert run(checkpoint, *arguments) == cli.EXIT_BAD_INPUT
    _one_line(capsys, "holds another run, with other seed;")
    assert contents(done) == before


def _missing(folder):
    (folder / "vae.safetensors").unlink()


def _truncated(folder):
    path = folder / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _reshaped(folder):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["generator"]["transformer"]["double_blocks"] += 1
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (_missing, "vae.safetensors does not exist"),
        (_truncated, "transformer.safetensors cannot be read"),
        (_reshaped, "does not fit the model"),
    ],
)
def test_a_checkpoint_that_does_not_serve_is_one_line(
    checkpoint, tmp_path, capsys, damage, message
):
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    damage(tmp_path / "checkpoint")
    before = contents(tmp_path)
    arguments = [f"--prompt={PROMPT}", f"--workdir={tmp_path / 'run'}"]
    assert run(tmp_path / "checkpoint", *arguments) == cli.EXIT_BAD_INPUT
    _one_line(capsys, message)
    assert contents(tmp_path) == before


def test_as_a_program_bad_input_is_an_exit_code_and_a_line(checkpoint, tmp_path):
    arguments = command(checkpoint, "--prompt=a red teapot moving right")[1:]
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.generate", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == cli.EXIT_BAD_INPUT
    assert ended.stderr.splitlines()[-1].startswith("error: unknown word 'teapot'")
    assert "Traceback" not in ended.stderr and ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_branch_is_made_again_by_the_command_of_its_page(done, tmp_path, capsys):
    def again(*arguments):
        argv = ["replay", *arguments]
        return cli.run(replay.main, doc=replay.__doc__, define=replay.define, argv=argv)

    tree, _ = results(done)
    path = ",".join(map(str, tree["best"]))
    file = tmp_path / "again.mp4"
    assert again(f"--run={done}", f"--path={path}", f"--output={file}") == 0
    assert file.read_bytes() == (done / "prompts" / "0" / "best.mp4").read_bytes()
    for arguments, message in (
        ([f"--run={done}", "--path=1,x"], "path step 'x'"),
        ([f"--run={done}", "--path=0", "--prompt_index=1"], "--prompt_index=1 is not in 0..0"),
        ([f"--run={tmp_path}", "--path=0"], "cannot be read"),
        (["--path=0"], "give a run"),
    ):
        assert again(*arguments) == cli.EXIT_BAD_INPUT
        _one_line(capsys, message)
