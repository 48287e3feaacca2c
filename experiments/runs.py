"""What goes into a run and comes out of it: prompts, and the run directory.

<workdir>/config.json metadata.json prompts/<index>/...
"""

import contextlib
import datetime
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from experiments.cli import RunFault, UsageError
from experiments.processes import Team
from tts_jax.media import write_bytes
from tts_jax.search.store import saves_in


def read_prompts(prompt: str | None, prompts_file: str | None) -> list[str]:
    """The prompts of a command line.

    Args:
      prompt: one prompt, or None.
      prompts_file: a text file with one prompt a line, or a JSON list of texts or of
        `{"prompt_en": ...}`, which is how VBench publishes its prompts; or None.

    Raises:
      UsageError: both or neither are given, an empty prompt, a file that cannot be read.
    """
    if (prompt is None) == (prompts_file is None):
        raise UsageError("give either --prompt or --prompts_file")
    if prompts_file is None:
        prompts = [prompt]
    else:
        prompts = _from_file(Path(prompts_file))
    prompts = [" ".join(text.split()) for text in prompts]
    if "" in prompts:
        where = "" if prompts_file is None else f" (number {prompts.index('')} of {prompts_file})"
        raise UsageError(f"the prompt is empty{where}")
    return prompts


def _from_file(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"prompts file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"prompts file {path} is not UTF-8 text") from error
    if path.suffix == ".json" or text.lstrip().startswith("["):
        prompts = _from_json(path, text)
    else:
        prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"prompts file {path} holds no prompt")
    return prompts


def _from_json(path: Path, text: str) -> list[str]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"prompts file {path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"prompts file {path} must hold a list")
    prompts = [e.get("prompt_en") if isinstance(e, dict) else e for e in entries]
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise UsageError(
                f'entry {index} of prompts file {path} is neither a text nor {{"prompt_en": ...}}'
            )
    return prompts


