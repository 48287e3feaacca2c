"""What all programs share: flags with a locked config, one-line errors, the compilation cache.

Each program keeps its flags to itself, in a `FlagValues` of its own, so that one process can hold
several programs, or run one twice.
"""

import ast
import contextlib
import importlib.util
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import configs

CONFIGS = Path(configs.__file__).parent
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class UsageError(ValueError):
    """What the user asked for cannot be done; the message is one line and says what to change."""


class RunFault(RuntimeError):
    """What was asked for could be done, but went wrong on the way; the message is one line."""


def parse(
    argv: Sequence[str],
    *,
    define: Callable[[flags.FlagValues], None] | None = None,
    config: str = "embedded.py",
) -> flags.FlagValues:
    """Reads a command line.

    Args:
      argv: the program's name and its arguments.
      define: adds the program's own flags.
      config: name of the default file in `configs`.

    Returns:
      The flags; `.config` is a locked ConfigDict with the overrides applied.

    Raises:
      UsageError: an unknown flag or field, a value of the wrong type, an unreadable config file.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show the flags and exit", short_name="h", flag_values=values)
    if define is not None:
        define(values)
    _check_config_file(argv)
    try:
        config_flags.DEFINE_config_file(
            "config",
            str(CONFIGS / config),
            "a file with get_config(); --config.a.b=value overrides one field",
            lock_config=True,
            flag_values=values,
            sys_argv=list(argv),
        )
        rest = values(list(argv))[1:]
        values.config.lock()
    except (LookupError, AttributeError) as error:
        raise UsageError(f"unknown config field: {_one_line(error)}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UsageError(_one_line(error)) from error
    except (OSError, ImportError, SyntaxError) as error:
        raise UsageError(f"the config file cannot be read: {_one_line(error)}") from error
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
    return values


def define_tensorboard(values: flags.FlagValues) -> None:
    """The flag --tensorboard, refused where there is nothing to write with."""
    flags.DEFINE_bool(
        "tensorboard",
        False,
        "also write scalars and videos for TensorBoard to <workdir>/tensorboard",
        flag_values=values,
    )
    flags.register_validator(
        "tensorboard",
        lambda wanted: not wanted or importlib.util.find_spec("tensorboardX") is not None,
        message='needs tensorboardX: pip install "tts_jax[tensorboard]"',
        flag_values=values,
    )


def _check_config_file(argv: Sequence[str]) -> None:
    """Says so plainly when --config names no file; what follows a colon is the file's argument."""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            file = (value if equals else following).partition(":")[0]
            if not Path(file).is_file():
                raise UsageError(f"config file {file!r} does not exist")


def run(
    main: Callable[[flags.FlagValues], None],
    *,
    doc: str,
    define: Callable[[flags.FlagValues], None] | None = None,
    config: str = "embedded.py",
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a program; bad input, faults and interrupts are one line on stderr.

    Args:
      main: the program, given its flags.
      doc: what --help says before the flags.
      define: adds the program's own flags.
      config: name of the default file in `configs`.
      argv: the command line; the process's by default.

    Returns:
      The exit code: 0; EXIT_BAD_INPUT, where nothing was done; EXIT_FAULT, where something failed
      on the way, or EXIT_INTERRUPTED, and what was done before stays.
    """
    argv, hook = sys.argv if argv is None else argv, sys.unraisablehook
    try:
        if threading.current_thread() is threading.main_thread():  # the only one allowed to
            signal.signal(signal.SIGTERM, _stop)
        sys.unraisablehook = partial(_stop_later, sys.unraisablehook)
        if {"-h", "--help", "-help"} & set(argv[1:]):
            print(doc.strip(), _help(define), sep="\n\n")
            return 0
        main(parse(argv, define=define, config=config))
    except KeyboardInterrupt as interrupt:
        threading.excepthook = partial(_unless_shut_down, threading.excepthook)
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return code
    finally:
        sys.unraisablehook = hook
    return 0


def _stop(number, frame):
    """Ends a terminated program like an interrupted one, so that it cleans up."""
    raise KeyboardInterrupt


def _stop_later(otherwise, unraisable):
    """Interrupts again where the interrupt came while Python could not be: in a destructor, say."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        otherwise(unraisable)


def _unless_shut_down(otherwise, failure):
    """Passes over threads of an interrupted save that find no thread left to hand work to."""
    if not (failure.exc_type is RuntimeError and "shutdown" in str(failure.exc_value)):
        otherwise(failure)


def _help(define) -> str:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config",
        "configs/embedded.py",
        "a file with get_config(); --config.a.b=value overrides one field of it",
        flag_values=values,
    )
    if define is not None:
        define(values)
    return values.get_help()


def _exit_code(error: Exception) -> int | None:
    """That of an error whose message is meant for the user; None for any other.

    The types are imported here because they bring jax, and --help needs none.
    """
    if isinstance(error, UsageError | RunFault):
        return EXIT_BAD_INPUT if isinstance(error, UsageError) else EXIT_FAULT
    if "jax" not in sys.modules:
        return None
    from tts_jax.checkpoints import CheckpointError
    from tts_jax.language.tokenizer import PromptError
    from tts_jax.media import MediaError
    from tts_jax.parallel import MeshError
    from tts_jax.search import SearchConfigError, SearchFault

    if isinstance(error, CheckpointError | PromptError | MediaError | MeshError):
        return EXIT_BAD_INPUT
    if isinstance(error, SearchConfigError):
        return EXIT_BAD_INPUT
    return EXIT_FAULT if isinstance(error, SearchFault) else None


def _one_line(error: BaseException) -> str:
    text = str(error)
    with contextlib.suppress(ValueError, SyntaxError):
        while isinstance(inner := ast.literal_eval(text), str):  # a KeyError quotes its message
            text = inner
    return " ".join(text.split()) or type(error).__name__


def use_compilation_cache() -> Path | None:
    """Keeps compiled programs between runs, in a folder of the user's, unless they chose one.

    Returns:
      The folder; None when the user has switched the cache off or it cannot be made.
    """
    import jax

    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR
        return Path(jax.config.jax_compilation_cache_dir)
    folder = user_cache() / "tts_jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def user_cache() -> Path:
    """The folder this platform keeps a user's caches in."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
