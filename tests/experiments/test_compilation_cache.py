"""Processes that search with the same shapes: only the first of them compiles."""

import json
import os
import subprocess
import sys

PROMPTS = "a red circle moving right", "a blue square moving up"


def compiled(checkpoint, folder, prompt):
    """What a new process that searches for a prompt compiled and found in the cache."""
    command = [
        *(sys.executable, "-m", "tests.experiments.counted"),
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.mesh.branch=1",
        "--config.search.preset=random_linear",
        "--config.search.branches=2",
        f"--prompt={prompt}",
        f"--workdir={folder / prompt}",
    ]
    env = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    ended = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing_whatever_the_prompt(checkpoint, tmp_path):
    first = compiled(checkpoint, tmp_path, PROMPTS[0])
    assert first["programs"] > 10 and first["cached"] < first["programs"] // 4
    second = compiled(checkpoint, tmp_path, PROMPTS[1])
    assert second["cached"] == second["programs"] == first["programs"]
