r"""Kills experiments.generate at random moments, again and again, and looks what comes of it.

python -m experiments.stress
python -m experiments.stress --kills=100 --seed=1 --config.search.preset=beam

Each run is killed with SIGKILL, started again with the same command, and so on until it is done;
it has survived if its files are then those of a run that nobody disturbed, byte by byte, but for
metadata.json and ledger.json, which hold times. Arguments that begin with --config reach
experiments.generate. Takes about a minute per run on two cores.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli

# Files that hold times.
UNREPEATABLE = ("metadata.json", "ledger.json")
# A run killed so often is then left alone.
MOST = 4


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_integer("kills", 25, "runs to kill", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the moments", flag_values=values)
    flags.DEFINE_string(
        "prompt",
        "a red circle moving right and a blue square moving up",
        "what the videos shall show",
        flag_values=values,
    )


@dataclass(frozen=True)
class Run:
    """A killed run.

    Attributes:
      kills: when it was killed, in seconds after each start, and rounds that were saved then.
      differing: files that are not those of the undisturbed run.
    """

    kills: list[tuple[float, int]]
    differing: list[str]


def main(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Runs the program.

    Raises:
      RunFault: a run has not survived.
    """
    if "--config" in argv:
        raise cli.UsageError("the config file is to be given as --config=FILE")
    console = Console(highlight=False)
    moments = random.Random(options.seed)
    command = [
        *(sys.executable, "-m", "experiments.generate", f"--prompt={options.prompt}"),
        *(argument for argument in argv[1:] if argument.startswith("--config")),
    ]
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        for _ in range(2):  # the first fills the compilation cache
            undisturbed = Path(tempfile.mkdtemp(dir=folder)) / "run"
            began, ended = _watch(command, undisturbed)
        console.print(
            f"undisturbed: searching after {began:.1f} s, done after {ended:.1f} s; "
            f"killing {options.kills} runs in between"
        )
        runs = []
        table = Table(box=None, header_style="bold")
        for name in ("run", "killed after", "rounds saved", "same bytes"):
            table.add_column(name, justify="right")
        for number in range(options.kills):
            kills = []
            while not kills:  # it may have been done before
                workdir = Path(tempfile.mkdtemp(dir=folder)) / "run"
                kills = _kill(command, workdir, moments, 0.9 * began, ended)
            runs.append(Run(kills, differing(workdir, undisturbed)))
            table.add_row(
                str(number),
                " ".join(f"{after:.1f}" for after, _ in kills),
                " ".join(str(saved) for _, saved in kills),
                ", ".join(runs[-1].differing) or "yes",
            )
            end = "\r" if console.is_terminal else "\n"
            console.print(f"{number + 1} of {options.kills} runs killed and finished", end=end)
        console.print(table)
    survived = sum(not run.differing for run in runs)
    console.print(f"{survived} of {options.kills} survived")
    if survived < options.kills:
        raise cli.RunFault(f"{options.kills - survived} runs ended with other files")


def _watch(command: Sequence[str], workdir: Path) -> tuple[float, float]:
    """Runs to the end; seconds until the search began, and until all was done."""
    start, began = time.perf_counter(), 0.0
    with _start(command, workdir) as process:
        while process.poll() is None:
            if not began and (workdir / ".state").exists():
                began = time.perf_counter() - start
            time.sleep(0.01)
    _check(process)
    return began, time.perf_counter() - start


def _kill(
    command: Sequence[str], workdir: Path, moments: random.Random, least: float, most: float
) -> list[tuple[float, int]]:
    """Runs, killed on the way at most `MOST` times; moments and rounds saved of each kill."""
    kills = []
    while True:
        with _start(command, workdir) as process:
            wait = moments.uniform(least, most) if len(kills) < MOST else None
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills.append((wait, _saved(workdir)))
                continue
        _check(process)
        return kills


def _start(command: Sequence[str], workdir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _check(process: subprocess.Popen) -> None:
    if process.returncode:
        raise cli.RunFault(
            f"experiments.generate ended with {process.returncode}; run it alone to see why: "
            f"{' '.join(process.args)}"
        )


def _saved(workdir: Path) -> int:
    """Rounds that were saved last."""
    saves = (workdir / ".state" / "searches").glob("*/[0-9]*")
    return max((int(path.name) for path in saves if path.name.isdecimal()), default=0)


def differing(one: Path, other: Path) -> list[str]:
    """Files that two run directories do not share, or whose bytes differ but for times."""
    ours, theirs = _contents(one), _contents(other)
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): b"" if path.name in UNREPEATABLE else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    argv = sys.argv if argv is None else argv
    return cli.run(partial(main, argv=argv), doc=__doc__, define=define, argv=argv)


if __name__ == "__main__":
    sys.exit(program())
