"""experiments.vbench: scores what it can of a folder of videos, and says what it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import cli, vbench
from tts_jax import media
from tts_jax.evaluation.vbench import rules, sampling
from tts_jax.evaluation.vbench.dimensions import STAND_INS, Network
from tts_jax.evaluation.vbench.scores import NAMES, final_scores

PROMPTS = ("a red car", "a dog and a cat")
INFO = [
    {
        "prompt_en": "a red car",
        "dimension": ["color"],
        "auxiliary_info": {"color": {"color": "red"}},
    },
    {
        "prompt_en": "a dog and a cat",
        "dimension": ["multiple_objects"],
        "auxiliary_info": {"multiple_objects": {"object": "dog and cat"}},
    },
]
BOTH = {"class": ["dog", "cat"], "box": [[0, 0, 9, 9], [9, 0, 18, 9]]}
INPUTS = {"videos": "videos", "detections": "detections.json", "info": "info.json"}
ONE = {"class": ["dog"], "box": [[0, 0, 9, 9]]}
RED = {"class": ["car"], "caption": ["a red car"]}
BLUE = {"class": ["car"], "caption": ["a blue car"]}


def write_videos(folder, names, height=32, width=32, frames=4):
    folder.mkdir()
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).random((frames, height, width, 3))
        media.write_mp4(folder / name, pixels, fps=8, size=0)
    return folder


def run(*arguments):
    argv = ["vbench", *arguments]
    return cli.run(vbench.main, doc=vbench.__doc__, define=vbench.define, argv=argv)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("vbench")
    names = [sampling.video_name(prompt, 0) for prompt in PROMPTS]
    write_videos(root / "videos", names)
    recorded = {
        "objects": {names[1]: [BOTH] * 4 + [ONE] * 12},
        "dense_captions": {names[0]: [RED] * 12 + [BLUE] * 4},
    }
    (root / "detections.json").write_text(json.dumps(recorded))
    (root / "info.json").write_text(json.dumps(INFO))
    return root


@pytest.fixture(scope="module")
def done(inputs):
    workdir = inputs / "run"
    argv = [f"--{name}={inputs / file}" for name, file in INPUTS.items()]
    assert run(*argv, f"--workdir={workdir}") == 0
    return workdir


def test_results_have_the_form_of_vbench(done, inputs):
    results = json.loads((done / "eval_results.json").read_text())
    assert list(results) == ["temporal_flickering (unfiltered)", "multiple_objects", "color"]
    score, records = results["temporal_flickering (unfiltered)"]
    files = sampling.find_videos(inputs / "videos")
    assert [record["video_path"] for record in records] == [str(path) for path in files]
    each = [rules.temporal_flickering(media.read_video(path)[0]).total for path in files]
    assert [record["video_results"] for record in records] == each
    assert score == pytest.approx(np.mean(each))
    assert results["multiple_objects"][0] == 0.25
    assert results["color"][0] == 0.75
    assert results["color"][1][0]["video_path"].endswith("a red car-0.mp4")


def test_the_table_says_what_is_not_computed_and_why(done):
    table = json.loads((done / "table.json").read_text())
    assert table["input"] == "custom input" and table["final"] is None
    computed = [row["dimension"].split()[0] for row in table["rows"]]
    assert sorted([*computed, *table["not_computed"]]) == sorted(NAMES)
    assert table["not_computed"]["subject_consistency"] == "no network dino"
    assert table["not_computed"]["scene"] == "no recorded captions"
    remarks = {row["dimension"]: row["remark"] for row in table["rows"]}
    assert "1 of 2 files lack a prompt" in remarks["color"]
    text = (done / "table.md").read_text()
    assert "No Quality, Semantic and Total: they are defined for the whole suite" in text
    for name in table["not_computed"]:
        assert f"| {name} | not computed |" in text


def test_a_stopped_run_goes_on_and_looks_at_changed_files_again(done, inputs, tmp_path):
    (part,) = (done / "journal").iterdir()
    lines = part.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    kept = json.loads(lines[0])
    kept["found"]["record"]["video_results"] = 0.125  # shows that it is not computed again
    changed = json.loads(lines[1])
    changed["file"][1] += 1
    changed["found"] = {"fault": "an earlier file"}
    (tmp_path / "config.json").write_bytes((done / "config.json").read_bytes())
    (tmp_path / "journal").mkdir()
    begun = f"{json.dumps(kept)}\n{json.dumps(changed)}\n"
    (tmp_path / "journal" / part.name).write_text(begun)
    argv = [f"--{name}={inputs / file}" for name, file in INPUTS.items()]
    assert run(*argv, f"--workdir={tmp_path}") == 0
    found, first = (
        json.loads((folder / "eval_results.json").read_text()) for folder in (tmp_path, done)
    )
    name = "color" if kept["what"] == "color" else "temporal_flickering (unfiltered)"
    assert found[name][1][0]["video_results"] == 0.125
    found[name] = first[name]
    assert found == first


def test_a_run_with_other_inputs_is_refused(done, inputs, capsys):
    argv = [f"--videos={inputs / 'videos'}", f"--workdir={done}"]
    assert run(*argv) == cli.EXIT_BAD_INPUT
    assert "holds scores with other networks" in capsys.readouterr().err


def test_a_prompt_for_every_file_and_prompts_by_file_are_used():
    by_file = vbench.Prompts(one="a dog", by_file={"b-0.mp4": "a cat"})
    assert [by_file.of(Path(n)) for n in ("a-0.mp4", "b-0.mp4")] == ["a dog", "a cat"]
    assert vbench.Prompts().of(Path("c-0.mp4")) == "c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dimensions=motion"], "'motion' is no VBench dimension"),
        (["--dimensions=scene"], "scene cannot be computed: no recorded captions"),
        (["--dimensions=dynamic_degree"], "no network raft"),
        (["--networks=viclip"], "name=folder"),
        (["--networks=proxy_flow_motion=somewhere"], "no network 'proxy_flow_motion'"),
        (["--suite"], "--suite needs the list of prompts"),
        (["--prompt=a", "--prompts=b"], "exclude one another"),
        (["--prompts=nowhere.json"], "nowhere.json cannot be read"),
        (["--detections=nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(inputs, tmp_path, capsys, arguments, message):
    code = run(f"--videos={inputs / 'videos'}", f"--workdir={tmp_path / 'run'}", *arguments)
    error = capsys.readouterr().err
    assert code == cli.EXIT_BAD_INPUT and message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_without_videos_and_a_broken_file_are_said(tmp_path, capsys):
    assert run(f"--workdir={tmp_path}") == cli.EXIT_BAD_INPUT
    assert run(f"--videos={tmp_path}", f"--workdir={tmp_path}") == cli.EXIT_BAD_INPUT
    (tmp_path / "a-0.mp4").write_bytes(b"no video")
    assert run(f"--videos={tmp_path}", f"--workdir={tmp_path}") == cli.EXIT_BAD_INPUT
    assert not (tmp_path / "table.md").exists()
    error = capsys.readouterr().err
    for message in ("--videos=DIR", "there is no .mp4", "a-0.mp4 cannot be read"):
        assert message in error


def test_where_nothing_can_be_computed_the_run_fails_and_the_table_says_why(tmp_path, capsys):
    videos = write_videos(tmp_path / "videos", ["a-0.mp4"], frames=1)
    workdir = tmp_path / "run"
    code = run(f"--videos={videos}", f"--workdir={workdir}", "--dimensions=temporal_flickering")
    assert code == cli.EXIT_FAULT and "no dimension" in capsys.readouterr().err
    assert (
        "a-0.mp4: temporal flickering needs at least two frames"
        in (workdir / "table.md").read_text()
    )


PROMPT = "a person is riding a bike"
EVERYTHING = {
    "prompt_en": PROMPT,
    "dimension": list(NAMES),
    "auxiliary_info": {
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
        "scene": {"scene": {"scene": "street"}},
        "appearance_style": {"appearance_style": "oil"},
    },
}


def mean(x):
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def texts(x):
    return np.tile([1.0, 0.5, 0.2], (len(x), 1))


def still(first, second):
    return np.zeros((*first.shape[:3], 2))


NETWORKS = {
    "dino": Network(mean, 32),
    "clip_b32": Network(mean, 32),
    "clip_b32_text": Network(texts),
    "aesthetic": Network(lambda x: mean(x).sum(-1), 32),
    "viclip": Network(mean, 32),
    "viclip_text": Network(texts),
    "musiq": Network(lambda x: 100 * mean(x)[:, 0]),
    "raft": Network(still),
    "amt": Network(lambda first, last: (first + last) / 2),
    "umt": Network(lambda x: np.full((len(x), 1), 3.0), 32, labels=("riding a bike",)),
}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Files, prompts and detections of a suite of one prompt, with two videos of three."""
    monkeypatch.setattr(sampling, "VIDEOS_PER_PROMPT", 2)
    monkeypatch.setattr(sampling, "STATIC_CANDIDATES", 3)
    names = sampling.suite_names([PROMPT], 3)
    files = sampling.find_videos(write_videos(tmp_path / "videos", names, 128, 136))
    car = {"class": ["person is riding bike"], "caption": ["a red one"]}
    recorded = {
        "objects": {name: [BOTH] * 16 for name in names},
        "dense_captions": {name: [car] * 16 for name in names},
        "captions": {name: ["a street"] * 16 for name in names},
    }
    return files, vbench.Prompts(entries=[EVERYTHING], suite=True), recorded


