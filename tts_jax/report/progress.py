"""How far a program is, and when it will be done: a bar on a terminal, lines in a log."""

import datetime
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINES = 10


class Bar:
    """A progress bar with ETA; use as a context manager.

    Where output is no terminal, a line now and then says the same.
    """

    def __init__(self, console: Console, total: int):
        """Begins nothing yet.

        Args:
          console: where to draw.
          total: units of work in all, such as denoiser calls.
        """
        self._console, self._total = console, total
        self._live = console.is_terminal
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not self._live)
        self._task = self._progress.add_task("", total=total)
        self._told = 0

    def __enter__(self) -> "Bar":
        self._start = time.perf_counter()
        self._progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._progress.__exit__(*error)

    def update(self, done: int, description: str) -> None:
        """Says how many units are done, and with what."""
        self._progress.update(self._task, completed=done, description=description)
        step = done * _LINES // max(self._total, 1)
        if self._live or step <= self._told:
            return
        self._told = step
        spent = time.perf_counter() - self._start
        left = datetime.timedelta(seconds=round(spent * (self._total - done) / done))
        self._console.print(f"{description}  {done / self._total:4.0%}  ETA {left}")
