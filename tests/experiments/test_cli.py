"""Programs share one way to read a command line and to say what is wrong with it."""

import gc
import signal
import threading
import time

import jax
import pytest

from experiments import cli
from tts_jax.checkpoints import CheckpointError

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    search = dict(preset="tree", branching=(4, 1))
    judges = (dict(name="clip", weight=1.0),)
    return ConfigDict(dict(seed=0, rate=0.5, search=search, judges=judges))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return f"--config={path}"


def run(arguments, main=lambda options: None):
    return cli.run(main, doc="What it does.", argv=["program", *arguments])


def test_overrides_reach_the_config_and_a_process_can_run_twice(config):
    for weight in (2.0, 3.0):
        argv = ["program", config, f"--config.judges[0].weight={weight}", "--config.seed=7"]
        options = cli.parse([*argv, "--config.search.branching=(3, 2)"])
        assert options.config.judges[0]["weight"] == weight
        assert options.config.seed == 7
        assert options.config.search.branching == (3, 2)
        assert options.config.is_locked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.search.branchin=(1,)"], "unknown config field: 'branchin' Did you mean"),
        (["--config.nothing=1"], "unknown config field"),
        (["--config.judges[4].weight=1"], "unknown config field"),
        (["--config.seed=many"], "flag --config.seed=many: invalid literal"),
        (["--config.seed"], "Missing value for flag --config.seed"),
        (["--nothing=1"], "Unknown command line flag 'nothing'"),
        (["word"], "unexpected argument 'word'"),
        (["--config=/no/such/file.py"], "config file '/no/such/file.py' does not exist"),
        (["--config"], "config file '' does not exist"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(config, capsys, arguments, message):
    given = arguments if arguments[0].startswith("--config=") else [config, *arguments]
    assert run(given) == cli.EXIT_BAD_INPUT
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1 and output.out == ""


def test_a_config_file_with_a_mistake_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.py").write_text("def get_config(: pass")
    assert run([f"--config={tmp_path / 'bad.py'}"]) == cli.EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: the config file cannot be read: invalid syntax (bad.py, line 1)\n"
    )


def test_a_fault_of_the_input_is_one_line_and_a_mistake_of_ours_is_not(config, capsys):
    def fail(error):
        def main(options):
            raise error

        return main

    assert run([config], fail(CheckpointError("no\nsuch file"))) == cli.EXIT_BAD_INPUT
    assert capsys.readouterr().err == "error: no such file\n"
    with pytest.raises(ValueError, match="ours"):
        run([config], fail(ValueError("ours")))


def test_an_interrupted_run_says_so(config, capsys):
    def main(options):
        raise KeyboardInterrupt

    assert run([config], main) == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_help_tells_what_the_program_does(capsys):
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("What it does.") and "--config" in output


@pytest.fixture
def cache(monkeypatch):
    """The compilation cache as in a new process, put back afterwards."""
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


def test_the_compilation_cache_is_in_the_users_cache_folder(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "user_cache", lambda: tmp_path)
    assert cli.use_compilation_cache() == tmp_path / "tts_jax" / "xla"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "tts_jax" / "xla")


def test_the_users_own_choice_of_compilation_cache_stands(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "user_cache", lambda: tmp_path / "not here")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert cli.use_compilation_cache() == tmp_path
    jax.config.update("jax_enable_compilation_cache", False)
    assert cli.use_compilation_cache() is None
    assert not (tmp_path / "not here").exists()


def test_a_cache_that_cannot_be_made_is_done_without(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli, "user_cache", lambda: tmp_path / "file")
    assert cli.use_compilation_cache() is None


def test_the_cache_folder_follows_the_platform(monkeypatch):
    monkeypatch.setattr(cli.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cli.user_cache()) == "/somewhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cli.user_cache().name == ".cache"


def test_threads_that_an_interrupt_cuts_off_say_nothing(config, monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", said.append)

    def main(_):
        raise KeyboardInterrupt

    assert run([config], main) == cli.EXIT_INTERRUPTED
    late = RuntimeError("cannot schedule new futures after interpreter shutdown")
    for error in (late, RuntimeError("another"), ValueError("shutdown")):
        thread = threading.Thread(target=lambda error=error: raise_(error))
        thread.start()
        thread.join()
    assert [str(failure.exc_value) for failure in said] == ["another", "shutdown"]


def raise_(error):
    raise error


def test_an_interrupt_is_not_lost_where_python_ignores_exceptions(config):
    def interrupt(*_):
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGTERM)

    def main(options):
        gc.callbacks.append(interrupt)
        gc.collect()
        time.sleep(30)

    start = time.monotonic()
    assert run([config], main) == cli.EXIT_INTERRUPTED
    assert time.monotonic() - start < 20