def test_a_whole_suite_has_a_total(suite):
    files, prompts, recorded = suite
    found = vbench.evaluate(files, prompts, NAMES, NETWORKS, recorded)
    table, results = found.table, found.results
    assert table["not_computed"] == {} and table["no_final"] is None
    assert {len(records) for _, records in results.values()} == {2}
    wanted = final_scores({name: score for name, (score, _) in results.items()})
    assert table["final"]["total"] == wanted.total and wanted.missing == ()
    assert f"Total {100 * wanted.total:.2f}" in vbench.markdown(table)


def test_stand_ins_are_in_the_table_and_change_neither_final_scores_nor_results(suite):
    files, prompts, recorded = suite
    alone = vbench.evaluate(files, prompts, NAMES, NETWORKS, recorded)
    both = vbench.evaluate(files, prompts, [*NAMES, *STAND_INS], NETWORKS, recorded)
    assert both.table["final"] == alone.table["final"] is not None
    assert both.results.keys() == alone.results.keys() == set(NAMES)
    rows = {row["dimension"]: row for row in both.table["rows"]}
    for name in STAND_INS:
        assert rows[name]["remark"] == "a stand-in, no dimension of VBench"
        assert rows[name]["videos"] == 3 and not rows[name]["whole"]
    assert "| proxy_sharpness |" in vbench.markdown(both.table)


