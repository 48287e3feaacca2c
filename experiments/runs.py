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

from experiments.cli import UsageError
from tts_jax.media import write_bytes


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
    """A folder that holds whole results only.

    Results are written beside it and moved in when they are complete, so it can be read, or its
    program killed, at any moment. The same run can be continued in it, another run cannot.
    """

    def __init__(self, path: Path | str, config: Mapping, metadata: Mapping):
        """Checks that results can go there; use as a context manager.

        Args:
          path: the folder; made with the first result.
          config: what decides the results; a run with the same may be continued.
          metadata: what is good to know about this run.

        Raises:
          UsageError: the folder holds another run or something else, or cannot be written.
        """
        self.path = Path(path).absolute()
        self._config, self._metadata = to_json(config), to_json(metadata)
        self._check()
        self._made = [p for p in (self.path.parent, *self.path.parents) if not p.exists()]
        inside = self.path.is_dir()
        parent = self.path if inside else self.path.parent
        self._staging = parent / f".{self.path.name}.{os.getpid()}.part"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._clear(parent)
            self._staging.mkdir()
        except OSError as error:
            self.close()
            raise UsageError(f"workdir {path} cannot be written: {error.strerror}") from error

    def _check(self) -> None:
        settings = self.path / "config.json"
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UsageError(f"workdir {self.path} is a file")
            if not settings.exists():
                if any(not p.name.endswith(".part") for p in self.path.iterdir()):
                    raise UsageError(f"workdir {self.path} is not empty and holds no run")
                return
            theirs = json.loads(settings.read_bytes())
        except OSError as error:
            raise UsageError(f"workdir {self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{settings} cannot be read: {error}") from error
        if differences := _differences(theirs, json.loads(self._config)):
            raise UsageError(
                f"workdir {self.path} holds another run, with other {', '.join(differences)}; "
                "choose another --workdir"
            )

    def _clear(self, parent: Path) -> None:
        """Removes what killed runs have left."""
        for left in parent.glob(f".{self.path.name}.*.part"):
            process = left.name.split(".")[-2]
            if process.isdigit() and not _is_alive(int(process)):
                shutil.rmtree(left, ignore_errors=True)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Removes what is not complete, and folders made for nothing."""
        shutil.rmtree(self._staging, ignore_errors=True)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def folder(self, index: int) -> Path:
        """Where the results of a prompt are, or will be."""
        return self.path / "prompts" / str(index)

    def is_done(self, index: int) -> bool:
        """Whether a prompt's results are there already."""
        return self.folder(index).is_dir()

    @contextlib.contextmanager
    def prompt(self, index: int) -> Iterator[Path]:
        """A folder to write a prompt's results to; they appear when the block ends well.

        Raises:
          UsageError: no room, or the run directory was taken meanwhile.
        """
        folder = self._staging / "prompts" / str(index)
        try:
            folder.mkdir(parents=True)
            yield folder
            if (self.path / "config.json").exists():
                self.folder(index).parent.mkdir(exist_ok=True)
                folder.rename(self.folder(index))
                return
            write_bytes(self._staging / "config.json", self._config)
            write_bytes(self._staging / "metadata.json", self._metadata)
            if self._staging.parent == self.path:
                for name in ("config.json", "metadata.json", "prompts"):
                    (self._staging / name).rename(self.path / name)
            else:
                self._staging.rename(self.path)
        except OSError as error:
            raise UsageError(f"workdir {self.path} cannot be written: {error}") from error


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _differences(theirs: object, ours: object, name: str = "") -> Sequence[str]:
    """Names of the fields in which two configs differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            field
            for key in keys
            for field in _differences(theirs.get(key), ours.get(key), f"{name}.{key}".strip("."))
        ]
    return [] if theirs == ours else [name]
