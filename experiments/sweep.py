r"""Measures what quality a unit of compute buys: a grid of searches, budgets, panels and prompts.

python -m experiments.sweep --workdir=runs/sweep
python -m experiments.sweep --workdir=runs/sweep --config.sweep.captions=6
python -m experiments.sweep --config=my_sweep.py --prompts_file=prompts.txt --workdir=runs/mine
python -m experiments.sweep --workdir=runs/sweep --so_far

The same command goes on where it stopped. Prompts come in a shuffled order, one seed after the
other, so that what is there at any time is a random sample of the grid; `--so_far` makes nothing
and tells what it says. Started several times, also on several machines that see the folder, its
processes share the prompts; those of one that died are taken over. What has been generated is not
generated twice: random linear search with the largest N holds every smaller one, for every panel,
and trees share the first rounds that they have in common.

Writes <workdir>/config.json parts/*.parquet, and when all of the grid is there, results.parquet,
summary.json, report.html and curves/*.{png,svg}.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli, processes
from experiments.models import Models, open_search, read_world
from experiments.processes import Team, job
from experiments.runs import default_workdir, read_prompts, to_json
from experiments.table import PartTable
from tts_jax import media
from tts_jax.evaluation.selection import ATTRIBUTES, attributes, pick
from tts_jax.evaluation.sweep import summarise
from tts_jax.report import tensorboard
from tts_jax.report.curves import draw_sweep
from tts_jax.report.page import sprite
from tts_jax.report.progress import Bar
from tts_jax.report.sweep_page import write_sweep_page
from tts_jax.search import Budget, Cost, Outline, Search, SearchResult, load_preset, paths, plan
from tts_jax.search.presets import Preset
from tts_jax.search.shared import SharedRounds
from tts_jax.verifiers.panel import Panel

LINEAR = "random_linear"
ASIDE = ("io", "stage_prompts")  # components that are no part of making and judging videos


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "workdir",
        None,
        "where the table goes; the same command with the same workdir goes on "
        "(default: runs/<config>-<time>)",
        flag_values=values,
    )
    cli.define_tensorboard(values)
    flags.DEFINE_string(
        "prompts_file",
        None,
        "prompts, as of experiments.generate, instead of held-out captions of the world",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "so_far", False, "report on the part of the grid that is there", flag_values=values
    )
    processes.define(values)


@dataclass(frozen=True)
class Point:
    """A search at one budget.

    Attributes:
      label: of the budget.
      preset: the search.
      budget: limits on it.
      nfe: denoiser calls it plans.
    """

    label: str
    preset: Preset
    budget: Budget
    nfe: int


@dataclass(frozen=True)
class Study:
    """A search at all its budgets, the most expensive first.

    Attributes:
      name: of the search.
      preset: its name.
      points: one per budget.
    """

    name: str
    preset: str
    points: tuple[Point, ...]

    @property
    def made(self) -> int:
        """Denoiser calls to make it once for a prompt, before anything is shared."""
        linear = self.preset == LINEAR
        return self.points[0].nfe if linear else sum(point.nfe for point in self.points)


def main(options: flags.FlagValues) -> None:
    """Runs the program, in one process or many."""
    with job(options) as team:
        _run(options, team)


def _run(options: flags.FlagValues, team: Team) -> None:
    config = options.config
    if "sweep" not in config:
        raise cli.UsageError("the config has no field sweep; configs/sweep.py shows one")
    cli.use_compilation_cache()
    prompts = _prompts(config, options.prompts_file)
    models, search = open_search(config, prompts, exact=config.sweep.exact, drafts=True)
    processes.check_own(search.mesh, "a sweep divides its prompts")
    studies = read_studies(config.sweep.searches, search.outline)
    weights = read_weights(config.sweep.panels)
    panels = read_panels(weights, models.panel)
    metrics = metrics_of(models)
    name = Path(options["config"].config_filename).stem
    workdir = team.agree("workdir", str(options.workdir or default_workdir(name)))
    settings = {**json.loads(config.to_json()), "prompts": prompts}
    table = PartTable.of_team(team, workdir, settings, schema(metrics))
    console = Console(highlight=False, quiet=not team.leads)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    sweep = Sweep(config, models, search, studies, panels, prompts, metrics, table)
    try:
        if not options.so_far:
            sweep.run(console, first=team.index / team.count)
        team.wait("every part")
        left = sweep.left()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --workdir={workdir} goes on") from None
    if left and not options.so_far:
        console.print(f"{left} parts are with other processes; the last one writes the report")
        return
    if not team.leads:
        return
    rows = sweep.complete_rows()
    if not rows:
        raise cli.UsageError(f"workdir {workdir} holds no prompt with every search yet")
    table.write_whole("results.parquet", rows)
    summary = summarise(rows, metrics, weights)
    media.write_bytes(table.folder / "summary.json", to_json(summary))
    curves = draw_curves(table.folder / "curves", summary)
    write_sweep_page(table.folder / "report.html", rows, summary, title=name)
    _print(console, summary)
    console.print(f"[bold]{table.folder}[/]\n  results.parquet  summary.json  report.html")
    console.print(f"  {curves} curves as png and svg in curves/")
    if options.tensorboard:
        folder = tensorboard.write_sweep(table.folder, rows, summary)
        console.print(f"  tensorboard --logdir={folder}")


def draw_curves(folder: Path, summary: Mapping) -> int:
    """Draws every quality over compute, for papers; gives the number of curves."""
    folder.mkdir(exist_ok=True)
    cost = "flops" if all(point["flops"] for point in summary["points"]) else "nfe"
    names = [(panel, metric) for panel in summary["panels"] for metric in summary["metrics"]]
    for panel, metric in names:
        for kind in ("png", "svg"):
            path = folder / f"{panel}_{metric}.{kind}"
            draw_sweep(path, summary, metric, panel=panel, cost=cost)
    return len(names)


def _prompts(config: ConfigDict, prompts_file: str | None) -> list[str]:
    if prompts_file is not None:
        return read_prompts(None, prompts_file)
    if (world := read_world(config)) is None:
        raise cli.UsageError("only a captioned world has captions; give --prompts_file")
    if config.sweep.captions < 1:
        raise cli.UsageError(f"sweep.captions is {config.sweep.captions}, not 1 or more")
    return list(world.sample_captions("test", config.sweep.captions, config.seed))


def read_weights(panels: ConfigDict) -> dict[str, dict[str, float]]:
    """Weights by panel and verifier: `config.sweep.panels`, whose fields can hold no dot, so that
    vbench.scene is vbench__scene there."""
    return {
        panel: {name.replace("__", "."): weight for name, weight in own.items()}
        for panel, own in json.loads(panels.to_json()).items()
    }


def read_panels(weights: Mapping[str, Mapping[str, float]], panel: Panel) -> dict[str, Panel]:
    """The panels of a grid, by name.

    Args:
      weights: by panel and verifier.
      panel: of the config's verifiers.

    Raises:
      UsageError: no panel, or a verifier that is not there.
    """
    panels = {name: _panel(panel, name, own) for name, own in weights.items()}
    if not panels:
        raise cli.UsageError("config.sweep.panels names no panel")
    return panels


def _panel(panel: Panel, name: str, weights: Mapping[str, float]) -> Panel:
    """The verifiers with other weights; those that are not named are held out."""
    _check_name("panel", name)
    if unknown := [verifier for verifier in weights if verifier not in panel.names]:
        raise cli.UsageError(
            f"panel {name} weighs {unknown[0]!r}, but config.verifiers has {', '.join(panel.names)}"
        )
    try:
        return Panel(
            panel.verifiers,
            [float(weights.get(verifier, 0.0)) for verifier in panel.names],
            panel.aggregation,
            {verifier: floor for verifier, floor in panel.guards.items() if verifier in weights},
            [verifier for verifier in panel.names if verifier not in weights],
        )
    except ValueError as error:
        raise cli.UsageError(f"panel {name}: {error}") from error


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"\w+", name):
        raise cli.UsageError(f"the {kind} {name!r} is not named by letters, digits and _")


def read_studies(searches: Mapping, outline: Outline) -> list[Study]:
    """The searches of a grid; random linear search comes first, and holds N=1.

    Args:
      searches: `config.sweep.searches`.
      outline: of the generator.

    Raises:
      UsageError: fields or budgets that make no search.
    """
    video = sum(outline.nfe)
    studies = []
    for name, entry in searches.items():
        _check_name("search", name)
        fields = dict(entry)
        budgets = fields.pop("budgets", None)
        if not budgets:
            raise cli.UsageError(f"search {name} has no budgets")
        linear = fields["preset"] == LINEAR
        labelled = hasattr(budgets, "items")
        if linear and (labelled or any(int(n) != n or n < 1 for n in budgets)):
            raise cli.UsageError(f"the budgets of {name} are numbers of branches, such as (1, 4)")
        points = []
        for label in sorted({1, *budgets}) if linear else budgets:
            own, limit = dict(fields), Budget()
            if linear:
                own["branches"] = label
            elif labelled:
                own |= budgets[label]
            else:
                limit = Budget(nfe=int(label * video))
            preset = load_preset(ConfigDict(own))
            try:
                nfe = plan(preset, outline, budget=limit).nfe
            except (TypeError, ValueError) as error:
                raise cli.UsageError(f"search {name} at budget {label}: {error}") from error
            points.append(Point(str(label), preset, limit, nfe))
        points.sort(key=lambda point: -point.nfe)
        studies.append(Study(name, fields["preset"], tuple(points)))
    if sum(study.preset == LINEAR for study in studies) != 1:
        raise cli.UsageError(
            "a sweep has one search of preset random_linear, which holds the single sample and the "
            "controls"
        )
    return sorted(studies, key=lambda study: study.preset != LINEAR)


def metrics_of(models: Models) -> list[str]:
    """What quality is measured by, that which decides upper bounds first."""
    names = list(models.panel.names)
    scores = [f"score_{name}" for name in names]
    if models.world is not None:
        return ["success", "facts", *ATTRIBUTES, *scores]
    held_out = [f"score_{name}" for name in models.panel.held_out]
    return held_out + [name for name in scores if name not in held_out]


def schema(metrics: Sequence[str]) -> pa.Schema:
    """Columns of the table: of each metric the value picked, that of a random choice and the best
    there was, and with the largest random linear search those of all candidates.
    """
    texts = ("search", "preset", "budget", "panel", "prompt", "path")
    columns = [(name, pa.string()) for name in texts]
    columns += [(name, pa.int64()) for name in ("prompt_index", "seed", "candidates", "nfe")]
    columns += [(name, pa.float64()) for name in ("flops", "seconds")]
    for name in metrics:
        columns += [(f"{kind}{name}", pa.float64()) for kind in ("", "chance_", "best_")]
        columns.append((f"all_{name}", pa.list_(pa.float64())))
    columns += [("sprite", pa.binary())]
    columns += [(f"sprite_{name}", pa.int64()) for name in ("frames", "width", "height")]
    return pa.schema(columns)


@dataclass
class Sweep:
    """A grid, and the table it fills.

    Attributes:
      config: settings.
      models, search: what makes and judges videos.
      studies, panels, prompts: the grid, with the config's seeds.
      metrics: names, see `metrics_of`.
      table: holds the rows.
    """

    config: ConfigDict
    models: Models
    search: Search
    studies: Sequence[Study]
    panels: Mapping[str, Panel]
    prompts: Sequence[str]
    metrics: Sequence[str]
    table: PartTable

    def _weights(self) -> dict[tuple[str, str], int]:
        """Planned denoiser calls of every part of the grid."""
        parts = {}
        for index in range(len(self.prompts)):
            for seed in self.config.sweep.seeds:
                for study in self.studies:
                    panels = ["all"] if study.preset == LINEAR else self.panels
                    for panel in panels:
                        parts[_task(index, seed), f"{study.name}-{panel}"] = study.made
        return parts

    def left(self) -> int:
        """Parts that are still missing."""
        return len(self._weights().keys() - self.table.done())

    def complete_rows(self) -> list[dict]:
        """Rows of as many prompts and seeds as have every part, the same seeds for each prompt."""
        missing = {task for task, _ in self._weights().keys() - self.table.done()}
        seeds, prompts = self.config.sweep.seeds, range(len(self.prompts))
        grids = []
        for count in range(1, len(seeds) + 1):
            own = [[_task(index, seed) for seed in seeds[:count]] for index in prompts]
            grids.append({task for tasks in own if missing.isdisjoint(tasks) for task in tasks})
        wanted = max(reversed(grids), key=len)
        return [
            row for row in self.table.rows() if _task(row["prompt_index"], row["seed"]) in wanted
        ]

    def run(self, console: Console, first: float = 0.0) -> None:
        """Makes every part that no other process has or is making.

        Args:
          console: shows what is done.
          first: where in the grid to begin, a share in [0, 1): others begin elsewhere.
        """
        parts = self._weights()
        order = np.random.default_rng(self.config.seed).permutation(len(self.prompts)).tolist()
        cells = {
            _task(index, seed): (index, self.prompts[index], seed)
            for seed in self.config.sweep.seeds
            for index in order
        }
        tasks, begin = list(cells), int(first * len(cells))
        pieces = {task: [] for task in tasks[begin:] + tasks[:begin]}
        for task, piece in parts:
            pieces[task].append(piece)
        done = self.table.done() & parts.keys()
        if done:
            console.print(f"{len(done)} of {len(parts)} parts are done already")
        before = sum(parts[part] for part in done)
        with Bar(console, max(sum(parts.values()) - before, 1)) as bar:

            def tell() -> None:
                there = self.table.done() & parts.keys()
                bar.update(
                    sum(parts[part] for part in there) - before,
                    f"part {len(there)}/{len(parts)}",
                )

            self.table.work(pieces, lambda task: self._work(task, *cells[task], tell))

    def _work(self, task: str, index: int, prompt: str, seed: int, tell) -> None:
        """Makes the missing parts of one prompt and seed."""
        about = {"prompt": prompt, "prompt_index": index, "seed": seed}
        stages = self.models.stage_prompts(prompt)
        for study in self.studies:
            linear = study.preset == LINEAR
            for name in ["all"] if linear else self.panels:
                piece = f"{study.name}-{name}"
                if (task, piece) in self.table.done():
                    continue
                make = self._linear if linear else self._others
                rows = make(study, name, prompt, index, seed, stages)
                self.table.write(task, piece, [{**about, **row} for row in rows])
                tell()

    def _linear(self, study, _, prompt, index, seed, stages) -> list[dict]:
        """Random linear search at every N and by every panel, from one run."""
        result = self.search.run(
            prompt,
            study.points[0].preset,
            seed=seed,
            prompt_index=index,
            stage_prompts=stages,
            keep_frames=False,
        )
        nodes = sorted(result.candidates, key=lambda node: node.path)
        table = self._measure(nodes, prompt)
        rows = []
        for panel_name, panel in self.panels.items():
            scores = self._scores(nodes)
            cost = spent(result, panel)
            for point in study.points:
                count = int(point.label)
                values = panel.value(scores[:count])
                row = self._row(nodes[:count], values, {k: v[:count] for k, v in table.items()})
                share = count / len(nodes)
                rows.append(
                    {
                        **row,
                        **_named(study, point, panel_name),
                        "nfe": round(cost.nfe * share),
                        "flops": cost.flops * share,
                        "seconds": cost.seconds * share,
                    }
                )
                if count == len(nodes):
                    rows[-1] |= {f"all_{name}": list(map(float, table[name])) for name in table}
        return rows

    def _others(self, study, panel_name, prompt, index, seed, stages) -> list[dict]:
        """Any other search at every budget, which share their first rounds."""
        panel = self.panels[panel_name]
        search = self.search.judged_by(panel)
        shared = SharedRounds(search, prompt, seed=seed, prompt_index=index)
        rows = []
        for point in study.points:
            if point.budget:
                result = search.run(
                    prompt,
                    point.preset,
                    seed=seed,
                    prompt_index=index,
                    stage_prompts=stages,
                    budget=point.budget,
                    keep_frames=False,
                )
            else:
                result = shared.run(point.preset, stages)
            nodes = list(result.candidates)
            values = [node is result.incumbents[-1] for node in nodes]
            cost = spent(result, panel)
            rows.append(
                {
                    **self._row(nodes, values, self._measure(nodes, prompt)),
                    **_named(study, point, panel_name),
                    "nfe": cost.nfe,
                    "flops": float(cost.flops),
                    "seconds": cost.seconds,
                }
            )
        return rows

    def _scores(self, nodes) -> np.ndarray:
        names = self.models.panel.names
        return np.array([[node.scores[name] for name in names] for node in nodes], np.float32)

    def _measure(self, nodes, prompt: str) -> dict[str, np.ndarray]:
        """Every metric of some complete videos, [N] each."""
        rows = []
        for node in nodes:
            row = {f"score_{name}": score for name, score in node.scores.items()}
            if self.models.world is not None:
                grade = self.models.world.grade(node.frames, prompt)
                row |= {"success": float(grade.success), "facts": grade.facts, **attributes(grade)}
            rows.append(row)
        return {name: np.array([row[name] for row in rows], np.float64) for name in self.metrics}

    def _row(self, nodes, values, table: Mapping[str, np.ndarray]) -> dict:
        """What is chosen by the values, beside its control and its upper bound."""
        picked = pick(values, table[self.metrics[0]]).picked
        row = {"candidates": len(nodes)}
        for name, column in table.items():
            found = pick(values, column)
            row[name] = float(column[found.picked])
            row[f"chance_{name}"] = found.chance
            row[f"best_{name}"] = float(column[found.best])
        node = nodes[picked]
        row["path"] = json.dumps(paths.to_json(node.path))
        picture = sprite(node.frames, size=128, count=12)
        row["sprite"] = picture.pop("bytes")
        return row | {f"sprite_{name}": value for name, value in picture.items()}


def _task(index: int, seed: int) -> str:
    return f"{index:05d}-{seed}"


def _named(study: Study, point: Point, panel: str) -> dict[str, str]:
    return {
        "search": study.name,
        "preset": study.preset,
        "budget": point.label,
        "panel": panel,
    }


def spent(result: SearchResult, panel: Panel) -> Cost:
    """The cost of a search: generator, decodes and the verifiers that judge.

    Reading, writing and the verifiers that only report are left out.
    """
    return result.ledger.without([*ASIDE, *panel.held_out])


def _print(console: Console, summary: Mapping) -> None:
    metric = summary["metrics"][0]
    title = f"{summary['prompts']} prompts, {len(summary['seeds'])} seeds"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for name in ("search", "budget", "panel", metric, "NFE", "GFLOP", "seconds", "efficiency"):
        left = name in ("search", "panel")
        drawn.add_column(name, justify="left" if left else "right", no_wrap=True)
    for point in summary["points"]:
        found = point["quality"][metric]
        low, high = found["interval"]
        share = found["efficiency"]
        drawn.add_row(
            point["search"].replace("_", " "),
            point["budget"],
            point["panel"],
            f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]",
            f"{point['nfe']:.0f}",
            f"{point['flops'] / 1e9:.1f}",
            f"{point['seconds']:.2f}",
            "" if share is None else f"{share:.0%}",
        )
    console.print(drawn)


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define, config="sweep.py"))
