"""One table in parts, made by any number of processes: no row is lost or there twice.

<folder>/parts/<task>.<piece>.parquet   appears whole, by rename; its name says what it holds
        /claims/<task>                  locked while a process works on the task; its end, however
                                        it comes, frees it

Whoever makes a part again writes the same file, and what has a part is not made again.
"""

import contextlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.cli import UsageError
from experiments.processes import Team
from experiments.runs import differences, lock, to_json
from tts_jax.media import MediaError, write_bytes


class PartTable:
    """A folder that holds a table and what decides its rows."""

    def __init__(
        self, folder: Path | str, settings: Mapping, schema: pa.Schema, kind: str = "sweep"
    ):
        """Makes the folder, or goes on in one with the same settings.

        Args:
          folder: of this table alone.
          settings: plain values that decide the rows.
          schema: of every part.
          kind: what the user calls the work, for messages.

        Raises:
          UsageError: the folder holds something else or a table with other settings, or cannot be
            written.
        """
        self.folder, self.schema = Path(folder).absolute(), schema
        self._parts, self._claims = self.folder / "parts", self.folder / "claims"
        path, ours = self.folder / "config.json", to_json(settings)
        try:
            if path.exists():
                if found := differences(json.loads(path.read_bytes()), json.loads(ours)):
                    raise UsageError(
                        f"workdir {folder} holds another {kind}, with other {', '.join(found)}; "
                        "choose another --workdir"
                    )
            elif self.folder.exists() and any(self.folder.iterdir()):
                raise UsageError(f"workdir {folder} is not empty and holds no {kind}")
            for place in (self._parts, self._claims):
                place.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_bytes(path, ours)
        except (OSError, json.JSONDecodeError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            raise UsageError(f"workdir {folder} cannot be used: {why}") from error

    @classmethod
    def of_team(cls, team: Team, *arguments, **options) -> "PartTable":
        """One table for all processes of a job, of which the first makes the folder."""
        if not team.leads:
            team.agree("table")
        table = cls(*arguments, **options)
        if team.leads:
            team.agree("table", "is there")
        return table

    def _part(self, task: str, piece: str) -> Path:
        return self._parts / f"{task}.{piece}.parquet"

    def done(self) -> set[tuple[str, str]]:
        """Task and piece of every part there is."""
        return {tuple(path.name.split(".")[:2]) for path in self._parts.glob("[!.]*.parquet")}

    @contextlib.contextmanager
    def claim(self, task: str) -> Iterator[bool]:
        """Takes a task for the length of a block; False if another process has it."""
        with open(self._claims / task, "ab") as file:
            try:
                lock(file)
            except BlockingIOError:
                yield False
                return
            for left in self._parts.glob(f".{task}.*.part"):
                left.unlink(missing_ok=True)
            yield True

    def work(self, tasks: Mapping[str, Collection[str]], make: Callable[[str], None]) -> None:
        """Makes every task that lacks a piece and that no other process is making.

        Args:
          tasks: by name, in order, the pieces they consist of.
          make: makes the pieces of a task that are missing.
        """
        wanted = {task: {(task, piece) for piece in pieces} for task, pieces in tasks.items()}
        done, going = self.done(), True
        while going:
            going = False
            for task, pieces in wanted.items():
                if pieces <= done:
                    continue
                with self.claim(task) as mine:
                    if mine and not pieces <= self.done():
                        going = True
                        make(task)
                done = self.done()

    def write(self, task: str, piece: str, rows: Sequence[Mapping]) -> None:
        """Adds a part.

        Raises:
          MediaError: it cannot be written.
          ValueError: rows that do not have the table's columns.
        """
        if wrong := {name for row in rows for name in row} - set(self.schema.names):
            raise ValueError(f"rows have columns that the table has not: {sorted(wrong)}")
        write_bytes(self._part(task, piece), self._bytes(rows))

    def _bytes(self, rows: Sequence[Mapping]) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), self.schema), buffer)
        return buffer.getvalue()

    def rows(self) -> list[dict]:
        """All rows, by task and piece.

        Raises:
          MediaError: a part cannot be read.
        """
        rows = []
        for path in sorted(self._parts.glob("[!.]*.parquet")):
            try:
                rows += pq.read_table(path, schema=self.schema).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise MediaError(
                    f"part {path} cannot be read: {error}; remove it and start again"
                ) from error
        return rows

    def write_whole(self, name: str, rows: Sequence[Mapping]) -> None:
        """Writes rows into one parquet file beside the parts."""
        write_bytes(self.folder / name, self._bytes(rows))
