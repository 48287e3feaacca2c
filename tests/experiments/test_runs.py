"""Prompts are read strictly, and a run directory is never half written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import RunFault, UsageError
from experiments.runs import RunDirectory, default_workdir, read_prompts, to_json


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def visible(folder):
    return [name for name in files(folder) if not name.startswith(".state")]


def write(run, index):
    with run.prompt(index) as folder:
        (folder / "best").write_text(str(index))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "one\n\n  two words \nthree"),
        ("p.json", '[{"prompt_en": "one", "dimension": ["x"]}, "two  words", "three"]'),
        ("p.txt", '\ufeff["one", "two words", "three"]'),
    ],
)
def test_a_prompts_file_is_lines_or_a_vbench_list(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    assert read_prompts(None, str(tmp_path / name)) == ["one", "two words", "three"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ("\n \n", "holds no prompt"),
        ("[]", "holds no prompt"),
        ('[{"prompt": "x"}]', "entry 0"),
        ('["x", 3]', "entry 1"),
        ('["x"', "not JSON"),
        ('["x", " "]', "empty"),
    ],
)
def test_a_prompts_file_that_makes_no_sense_is_refused(tmp_path, text, message):
    (tmp_path / "p").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_prompts(None, str(tmp_path / "p"))


def test_a_prompts_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "p").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompts(None, str(tmp_path / "p"))


@pytest.mark.parametrize("given", [(None, None), ("a", "b")])
def test_prompts_come_from_one_place(given):
    with pytest.raises(UsageError, match="either --prompt or --prompts_file"):
        read_prompts(*given)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_run_appears_with_its_first_result(tmp_path, there_before):
    path = tmp_path / "a" / "run"
    if there_before:
        path.mkdir(parents=True)
    with RunDirectory(path, {"seed": 0}, {"jax": "1"}) as run:
        with run.prompt(0) as folder:
            (folder / "best").write_text("0")
            assert not (path / "config.json").exists() and not run.folder(0).exists()
        assert visible(path) == ["config.json", "metadata.json", "prompts/0/best"]
        write(run, 1)
    assert files(tmp_path) == [
        f"a/run/{name}"
        for name in ("config.json", "metadata.json", "prompts/0/best", "prompts/1/best")
    ]
    assert not [p for p in tmp_path.rglob("*.part")]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), RunDirectory(tmp_path / "a" / "run", {}, {}) as run:
        with run.prompt(0) as folder:
            (folder / "best").write_text("half")
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_results_that_are_complete(tmp_path):
    with pytest.raises(KeyError), RunDirectory(tmp_path / "run", {}, {}) as run:
        write(run, 0)
        with run.prompt(1) as folder:
            (folder / "best").write_text("half")
            raise KeyError
    assert files(tmp_path / "run") == ["config.json", "metadata.json", "prompts/0/best"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_is_continued_with_the_same_config_only(tmp_path):
    with RunDirectory(tmp_path / "run", {"a": {"b": 1}, "c": (1, 2)}, {}) as run:
        write(run, 0)
    with RunDirectory(tmp_path / "run", {"a": {"b": 1}, "c": [1, 2]}, {}) as run:
        assert run.is_done(0) and not run.is_done(1)
        write(run, 1)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"another run, with other a\.b;"):
        RunDirectory(tmp_path / "run", {"a": {"b": 2}, "c": (1, 2)}, {})
    assert files(tmp_path) == before


def save(run, index):
    (run.search_folder(index) / "2").mkdir(parents=True)


def test_what_a_killed_run_left_is_removed_but_for_searches_that_can_go_on(tmp_path):
    path, config = tmp_path / "run", {"seed": 0}
    with RunDirectory(path, config, {}) as run:
        write(run, 0)
        save(run, 0)
        save(run, 1)
    (path / ".state" / "results" / "1").mkdir(parents=True)
    (path / ".state" / ".config.json.123.part").write_text("{")
    with RunDirectory(path, config, {}) as run:
        assert not run.search_folder(0).exists() and run.search_folder(1).exists()
        assert sorted(p.name for p in run.search_folder(1).parent.parent.iterdir()) == [
            "config.json",
            "lock",
            "searches",
        ]
        write(run, 1)
    assert files(path) == [
        *("config.json", "metadata.json", "prompts/0/best", "prompts/1/best"),
    ]
    assert not (path / ".state").exists()


def test_a_killed_run_without_results_is_continued_with_the_same_config_only(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path, {"seed": 0}, {}):
        pass
    assert not path.exists()
    with pytest.raises(KeyError), RunDirectory(path, {"seed": 0}, {}) as run:
        save(run, 0)
        raise KeyError
    with pytest.raises(UsageError, match="another run, with other seed;"):
        RunDirectory(path, {"seed": 1}, {})
    with RunDirectory(path, {"seed": 0}, {}) as run:
        assert run.search_folder(0).exists()


def test_a_run_killed_while_it_appeared_is_completed(tmp_path):
    path = tmp_path / "run"
    (path / ".state" / "results" / "0").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    with RunDirectory(path, {}, {}) as run:
        write(run, 0)
    assert files(path) == ["config.json", "metadata.json", "prompts/0/best"]


def test_one_process_at_a_time(tmp_path):
    with RunDirectory(tmp_path / "run", {}, {}) as run:
        save(run, 0)
        before = files(tmp_path)
        with pytest.raises(UsageError, match="is in use by another process"):
            RunDirectory(tmp_path / "run", {}, {})
        assert files(tmp_path) == before
    with RunDirectory(tmp_path / "run", {}, {}) as run:
        write(run, 0)


HOLD = """
import sys, time
from experiments.runs import RunDirectory
run = RunDirectory(sys.argv[1], {}, {})
print("held", flush=True)
time.sleep(60)
"""


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="is in use"):
            RunDirectory(tmp_path / "run", {}, {})
        other.kill()
        other.wait()
    with RunDirectory(tmp_path / "run", {}, {}) as run:
        write(run, 0)
    assert files(tmp_path / "run") == ["config.json", "metadata.json", "prompts/0/best"]


def test_no_room_for_results_is_one_sentence_and_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunDirectory(tmp_path / "run", {}, {}) as run:
        write(run, 0)
        save(run, 1)
        with pytest.raises(RunFault, match="cannot be written: No space left on device"):
            with run.prompt(1) as folder:
                (folder / "best").write_text("half")
                full()
        monkeypatch.setattr(Path, "rename", full)
        with pytest.raises(RunFault, match="No space left on device"):
            write(run, 1)
        assert run.search_folder(1).exists()
        assert not [name for name in files(tmp_path) if "prompts/1" in name or "results" in name]
    assert (tmp_path / "run" / ".state" / "searches" / "1").exists()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        RunDirectory(tmp_path, {}, {})
    assert files(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="workdir"):
        RunDirectory(tmp_path / place, {}, {})


def test_a_broken_config_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        RunDirectory(tmp_path, {}, {})


def test_default_workdirs_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_workdir("embedded")
    first.mkdir(parents=True)
    assert first.parts[0] == "runs" and default_workdir("embedded") != first


def test_numbers_that_json_does_not_know_become_null():
    assert json.loads(to_json({"a": [float("nan"), 1.5, float("-inf")]})) == {
        "a": [None, 1.5, None]
    }
