"""Jobs of several processes on one machine: the bytes of one process, whatever ends in between."""

import json
import os
import socket
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from experiments import cli
from tests.experiments import member
from tests.experiments.test_faults import repeatable

PROMPTS = "one\ntwo\n"
FEATURES = "subject_consistency"
TREE = (
    "--config.search.branching=(3,2,1)",
    "--config.search.image_keep=0",
    "--config.search.judge_depths=(0,1)",
    "--config.search.keep=(2,2)",
)
GRID = """
from configs import sweep

def get_config():
    config = sweep.get_config()
    del config.sweep.searches, config.sweep.panels
    config.mesh.branch = 1
    config.sweep.searches = dict(linear=dict(preset="random_linear", budgets=(1,)))
    config.sweep.panels = dict(reward=dict(reward=1.0))
    config.sweep.exact = True
    return config
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """`programs(folder)`: prompts apart, one together, a sweep and VBench's, into a folder."""
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "grid.py").write_text(GRID)
    (inputs / "prompts.txt").write_text(PROMPTS)
    seen = {"scene": {"scene": {"scene": "bright"}}}
    entry = {"prompt_en": "one", "dimension": ["scene", FEATURES], "auxiliary_info": seen}
    (inputs / "info.json").write_text(json.dumps([entry, {**entry, "prompt_en": "two"}]))
    made = f"--prompts={inputs / 'info.json'}", "--config.mesh.branch=1", *TREE
    ask = "--networks=dino=any", "--detectors=captions=tests.experiments.member:caption"
    given = f"--info={inputs / 'info.json'}", "--dimensions=temporal_flickering"
    prompts = f"--prompts_file={inputs / 'prompts.txt'}"
    config = f"--config={inputs / 'grid.py'}"

    def make(folder):
        return [
            ["generate", prompts, f"--workdir={folder}/apart", "--config.mesh.branch=1", *TREE],
            ["generate", "--prompt=p", f"--workdir={folder}/all", "--config.mesh.branch=2", *TREE],
            ["sweep", config, prompts, f"--workdir={folder}/sweep"],
            ["vbench", *made, *ask, f"--workdir={folder}/suite"],
            ["vbench", f"--videos={folder}/suite/videos/base", *given, f"--workdir={folder}/given"],
        ]

    return make


def start(programs, count, **env):
    """The processes of a job, as SLURM starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env |= dict(
        JAX_NUM_CPU_DEVICES="1",
        JAX_COORDINATOR_PORT=port,
        JAX_COORDINATOR_BIND_ADDRESS=f"localhost:{port}",
        SLURM_JOB_ID="1",
        SLURM_STEP_NODELIST="localhost",
        SLURM_NTASKS=f"{count}",
        SLURM_STEP_NUM_TASKS=f"{count}",
    )
    command = [sys.executable, "-m", "tests.experiments.member", json.dumps(programs)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [
        subprocess.Popen(
            command, **pipes, env=os.environ | env | dict.fromkeys(ranks, str(number)) | own
        )
        for number in range(count)
        for ranks in [("SLURM_PROCID", "SLURM_LOCALID")]
        for own in [{"DIES": "1"} if env.get("DYING") == str(number) else {}]
    ]


def ended(processes):
    """Exit codes and what was said, when all have ended."""
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], said


def rows(folder):
    parts = sorted((folder / "suite" / "videos" / "parts").iterdir())
    paths = folder / "sweep" / "results.parquet", *parts
    found = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in found]


def suite(folder):
    paths = sorted((folder / "suite").glob("videos/*/*.mp4"))
    return [(path.parent.name, path.name, path.read_bytes()) for path in paths]


def scores(folder):
    """All that scoring writes, without the folder that records name."""
    places = [*(folder / "suite" / role for role in ("base", "searched")), folder / "given"]
    names = "eval_results.json", "table.json", "table.md", "detections.json"
    paths = [place / name for place in places for name in names if (place / name).exists()]
    return {str(p.relative_to(folder)): p.read_text().replace(str(folder), "") for p in paths}


def test_a_job_that_lost_a_process_ends_and_started_again_gives_the_bytes_of_one_process(
    programs, tmp_path
):
    for argv in programs(tmp_path / "one"):
        assert member.run(argv) == 0

    first, *_ = programs(tmp_path / "many")
    codes, said = ended(start([[*first, "--patience=10"]], 2, DYING="1"))
    assert codes == [cli.EXIT_FAULT, -9], said
    last = said[0][1].splitlines()[-1]
    assert last.startswith("error: process 1 of 2 gives no sign of life for 10 s; the same command")
    assert not (tmp_path / "many" / "apart" / "prompts" / "1").exists()

    codes, said = ended(start(programs(tmp_path / "many"), 2))
    assert codes == [0, 0], said
    assert "1 of 2 prompts are done already" in said[0][0] and "prompt" not in said[1][0]
    for name in ("apart", "all"):
        assert repeatable(tmp_path / "many" / name) == repeatable(tmp_path / "one" / name)
    assert rows(tmp_path / "many") == rows(tmp_path / "one")
    assert suite(tmp_path / "many") == suite(tmp_path / "one")
    assert len(suite(tmp_path / "one")) == 2 * 2 * 5
    assert scores(tmp_path / "many") == scores(tmp_path / "one")
    assert len(scores(tmp_path / "one")) == 2 * 4 + 3
    assert "videos | remark" not in said[1][0] and "VBench, suite" in said[0][0]


def test_four_processes_search_one_prompt_together_with_the_bytes_of_one_process(tmp_path):
    def argv(folder):
        search = "--config.search.preset=random_linear", "--config.search.branches=4"
        return ["generate", "--prompt=p", f"--workdir={folder}", "--config.mesh.branch=4", *search]

    assert member.run(argv(tmp_path / "one")) == 0
    codes, said = ended(start([argv(tmp_path / "four")], 4))
    assert codes == [0] * 4, said
    assert ["best.mp4" in out for out, _ in said] == [True, False, False, False]
    assert repeatable(tmp_path / "four") == repeatable(tmp_path / "one")
