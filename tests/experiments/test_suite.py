"""experiments.vbench without a folder of videos: it makes them by the protocol, and compares."""

import json
import signal
import subprocess
import sys

import pytest

from experiments import cli, suite, vbench
from experiments.models import Models, load_search
from tests.search.analytic import Exact, Flow, Linear, Mixture, direction
from tts_jax.evaluation.vbench.published import PUBLISHED_ROWS
from tts_jax.evaluation.vbench.sampling import suite_names
from tts_jax.language.stage_prompts import load_stage_prompts
from tts_jax.media import read_video
from tts_jax.verifiers.panel import Panel

INFO = [
    {"prompt_en": "a quiet lake", "dimension": ["temporal_flickering"]},
    {
        "prompt_en": "a red car",
        "dimension": ["color"],
        "auxiliary_info": {"color": {"color": "red"}},
    },
    {"prompt_en": "a dog that sleeps", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a narrow street", "dimension": ["scene"]},
]
SAMPLES = 2
LAKE, DOG = (INFO[i]["prompt_en"] for i in (0, 2))
ARGUMENTS = (
    "--config.search.preset=random_linear",
    "--config.search.branches=4",
    f"--samples={SAMPLES}",
    "--dimensions=temporal_flickering",
)


def program(*arguments):
    argv = ["vbench", *arguments]
    return cli.run(vbench.main, doc=vbench.__doc__, define=vbench.define, argv=argv)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(workdir, *arguments)`: the program with small models, whose programs are kept."""
    info = tmp_path_factory.mktemp("info") / "info.json"
    info.write_text(json.dumps(INFO))
    generator = Exact(Mixture.random(frames=1), Flow, 3, 1, 3)
    verifier = Linear(direction(3))
    models = Models(
        generator=generator,
        generator_params=generator.params,
        panel=Panel([verifier]),
        verifier_params={verifier.name: {}},
        world=None,
        stage_prompts=load_stage_prompts({"source": "prompt"}, None),
    )
    made = load_search(cli.parse(["vbench", "--config.mesh.branch=1"]).config, models)

    def start(workdir, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suite, "open_search", lambda *_, **__: (models, made))
            return program(f"--info={info}", f"--workdir={workdir}", *ARGUMENTS, *arguments)

    return start


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """An undisturbed run; not to be changed."""
    workdir = tmp_path_factory.mktemp("suites") / "done"
    assert run(workdir) == 0
    return workdir


def comparison(workdir):
    """What is repeatable of it."""
    found = json.loads((workdir / "comparison.json").read_bytes())
    for costs in (*found["costs"].values(), found["times"]):
        del costs["seconds"]
    return found


def videos(workdir):
    return {p.relative_to(workdir): p.read_bytes() for p in workdir.glob("videos/*/*.mp4")}


def test_the_protocol_makes_five_videos_and_twenty_five_where_flickering_is_measured():
    found = suite.protocol(INFO, ["temporal_flickering", "scene"])
    counts = {each.prompt: each.videos for each in found}
    assert counts == {LAKE: 25, DOG: 25, "a narrow street": 5}
    twice = [*INFO, {"prompt_en": DOG, "dimension": ["scene"]}]
    assert {
        w.prompt: w.videos for w in suite.protocol(twice, ["scene", "temporal_flickering"])
    } == (counts)
    assert {w.videos for w in suite.protocol(INFO, ["scene", "color"], 3)} == {3}


def test_every_prompt_and_index_has_both_videos_under_the_names_of_vbench(done):
    names = set(suite_names([LAKE, DOG], SAMPLES))
    for role in suite.ROLES:
        assert {path.name for path in (done / "videos" / role).iterdir()} == names
        results = json.loads((done / role / "eval_results.json").read_bytes())
        (records,) = [records for _, records in results.values()]
        assert len(records) == len(names)
        assert len(read_video(done / "videos" / role / min(names))[0]) == 3


def test_the_comparison_holds_scores_intervals_and_costs(done):
    found = comparison(done)
    (row,) = found["rows"]
    assert row["dimension"] == "temporal_flickering (unfiltered)" and row["prompts"] == 2
    assert row["difference"] == pytest.approx(row["searched"] - row["base"])
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert found["times"]["nfe"] == 4 and found["times"]["flops"] >= 4
    text = (done / "comparison.md").read_text()
    assert f"{row['base']:.4f}" in text and "no published rows beside" in text
    assert not any(row.model in text for row in PUBLISHED_ROWS)


def test_the_embedded_models_go_the_whole_way(tmp_path):
    """Captions of the world, searched by the panel, on the real programs."""
    prompt, (info, detections) = "a red circle moving right", (tmp_path / n for n in ("i", "d"))
    wanted = {"scene": {"scene": {"scene": "circle"}}}
    entry = {"prompt_en": prompt, "dimension": ["scene"], "auxiliary_info": wanted}
    info.write_text(json.dumps([entry]))
    detections.write_text(json.dumps({"captions": {f"{prompt}-0.mp4": ["a red circle"] * 16}}))
    arguments = ("--config.search.preset=random_linear", "--config.search.branches=2")
    arguments += ("--config.mesh.branch=1",)
    files = (f"--info={info}", f"--detections={detections}", f"--workdir={tmp_path / 'suite'}")
    assert program(*arguments, *files, "--samples=1") == 0
    found = json.loads((tmp_path / "suite" / "comparison.json").read_bytes())
    assert [row["dimension"] for row in found["rows"]] == ["scene"]
    assert 2 < found["times"]["flops"] < 2.2  # both samples, and the verifiers
    frames, fps = read_video(tmp_path / "suite" / "videos" / "searched" / f"{prompt}-0.mp4")
    assert frames.shape[1] == frames.shape[2] == 32 and fps == 8


class Killed(BaseException):
    """What no handler catches, as a kill."""


def test_killed_at_every_video_it_ends_with_the_same_bytes(run, done, tmp_path):
    workdir, starts, write = tmp_path / "suite", 0, suite.media.write_mp4
    made = []

    def fatal(path, *arguments, **more):
        write(path, *arguments, **more)
        made.append(path)
        if made.count(path) == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite.media, "write_mp4", fatal)
        while True:
            starts += 1
            try:
                assert run(workdir) == 0
                break
            except Killed:
                pass
    assert starts == len(videos(done)) + 1
    assert videos(workdir) == videos(done) and comparison(workdir) == comparison(done)


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(); input()"


def test_a_video_that_another_process_makes_is_left_to_it_until_it_dies(
    run, done, tmp_path, capsys
):
    workdir = tmp_path / "suite"
    claims = workdir / "videos" / "claims"
    claims.mkdir(parents=True)
    (claims.parent / "config.json").write_bytes((done / "videos" / "config.json").read_bytes())
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", HOLD, claims / "00001-1"], **pipes) as other:
        other.stdout.readline()
        assert run(workdir) == 0
        assert "with other processes" in capsys.readouterr().out
        assert len(videos(workdir)) == len(videos(done)) - 2
        assert not (workdir / "comparison.json").exists()
        other.send_signal(signal.SIGKILL)
    assert run(workdir) == 0
    assert "3 of 4 videos are done already" in capsys.readouterr().out
    assert videos(workdir) == videos(done) and comparison(workdir) == comparison(done)


def test_files_that_differ_are_compared_by_the_means_of_prompts():
    base = {"a-0.mp4": 1.0, "a-1.mp4": 3.0, "b-0.mp4": 0.0, "c-0.mp4": 9.0}
    searched = {"a-1.mp4": 4.0, "a-7.mp4": 6.0, "b-3.mp4": 1.0}
    found = suite.compare(
        {"base": {"x": base}, "searched": {"x": searched}},
        {"base": {"x": 1.0, "y": 0.5}, "searched": {"x": 3.0}},
        {role: dict(nfe=n, flops=0.0, seconds=1.0) for role, n in (("base", 2), ("searched", 6))},
    )
    (row,) = found["rows"]
    assert row["prompts"] == 2 and row["interval"] == (1.0, 3.0)
    assert found["times"] == {"nfe": 3.0, "flops": None, "seconds": 1.0}


def test_published_rows_stand_beside_scores_of_the_whole_suite_only():
    table = {"rows": [], "times": {}, "costs": {}}
    final = dict.fromkeys(("quality", "semantic", "total"), 0.5)
    text = suite.markdown({**table, "final": dict.fromkeys(suite.ROLES, final)}, None)
    for row in PUBLISHED_ROWS:
        assert f"| {row.model} |" in text and row.source in text
        assert row.total == pytest.approx((4 * row.quality + row.semantic) / 5, abs=1e-4)
    assert not any(row.model in suite.markdown(table, "why") for row in PUBLISHED_ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.seed=7"], "holds another suite, with other seed"),
        (["--samples=3"], "holds another suite, with other suite"),
        (["--prompt=a dog"], "here prompts are --info's"),
    ],
)
def test_bad_input_is_one_line(run, done, capsys, arguments, message):
    assert run(done, *arguments) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_suite_without_prompts_is_refused(tmp_path, capsys):
    assert program(f"--workdir={tmp_path}") == cli.EXIT_BAD_INPUT
    assert "--info=VBench_full_info.json" in capsys.readouterr().err
    with pytest.raises(cli.UsageError, match="none of the dimensions"):
        suite.protocol(INFO, ["human_action"])
    with pytest.raises(cli.UsageError, match="cannot be the name of a file"):
        suite.protocol([{"prompt_en": "a/b", "dimension": ["scene"]}], ["scene"])