def default_workdir(name: str) -> Path:
    """`runs/<name>-<time>`, made different from what is there."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    return next(
        path for end in names if not (path := Path("runs", f"{name}-{stamp}{end}")).exists()
    )


def to_json(value: object) -> bytes:
    """Readable JSON, the same bytes for the same value; what is not finite becomes null."""
    return (json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n").encode()


def _finite(value):
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


class RunDirectory:
    """A folder that holds whole results only, and belongs to one process at a time.

    Results are made in a hidden folder inside and moved out when they are complete, so it can be
    read, or its program killed, at any moment. Searches that are not finished stay in there. The
    same run can be continued, another run cannot.

    <path>/.state/{lock,config.json,searches/<index>,results/<index>}
    """

    def __init__(
        self, path: Path | str, config: Mapping, metadata: Mapping, team: Team | None = None
    ):
        """Takes the folder; use as a context manager.

        Args:
          path: the folder; made where it is missing.
          config: what decides the results; a run with the same may be continued.
          metadata: what is good to know about this run.
          team: the processes of this run, of which the first takes the folder for all.

        Raises:
          UsageError: the folder holds another run or something else, is in use, or cannot be
            written, or is not the same for all processes.
        """
        self._team = team or Team()
        self.path = Path(path).absolute()
        self._state = self.path / ".state"
        self._config, self._metadata = to_json(config), to_json(metadata)
        self._lock, self._made = None, []
        if not self._team.leads:
            self._follow()
            return
        self._check()
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self._lock = self._take()
            self._check()
            self._tidy()
            write_bytes(self._state / "config.json", self._config)
            self._team.agree("taken", os.urandom(8).hex())
        except OSError as error:
            self.close()
            why = getattr(error.__cause__ or error, "strerror", None) or error
            raise UsageError(f"workdir {path} cannot be written: {why}") from error
        except BaseException:
            self.close()
            raise

    def _follow(self) -> None:
        """Waits until the first process has the folder."""
        self._team.agree("taken")
        if not (self._state / "lock").exists():
            raise UsageError(
                f"workdir {self.path} of process {self._team.index} is not that of process 0; "
                "choose a --workdir that all hosts see"
            )

    def _check(self) -> None:
        """Refuses a folder that is not this run's."""
        settings = self.path / "config.json"
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UsageError(f"workdir {self.path} is a file")
            if not settings.exists():
                if any(p != self._state for p in self.path.iterdir()):
                    raise UsageError(f"workdir {self.path} is not empty and holds no run")
                if not self._searches():
                    return
                settings = self._state / "config.json"
            theirs = json.loads(settings.read_bytes())
        except OSError as error:
            raise UsageError(f"workdir {self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{settings} cannot be read: {error}") from error
        if found := differences(theirs, json.loads(self._config)):
            raise UsageError(
                f"workdir {self.path} holds another run, with other {', '.join(found)}; "
                "choose another --workdir"
            )

    def _take(self) -> BinaryIO:
        """The lock file, locked for this process: its end, however it comes, frees it."""
        path = self._state / "lock"
        while True:
            self._state.mkdir(parents=True, exist_ok=True)
            try:
                file = open(path, "ab")
            except FileNotFoundError:  # another process has just cleared up
                continue
            try:
                lock(file)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            except BlockingIOError as error:
                file.close()
                raise UsageError(
                    f"workdir {self.path} is in use by another process; wait for it or choose "
                    "another --workdir"
                ) from error
            except FileNotFoundError:
                pass
            file.close()

    def _tidy(self) -> None:
        """Removes what a killed run has left, but searches that can go on."""
        shutil.rmtree(self._state / "results", ignore_errors=True)
        for left in self._state.glob(".*.part"):
            left.unlink()
        for search in self._searches():
            if self.is_done(int(search.name)):
                shutil.rmtree(search)

    def _searches(self) -> list[Path]:
        """Searches that can go on."""
        return [path for path in (self._state / "searches").glob("*") if saves_in(path)]

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind and self._team.count > 1 and self._lock:  # others may be writing still
            self._lock.close()
            self._lock = None
        self.close()

    def close(self) -> None:
        """Frees the folder, without what is not complete and what was made for nothing."""
        if self._lock is not None:
            shutil.rmtree(self._state / "results", ignore_errors=True)
            if not self._searches():
                shutil.rmtree(self._state, ignore_errors=True)
            self._lock.close()
            self._lock = None
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def folder(self, index: int) -> Path:
        """Where the results of a prompt are, or will be."""
        return self.path / "prompts" / str(index)

    def search_folder(self, index: int) -> Path:
        """Where the search for a prompt is kept until its results are there."""
        return self._state / "searches" / str(index)

    def is_done(self, index: int) -> bool:
        """Whether a prompt's results are there already."""
        return self.folder(index).is_dir()

    @contextlib.contextmanager
    def prompt(self, index: int) -> Iterator[Path]:
        """A folder to write a prompt's results to; they appear when the block ends well.

        Raises:
          RunFault: no room, or the run directory was taken meanwhile.
        """
        folder = self._state / "results" / str(index)
        try:
            folder.mkdir(parents=True)
            yield folder
            for name, data in (("config.json", self._config), ("metadata.json", self._metadata)):
                if not (self.path / name).exists():
                    own = self._state / (name if self._team.leads else f"{name}.{self._team.index}")
                    write_bytes(own, data)
                    own.rename(self.path / name)
            self.folder(index).parent.mkdir(exist_ok=True)
            folder.rename(self.folder(index))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RunFault(f"workdir {self.path} cannot be written: {_why(error)}") from error
        shutil.rmtree(self.search_folder(index), ignore_errors=True)


def _why(error: OSError) -> str:
    return (error.__cause__ or error).strerror or str(error)


try:
    import fcntl

    def lock(file: BinaryIO) -> None:
        """Locks a file for this process; BlockingIOError if another one has it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def lock(file: BinaryIO) -> None:
        """Locks a file for this process; BlockingIOError if another one has it."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error


def differences(theirs: object, ours: object, name: str = "") -> Sequence[str]:
    """Names of the fields in which two configs differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            field
            for key in keys
            for field in differences(theirs.get(key), ours.get(key), f"{name}.{key}".strip("."))
        ]
    return [] if theirs == ours else [name]
