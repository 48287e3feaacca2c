r"""Learns from finished runs what a score on the way says about the score at the end.

python -m experiments.calibrate --runs=runs/a,runs/b --output=calibration.json

The runs must share a generator and a panel. Depths are calibrated where the runs judged them and
went on from what they judged; runs that prune little teach most, for what was pruned has no end.

Writes the calibration, and beside it a picture of stage scores against final scores.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from tts_jax.report.calibration import draw_calibration
from tts_jax.search import calibration


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_list("runs", [], "run directories, separated by commas", flag_values=values)
    flags.DEFINE_string(
        "output", "calibration.json", "the file to write; the picture gets .png", flag_values=values
    )


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    output = Path(options.output)
    if output.suffix == ".png":
        raise cli.UsageError(f"--output={output} names the picture; the calibration is a JSON file")
    if not output.parent.is_dir():
        raise cli.UsageError(f"the folder of --output={output} does not exist")
    generator, weights, trees = read_runs(options.runs)
    samples = calibration.read_samples(list(trees.values()))
    fitted = calibration.fit(generator, samples, weights)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    _print(console, fitted, len(trees), len(samples))
    fitted.save(output)
    written = [output]
    if fitted.depths:
        written.append(output.with_suffix(".png"))
        draw_calibration(written[-1], fitted, samples)
    console.print(f"written to {' and '.join(map(str, written))}", soft_wrap=True)


def read_runs(runs: list[str]) -> tuple[str, dict[str, float], dict[Path, dict]]:
    """The searches that runs have logged.

    Args:
      runs: run directories.

    Returns:
      The generator's name, the weights of the verifiers that judge, and the trees by file.

    Raises:
      UsageError: no run, one twice, one that cannot be read, or runs that do not belong together.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise cli.UsageError("give finished runs with --runs=DIR or --runs=DIR,DIR")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise cli.UsageError("--runs names a run twice")
    generators, weights, trees = {}, {}, {}
    for folder in folders:
        if not folder.is_dir():
            raise cli.UsageError(f"run {folder} does not exist")
        generators[folder] = _field(_read(folder / "config.json"), folder, "generator")
        files = sorted(folder.glob("prompts/*/tree.json"), key=lambda file: file.parent.name)
        if not files:
            raise cli.UsageError(f"run {folder} has no finished prompt")
        for file in files:
            trees[file] = _read(file)
            weights[file] = _weights(_field(trees[file], file, "panel"), file)
    _same(generators, "generator")
    _same(weights, "panel")
    generator = next(iter(generators.values()))
    return str(_field(generator, folders[0], "name")), next(iter(weights.values())), trees


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise cli.UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise cli.UsageError(f"{file} is not JSON: {error}") from error


def _field(entry: object, file: Path, name: str) -> object:
    if not isinstance(entry, dict) or name not in entry:
        raise cli.UsageError(f"{file} does not say its {name}")
    return entry[name]


def _weights(panel: object, file: Path) -> dict[str, float]:
    """Weights of the verifiers that judge."""
    names, weights = (_field(panel, file, name) for name in ("verifiers", "weights"))
    try:
        pairs = dict(zip(names, map(float, weights), strict=True))
    except (TypeError, ValueError) as error:
        raise cli.UsageError(f"{file} has a panel that cannot be read: {error}") from error
    held_out = panel.get("held_out") or ()
    return {name: weight for name, weight in pairs.items() if name not in held_out}


def _same(found: Mapping[Path, object], what: str) -> None:
    first, entry = next(iter(found.items()))
    for file, other in found.items():
        if other != entry:
            raise cli.UsageError(f"{file} has another {what} than {first}: {other} and {entry}")


def _print(console: Console, fitted: calibration.Calibration, trees: int, videos: int) -> None:
    title = f"{fitted.generator}: {videos} finished videos of {trees} searches"
    drawn = Table(box=box.SIMPLE_HEAD, title=title)
    columns = ("depth", "verifiers", "n", "correlation", "pooled", "slope", "residual", "use")
    for name in columns:
        side = "left" if name in ("verifiers", "use") else "right"
        drawn.add_column(name, justify=side, no_wrap=name != "verifiers")
    for fit in fitted.depths:
        drawn.add_row(
            str(fit.depth),
            ", ".join(fit.verifiers),
            str(fit.n),
            *(f"{x:.3f}" for x in (fit.correlation, fit.pooled, fit.slope, fit.residual)),
            _use(fit),
        )
    console.print(drawn)
    if not fitted.depths:
        console.print("no depth on the way was judged and went on: nothing to prune by")


def _use(fit: calibration.DepthFit) -> str:
    if fit.n < calibration.MIN_VIDEOS:
        return f"reported only: under {calibration.MIN_VIDEOS} videos"
    if not fit.prunes:
        return f"reported only: correlation under {calibration.MIN_CORRELATION}"
    return "prunes"


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
