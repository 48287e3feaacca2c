"""Findings kept in parts: shared by processes, kept through kills, the bytes of one process."""

import json
import subprocess
import sys
import threading

import pytest

from experiments import vbench
from experiments.journal import Journal
from tests.experiments.test_sweep import HOLD, Killed
from tests.experiments.test_vbench import EVERYTHING, NETWORKS, PROMPT, run, write_videos
from tts_jax import media
from tts_jax.evaluation.vbench import sampling

KEPT = ("eval_results.json", "table.json", "table.md")


@pytest.fixture
def files(tmp_path):
    """Six files, of which two belong together."""
    paths = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def share(folder, files, made, begin=0.0, stop=None):
    """Works through the files in three units, and notes what is found here."""
    own = Journal(folder, begin=begin)

    def make(unit):
        for path in unit:
            own.find(path, "name", lambda path=path: (made.append(path.name), path.name)[1])
            own.keep()
            if path.name == stop:
                raise Killed

    units = {str(start): files[start : start + 2] for start in (0, 2, 4)}
    own.work(units, lambda unit: all(own.known(path, "name") for path in unit), make)
    return {path.name: own.of(path, "name") for path in files}


def test_what_is_found_is_found_once_by_all(files, tmp_path):
    made, found = [], {}

    def work(begin):
        found[begin] = share(tmp_path, files, made, begin)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in (0.0, 0.34, 0.67)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [path.name for path in files]
    assert list(found[0.0].values()) == sorted(made) and found[0.0] == found[0.34] == found[0.67]


def test_a_unit_is_waited_for_and_taken_over_from_a_dead_process(files, tmp_path):
    made, found = [], []
    (tmp_path / "claims").mkdir()
    hold = [sys.executable, "-c", HOLD, tmp_path / "claims" / "2"]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        worker = threading.Thread(target=lambda: found.append(share(tmp_path, files, made)))
        worker.start()
        while len(made) < 4:
            assert worker.is_alive()
        assert made == ["0.mp4", "1.mp4", "4.mp4", "5.mp4"]
        other.kill()
    worker.join()
    assert made[4:] == ["2.mp4", "3.mp4"] and len(found[0]) == 6


def test_a_killed_unit_goes_on_and_a_changed_file_is_looked_at_again(files, tmp_path):
    made = []
    with pytest.raises(Killed):
        share(tmp_path, files, made, stop="2.mp4")
    share(tmp_path, files, made)
    assert made == [path.name for path in files]
    files[3].write_bytes(b"another")
    share(tmp_path, files, made)
    assert made[6:] == ["3.mp4"]


def test_scores_are_the_same_whenever_the_program_was_killed(tmp_path, monkeypatch):
    for name, count in (("VIDEOS_PER_PROMPT", 2), ("STATIC_CANDIDATES", 3)):
        monkeypatch.setattr(sampling, name, count)
    monkeypatch.setattr(vbench, "UNIT_FILES", 1)
    monkeypatch.setattr(vbench, "GROUP_BYTES", 1)
    monkeypatch.setattr(vbench, "load_networks", lambda _: NETWORKS)
    write_videos(tmp_path / "videos", sampling.suite_names([PROMPT], 3), 128, 136)
    (tmp_path / "info.json").write_text(json.dumps([EVERYTHING]))
    argv = ["--suite", f"--info={tmp_path / 'info.json'}", f"--videos={tmp_path / 'videos'}"]
    assert run(*argv, f"--workdir={tmp_path / 'one'}") == 0

    write, parts, starts = media.write_bytes, [], 0

    def fatal(path, data):
        if path.suffix != ".jsonl":
            return write(path, data)
        parts.append(path.name)
        if len(parts) % 2:  # once before and once after it is written
            write(path, data)
        raise Killed

    monkeypatch.setattr(media, "write_bytes", fatal)
    while True:
        starts += 1
        try:
            assert run(*argv, f"--workdir={tmp_path / 'many'}") == 0
            break
        except Killed:
            pass
    assert starts > 4 and set(parts) == {"static-00000.jsonl", "00000.jsonl", "00001.jsonl"}
    for name in KEPT:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
