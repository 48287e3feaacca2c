"""experiments.vbench on a list of prompts: videos made, shared, continued, scored and compared."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import cli, models, suite, suite_report, vbench
from experiments.models import load_search
from tests.experiments import member
from tests.experiments.test_generate import command
from tests.experiments.test_processes import TREE
from tests.experiments.test_sweep import HOLD, Killed
from tests.experiments.test_vbench import EVERYTHING, NETWORKS, PROMPT
from tests.search.analytic import Exact, Flow, Mixture
from tts_jax.evaluation.vbench import sampling
from tts_jax.evaluation.vbench.comparison import compare
from tts_jax.evaluation.vbench.published import ROWS, SUITE, beside, digest
from tts_jax.evaluation.vbench.scores import NAMES, final_scores

FLICKERING = "temporal_flickering (unfiltered)"
STILL = "a bench in the rain"
ENTRIES = [EVERYTHING, {"prompt_en": STILL, "dimension": ["temporal_flickering"]}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(workdir, *arguments)`: the program on two prompts, with tiny models and networks."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "info.json").write_text(json.dumps(ENTRIES))
    config = cli.parse(["vbench", "--config.mesh.branch=1", *TREE]).config
    generator = Exact(Mixture.random(frames=1), Flow, 3, 1, 3)
    loaded = member.load(config, [], mesh=models.mesh_of(config))
    made = replace(loaded, generator=generator, generator_params=generator.params)
    search = load_search(config, made)

    def start(workdir, *arguments, networks=()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "VIDEOS_PER_PROMPT", 2)
            patch.setattr(sampling, "STATIC_CANDIDATES", 3)
            patch.setattr(suite, "open_search", lambda *_, **__: (made, search))
            patch.setattr(vbench, "load_networks", lambda _: {n: NETWORKS[n] for n in networks})
            files = f"--prompts={folder / 'info.json'}", f"--workdir={workdir}"
            argv = ["vbench", "--config.mesh.branch=1", *TREE, *files, *arguments]
            return cli.run(vbench.main, doc=vbench.__doc__, define=vbench.define, argv=argv)

    return start


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """An undisturbed run with a network; not to be changed."""
    workdir = tmp_path_factory.mktemp("suites") / "done"
    assert run(workdir, networks=("dino",)) == 0
    return workdir


def videos(workdir):
    return {
        str(path.relative_to(workdir)): path.read_bytes() for path in workdir.glob("videos/*/*.mp4")
    }


def comparison(workdir):
    return json.loads((workdir / "comparison.json").read_text())


def rows_of(workdir):
    paths = sorted((workdir / "videos" / "parts").iterdir())
    found = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return found


def rows(workdir):
    """What is repeatable of every row."""
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows_of(workdir)]


def test_videos_have_the_names_numbers_and_seeds_of_the_protocol(done):
    wanted = [f"{prompt}-{i}.mp4" for prompt in (PROMPT, STILL) for i in range(3)]
    for role in suite.ROLES:
        assert sorted(path.name for path in (done / "videos" / role).iterdir()) == sorted(wanted)
    assert [(r["prompt"], r["video"], r["seed"]) for r in rows(done)] == [
        (prompt, i, i) for prompt in (PROMPT, STILL) for i in range(3)
    ]
    other = suite.Clip(PROMPT, 0, 2).seed(1)
    assert other == sampling.STATIC_CANDIDATES + 2
    several = suite.protocol([EVERYTHING, *ENTRIES], ["color"])
    assert [clip.index for clip in several] == list(range(5))


def test_the_base_video_is_the_first_sample_of_the_search_from_the_same_seed(done):
    assert {row["base_path"] for row in rows(done)} == {"[0, 0, 0]"}
    won = {row["searched_path"] for row in rows(done)}
    assert len(won) > 1
    for row in rows(done):
        name = sampling.video_name(row["prompt"], row["video"])
        base, searched = ((done / "videos" / r / name).read_bytes() for r in suite.ROLES)
        assert base == searched or row["searched_path"] != row["base_path"]
    assert len(set(videos(done).values())) > 1


def test_a_sample_costs_one_video_and_the_search_what_its_tree_grows(done):
    costs = comparison(done)["costs"]
    base, searched = (costs[role]["generator"] for role in suite.ROLES)
    assert base["nfe"] == 6 * 9 and searched["nfe"] == 6 * 3 * (3 + 2 * 2 + 2)
    assert base["flops"] * 9 == pytest.approx(searched["flops"] * 3)
    assert costs["base"]["verifiers"]["seconds"] == 0 < costs["searched"]["verifiers"]["seconds"]
    for own in costs.values():
        assert own["total"]["nfe"] == sum(own[part]["nfe"] for part in suite.COMPONENTS)


def test_both_sets_are_scored_in_the_form_of_vbench_and_compared(done):
    table = comparison(done)
    found = {
        role: json.loads((done / role / "eval_results.json").read_text()) for role in suite.ROLES
    }
    compared = {row["dimension"]: row for row in table["rows"]}
    assert list(compared) == list(found["base"])
    assert list(compared) == ["subject_consistency", FLICKERING]
    row = compared[FLICKERING]
    means = [
        [
            np.mean([r["video_results"] for r in records if f"/{prompt}-" in r["video_path"]])
            for prompt in (PROMPT, STILL)
        ]
        for _, records in (found[role][FLICKERING] for role in suite.ROLES)
    ]
    assert row["prompts"] == 2 and row["base"] == found["base"][FLICKERING][0]
    difference = np.subtract(*means[::-1])
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["difference_interval"] == pytest.approx([difference.min(), difference.max()])
    text = (done / "comparison.md").read_text()
    for part in ("| base | generator |", "the list of prompts is not VBench's", "dynamic_degree"):
        assert part in text
    assert table["published"]["rows"] == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_file_it_ends_with_the_same_bytes(run, done, tmp_path, moment):
    from experiments import table
    from tts_jax import media

    workdir, starts, made = tmp_path / "run", 0, []
    writes = {module: module.write_bytes for module in (table, media)}

    def fatal(module):
        def write(path, data):
            if path.parent.parent != workdir / "videos":
                return writes[module](path, data)
            made.append(path)
            if made.count(path) == 2 or moment == "after":
                writes[module](path, data)
            if made.count(path) == 1:
                raise Killed

        return write

    with pytest.MonkeyPatch.context() as patch:
        for module in writes:
            patch.setattr(module, "write_bytes", fatal(module))
        while True:
            starts += 1
            try:
                assert run(workdir) == 0
                break
            except Killed:
                pass
    assert starts == 1 + 3 * 6
    assert videos(workdir) == videos(done) and rows(workdir) == rows(done)
    assert not (workdir / "videos" / "searches").exists()


def test_other_networks_score_the_same_videos_anew(run, done, tmp_path, capsys):
    assert run(tmp_path / "run") == 0
    assert [row["dimension"] for row in comparison(tmp_path / "run")["rows"]] == [FLICKERING]
    capsys.readouterr()
    assert run(tmp_path / "run", "--networks=dino=there", networks=("dino",)) == 0
    assert "6 of 6 videos are done already" in capsys.readouterr().out
    assert comparison(tmp_path / "run")["rows"] == comparison(done)["rows"]


def test_a_search_goes_on_with_the_rounds_that_are_kept(run, done, tmp_path):
    from tts_jax.search.store import RoundStore

    save, workdir = RoundStore.save, tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:

        def last(self, saved):
            save(self, saved)
            raise Killed

        patch.setattr(RoundStore, "save", last)
        with pytest.raises(Killed):
            run(workdir)
    assert [path.name for path in (workdir / "videos" / "searches").iterdir()] == ["00000-00"]
    assert run(workdir) == 0
    assert videos(workdir) == videos(done) and rows(workdir) == rows(done)


def test_what_another_process_makes_is_left_to_it(run, done, tmp_path, capsys):
    workdir = tmp_path / "run"
    claims = workdir / "videos" / "claims"
    claims.mkdir(parents=True)
    (claims.parent / "config.json").write_bytes((done / "videos" / "config.json").read_bytes())
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    hold = [sys.executable, "-c", HOLD, claims / "00001-02"]
    with subprocess.Popen(hold, **pipes) as other:
        other.stdout.readline()
        assert run(workdir) == 0
        assert "1 videos are with other processes" in capsys.readouterr().out
        assert not (workdir / "comparison.md").exists()
        other.kill()
    assert run(workdir) == 0
    assert "5 of 6 videos are done already" in capsys.readouterr().out
    assert videos(workdir) == videos(done)


def test_a_checkpoint_goes_the_whole_way(checkpoint, tmp_path):
    """A caption of the world, searched by a panel, on the real programs."""
    prompt = "a red circle moving right"
    wanted = {"scene": {"scene": {"scene": "circle"}}}
    entry = {"prompt_en": prompt, "dimension": ["scene"], "auxiliary_info": wanted}
    files = [tmp_path / name for name in ("info.json", "base.json", "searched.json")]
    said = "a red circle", "a dog"
    for path, content in zip(
        files,
        ([entry], *({"captions": {f"{prompt}-0.mp4": [text] * 16}} for text in said)),
        strict=True,
    ):
        path.write_text(json.dumps(content))
    info, *detections = files
    argv = command(checkpoint, f"--prompts={info}", f"--workdir={tmp_path / 'run'}", "--samples=1")
    argv += [f"--detections={','.join(map(str, detections))}"]
    argv += ["--config.search.preset=random_linear", "--config.search.branches=2"]
    assert cli.run(vbench.main, doc=vbench.__doc__, define=vbench.define, argv=argv) == 0
    table = comparison(tmp_path / "run")
    assert [(row["dimension"], row["base"], row["searched"]) for row in table["rows"]] == [
        ("scene", 1.0, 0.0)
    ]
    costs = {role: cost["total"]["flops"] for role, cost in table["costs"].items()}
    assert costs["searched"] > 2 * costs["base"] > 0  # both samples, and the verifiers
    assert table["seconds"] == table["size"][0] / 8


def test_files_that_differ_are_compared_by_the_means_of_prompts():
    base = {"a-0.mp4": 1.0, "a-1.mp4": 3.0, "b-0.mp4": 0.0, "c-0.mp4": 9.0}
    searched = {"a-1.mp4": 4.0, "a-7.mp4": 6.0, "b-3.mp4": 1.0}
    scores = {"base": {"x": 1.0, "y": 0.5}, "searched": {"x": 3.0}}
    values = {"base": {"x": base, "y": base}, "searched": {"x": searched}}
    (row,) = compare(values, scores)
    assert row["prompts"] == 2 and row["difference"] == 2
    assert row["difference_interval"] == (1.0, 3.0)
    assert (row["base"], row["searched"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.seed=7"], "holds another suite, with other seed"),
        (["--config.seed=4000000000"], "seed 4000000000 is not in 0.."),
        (["--info=nowhere.json"], "a second list of prompts are of --videos"),
        (["--dimensions=scene"], "scene cannot be computed: no recorded captions"),
        (["--detections=one.json"], "--detections=BASE.json,SEARCHED.json"),
    ],
)
def test_bad_input_is_one_line(run, done, capsys, arguments, message):
    assert run(done, *arguments) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_prompt_that_cannot_be_a_file_is_said():
    for prompt in ("cats/dogs", "x" * 300, ""):
        with pytest.raises(cli.UsageError, match="cannot be the name of a file"):
            suite.protocol([{"prompt_en": prompt, "dimension": ["color"]}], ["color"])


def table_of(whole, final=None):
    rows = [{"dimension": name, "whole": name in whole, "score": 0.5} for name in NAMES]
    return {"rows": rows, "final": final, "no_final": "some are missing"}


def test_published_rows_stand_beside_scores_of_the_same_protocol_only(monkeypatch):
    from tts_jax.evaluation.vbench import published

    scored = {"base": table_of(NAMES, {"total": 1}), "searched": table_of(NAMES, {"total": 1})}
    assert beside(ENTRIES, scored, 2.0).why_not == ("the list of prompts is not VBench's",)
    monkeypatch.setattr(published, "SUITE", digest(ENTRIES))
    whole = beside(ENTRIES[::-1], scored, 2.0)
    assert whole.final and whole.dimensions == NAMES
    assert {row.model for row in whole.rows} == {row.model for row in ROWS if not row.differs}
    assert any("rewritten prompts" in why for why in whole.why_not)
    part = beside(ENTRIES, {**scored, "searched": table_of(["color"])}, 2.0)
    assert part.dimensions == ("color",) and not part.final
    assert part.why_not[0] == "final scores: the searched videos have none"
    found = beside(ENTRIES, scored, 6.0)
    assert not found.rows and not found.dimensions and "VBench-Long" in found.why_not[0]


def test_the_report_prints_published_rows_beside_both_sets(monkeypatch, done):
    from tts_jax.evaluation.vbench import published

    monkeypatch.setattr(published, "SUITE", digest(ENTRIES))
    final = dict(quality=0.5, semantic=0.25, total=0.45)
    for whole, own in ((NAMES, final), (["color"], None)):
        one = SimpleNamespace(table=table_of(whole, own), values={name: {} for name in NAMES})
        config = cli.parse(["vbench", "--config.verifiers[0].name=vbench.scene"]).config
        report = suite_report.report(
            config, ENTRIES, rows_of(done), dict.fromkeys(suite.ROLES, one)
        )
        text = suite_report.markdown(report)
        assert ("| this run, searched |" in text) and "| ModelScope |" in text
        assert ("| NOVA 0.6B |" in text) == (own is not None)  # it has no row of dimensions
        assert "VBench's own measure, vbench.scene: what it reaches is an upper bound" in text
        assert "CogVideoX-2B, Video-T1's search" in text and "81.72" in text
        assert ("| 45.00 | 50.00 | 25.00 |" in text) == (own is not None)


def test_published_rows_give_their_own_final_scores():
    for row in ROWS:
        assert (4 * row.quality + row.semantic) / 5 == pytest.approx(row.total, abs=0.011)
        if row.dimensions:
            found = final_scores({name: score / 100 for name, score in row.dimensions.items()})
            finals = (found.total, found.quality, found.semantic)
            assert np.multiply(finals, 100) == pytest.approx(
                [row.total, row.quality, row.semantic], abs=0.011
            )
    assert len(SUITE) == 64
