"""What was found on files, kept in parts: several processes divide the work, and it goes on.

<folder>/journal/<unit>.jsonl  appears whole, by rename: a line for each finding
        /claims/<unit>         locked while a process works on the unit; its end frees it

A unit is some files that belong together. Findings are known by their files, whatever unit they
came with, so that a changed file is looked at again and an added one moves no other.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from experiments.runs import lock
from tts_jax import media

Unit = TypeVar("Unit")
_PAUSE = 0.2  # seconds between two looks at what another process works on


class Journal:
    """Findings on files."""

    def __init__(self, folder: Path | None = None, *, begin: float = 0.0):
        """Reads what there is.

        Args:
          folder: that exists; None keeps nothing.
          begin: where among the units this process begins, from 0 to 1.
        """
        self._folder, self._begin = folder, begin
        self._known, self._stamps = {}, {}
        self._part, self._lines, self._kept = None, [], 0
        if folder is not None:
            (folder / "journal").mkdir(exist_ok=True)
            for path in sorted((folder / "journal").glob("[!.]*.jsonl")):
                self._read(path)

    def _read(self, path: Path) -> list[str]:
        lines = path.read_text("utf-8").splitlines()
        for line in map(json.loads, lines):
            self._known[tuple(line["file"]), line["what"]] = line["found"]
        return lines

    def _stamp(self, file: Path) -> tuple[str, int, int]:
        """What tells a file from a changed one; this process looks once."""
        if file not in self._stamps:
            status = file.stat()
            self._stamps[file] = file.name, status.st_size, status.st_mtime_ns
        return self._stamps[file]

    def known(self, file: Path, what: str) -> bool:
        """Whether something is known of a file."""
        return (self._stamp(file), what) in self._known

    def of(self, file: Path, what: str) -> object:
        """What is known of a file."""
        return self._known[self._stamp(file), what]

    def find(self, file: Path, what: str, compute: Callable[[], object]) -> object:
        """What is known of a file; what is not is computed."""
        stamp = self._stamp(file)
        if (stamp, what) not in self._known:
            found = self._known[stamp, what] = compute()
            self._lines.append(json.dumps({"file": stamp, "what": what, "found": found}))
        return self._known[stamp, what]

    def keep(self) -> None:
        """Writes what was found on the unit so far.

        Raises:
          MediaError: it cannot be written.
        """
        if self._part is not None and len(self._lines) > self._kept:
            media.write_bytes(self._part, "".join(f"{line}\n" for line in self._lines).encode())
            self._kept = len(self._lines)

    def work(
        self,
        units: Mapping[str, Unit],
        done: Callable[[Unit], bool],
        make: Callable[[Unit], None],
    ) -> None:
        """Has every unit done, by this process or by another one, which it then waits for.

        Args:
          units: by name, in order.
          done: whether all of a unit is known.
          make: finds what is not.
        """
        names = list(units)
        first = int(self._begin * len(names))
        for wait in (False, True):
            for name in names[first:] + names[:first]:
                if done(units[name]):
                    continue
                with self._claim(name, wait=wait) as mine:
                    if mine and not done(units[name]):
                        make(units[name])

    @contextlib.contextmanager
    def _claim(self, unit: str, *, wait: bool) -> Iterator[bool]:
        """Takes a unit for the length of a block; False if another process has it."""
        if self._folder is None:
            yield True
            return
        with claim(self._folder, unit, wait=wait) as mine:
            if mine:
                self._part = self._folder / "journal" / f"{unit}.jsonl"
                for left in self._part.parent.glob(f".{self._part.name}.*.part"):
                    left.unlink(missing_ok=True)
                self._lines = self._read(self._part) if self._part.exists() else []
                self._kept = len(self._lines)
            yield mine
            if mine:
                self.keep()
        self._part, self._lines, self._kept = None, [], 0


@contextlib.contextmanager
def claim(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Takes something of a folder for the length of a block.

    Args:
      folder: that exists.
      name: of what is taken.
      wait: for a process that has it.

    Returns:
      Yields whether it was taken: False if another process has it.
    """
    (folder / "claims").mkdir(exist_ok=True)
    with open(folder / "claims" / name, "ab") as file:
        while True:
            try:
                lock(file)
                break
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                time.sleep(_PAUSE)
        yield True