def test_a_missing_file_is_said_and_leaves_no_total(suite):
    files, prompts, recorded = suite
    found = vbench.evaluate(files[1:], prompts, NAMES, NETWORKS, recorded)
    table, results = found.table, found.results
    assert table["final"] is None and "subject_consistency" in table["no_final"]
    remarks = {row["dimension"]: row["remark"] for row in table["rows"]}
    assert remarks["subject_consistency"] == "1 of 2 files are missing"
    assert len(results["subject_consistency"][1]) == 1


def test_without_the_static_filter_flickering_is_no_score_of_the_suite(suite):
    files, prompts, recorded = suite
    networks = {name: network for name, network in NETWORKS.items() if name != "raft"}
    found = vbench.evaluate(files, prompts, NAMES, networks, recorded)
    table, results = found.table, found.results
    assert "temporal_flickering (unfiltered)" in results and table["final"] is None
    assert "dynamic_degree" in table["no_final"] and "temporal_flickering" in table["no_final"]


def test_what_the_static_filter_drops_is_not_scored(suite):
    files, prompts, recorded = suite
    first = media.read_video(files[0])[0][0].astype(np.float32)

    def flow(a, b):
        moving = np.abs(a[0] - first).max() == 0
        return np.full((*a.shape[:3], 2), 9.0 if moving else 0.0)

    networks = {**NETWORKS, "raft": Network(flow)}
    results = vbench.evaluate(files, prompts, ["temporal_flickering"], networks, recorded).results
    scored = [Path(r["video_path"]) for r in results["temporal_flickering"][1]]
    assert scored == files[1:]


def test_several_processes_average_otherwise(suite):
    files, prompts, recorded = suite
    one, several = (
        vbench.evaluate(
            files, prompts, ["appearance_style"], NETWORKS, recorded, several_processes=flag
        ).results["appearance_style"]
        for flag in (False, True)
    )
    assert one[1] == several[1]
    assert several[0] == pytest.approx(np.mean([r["cur_sim"] for r in one[1]]))
    assert one[0] == pytest.approx(np.mean([r["video_results"] for r in one[1]]))


@pytest.mark.parametrize("size", [1, 1 << 24])
def test_a_file_is_read_once_and_groups_change_no_score(suite, monkeypatch, size):
    files, prompts, recorded = suite
    prompts = vbench.Prompts(entries=prompts.entries, one=PROMPT)
    apart = {}
    for name in NAMES:
        apart |= vbench.evaluate(files, prompts, [name], NETWORKS, recorded).results
    read, rows, seen = media.read_video, [], []

    def count(x):
        rows.append(len(x))
        return mean(x)

    monkeypatch.setattr(vbench, "GROUP_BYTES", size)
    monkeypatch.setattr(media, "read_video", lambda path: (seen.append(path), read(path))[1])
    networks = {**NETWORKS, "dino": Network(count, 32)}
    assert vbench.evaluate(files, prompts, NAMES, networks, recorded).results == apart
    assert seen == files
    assert rows == ([4, 4, 4] if size == 1 else [12])


def test_a_group_goes_through_networks_in_sizes_of_its_own(suite, monkeypatch):
    """Or bytes would depend on who judged what before."""
    files, prompts, recorded = suite
    prompts, sizes = vbench.Prompts(one=PROMPT), []
    monkeypatch.setattr(vbench, "GROUP_BYTES", 2 * media.read_video(files[0])[0].nbytes)

    def call(x):
        sizes.append(len(x))
        return mean(x)

    networks = {"dino": Network(call, 32)}
    vbench.evaluate(files, prompts, ["subject_consistency"], networks, recorded)
    assert sizes == [8, 4]  # and not 8 again
