r"""Measures what search buys on the embedded world: success on held-out captions against cost.

python -m experiments.evaluate --config=configs/embedded.py --workdir=runs/evaluate

Random linear search runs once per caption with the largest N; its first n branches are the search
with N = n. The same candidates give the controls: a random choice (the mean over candidates) and
the oracle's pick. The same command goes on after a kill, caption by caption.

Writes results.jsonl (a line per caption), table.json, table.md and curve.png.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.models import Models, open_search, read_world
from tts_jax import media
from tts_jax.evaluation.selection import pick, standardise
from tts_jax.evaluation.statistics import bootstrap_interval, selection_efficiency
from tts_jax.report.curves import draw_curve
from tts_jax.report.progress import Bar
from tts_jax.search import Search, SearchResult, load_preset


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("workdir", "runs/evaluate", "where results go", flag_values=values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    config, workdir = options.config, Path(options.workdir)
    cli.use_compilation_cache()
    if (world := read_world(config)) is None:
        raise cli.UsageError("only a checkpoint of a captioned world can be graded")
    captions = world.sample_captions("test", config.evaluation.captions, config.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    settings = json.loads(config.to_json())
    done = _resume(workdir, settings)
    left = captions[len(done) :]
    models, search = open_search(config, left, exact=config.evaluation.exact, drafts=False)
    console = Console(highlight=False)
    with Bar(console, len(captions)) as bar, (workdir / "results.jsonl").open("a") as log:
        for index in range(len(done), len(captions)):
            row = _measure(config, models, search, captions[index], index)
            log.write(json.dumps(row) + "\n")
            log.flush()
            done.append(row)
            bar.update(index + 1, f"caption {index + 1}/{len(captions)}")
    table = summarise(config, done)
    media.write_bytes(workdir / "table.json", (json.dumps(table, indent=2) + "\n").encode())
    media.write_bytes(workdir / "table.md", _markdown(table["rows"]).encode())
    draw_curve(workdir / "curve.png", table["rows"])
    _print(console, table)
    console.print(f"written to {workdir}")


def _resume(workdir: Path, settings: Mapping) -> list[dict]:
    """Rows of an earlier start of the same evaluation; a line cut short by a kill is dropped."""
    path, log = workdir / "config.json", workdir / "results.jsonl"
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text() != text:
        raise cli.UsageError(f"{workdir} holds an evaluation with another config")
    media.write_bytes(path, text.encode())
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    log.write_text("".join(whole))
    return [json.loads(line) for line in whole]


def _measure(config: ConfigDict, models: Models, search: Search, caption: str, index: int) -> dict:
    """All searches for one caption."""
    budgets = sorted(config.evaluation.linear)

    def run(settings) -> SearchResult:
        return search.run(
            caption,
            load_preset(ConfigDict(settings)),
            seed=config.seed,
            prompt_index=index,
            stage_prompts=models.stage_prompts(caption),
            keep_frames=False,
        )

    def grade(node) -> tuple[float, float]:
        found = models.world.grade(node.frames, caption)
        return float(found.success), found.facts

    linear = run({"preset": "random_linear", "branches": budgets[-1]})
    nodes = sorted(linear.candidates, key=lambda node: node.path)
    grades = np.array([grade(node) for node in nodes])
    scores = np.array([[node.scores[n] for n in models.panel.names] for node in nodes])

    def panel(values) -> float:
        return float(standardise(values, scores) @ models.panel.weights)

    row = {"caption": caption, "searches": {}}

    def record(name, success, facts, score, result, share=1.0):
        total = result.ledger.total
        row["searches"][name] = {
            "success": float(success),
            "facts": float(facts),
            "panel": score,
            "nfe": total.nfe * share,
            "flops": total.flops * share,
            "seconds": total.seconds * share,
        }

    for count in (1, *budgets):
        share = count / len(nodes)
        values = np.asarray(jax.jit(models.panel.value)(scores[:count].astype(np.float32)))
        chosen = pick(values, grades[:count])
        name = f"linear_{count}" if count > 1 else "single"
        record(name, *grades[chosen.picked], panel(scores[chosen.picked]), linear, share)
        if count > 1:
            record(
                f"chance_{count}",
                *grades[:count].mean(0),
                panel(scores[:count].mean(0)),
                linear,
                share,
            )
            best = chosen.best
            record(f"oracle_{count}", *grades[best], panel(scores[best]), linear, share)
    for name, settings in config.evaluation.trees.items():
        result = run({"preset": "tree_of_frames", **settings})
        winner = result.incumbents[-1]
        score = panel([winner.scores[n] for n in models.panel.names])
        record(name, *grade(winner), score, result)
    return row


def summarise(config: Mapping, rows: Sequence[Mapping]) -> dict:
    """Means and 95 % intervals over captions, and what the panel recovers.

    Args:
      config: `evaluation.linear` names the numbers of branches.
      rows: one per caption, as results.jsonl has them.

    Returns:
      rows: one per search, with means and intervals; efficiency: number of branches to the share
      of the way from a random choice to the oracle's pick that the panel goes.
    """
    table = []
    for name in rows[0]["searches"]:
        line = {"search": name}
        for figure in rows[0]["searches"][name]:
            values = [row["searches"][name][figure] for row in rows]
            line[figure] = float(np.mean(values))
            if figure in ("success", "facts"):
                line[f"{figure}_interval"] = bootstrap_interval(values)
        table.append(line)
    by_name = {line["search"]: line for line in table}
    efficiency = {
        str(n): {
            figure: selection_efficiency(
                *(by_name[f"{kind}_{n}"][figure] for kind in ("linear", "chance", "oracle"))
            )
            for figure in ("success", "facts")
        }
        for n in sorted(config["evaluation"]["linear"])
    }
    return {"captions": len(rows), "rows": table, "efficiency": efficiency}


_TITLES = ("search", "success", "facts", "panel", "NFE", "GFLOP", "seconds")


def _cells(line: Mapping) -> list[str]:
    def share(figure):
        low, high = line[f"{figure}_interval"]
        return f"{line[figure]:.3f} [{low:.3f}, {high:.3f}]"

    return [
        line["search"].replace("_", " "),
        share("success"),
        share("facts"),
        f"{line['panel']:+.2f}",
        f"{line['nfe']:.0f}",
        f"{line['flops'] / 1e9:.1f}",
        f"{line['seconds']:.2f}",
    ]


def _markdown(rows: Sequence[Mapping]) -> str:
    lines = [_TITLES, ["---"] * len(_TITLES), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print(console: Console, table: Mapping) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, title=f"{table['captions']} held-out captions")
    for i, title in enumerate(_TITLES):
        drawn.add_column(title, justify="right" if i else "left", no_wrap=True)
    for line in table["rows"]:
        drawn.add_row(*_cells(line))
    console.print(drawn)
    for n, found in table["efficiency"].items():
        shares = {k: f"{v:.0%}" if math.isfinite(v) else "no way" for k, v in found.items()}
        console.print(
            f"N={n}: from a random choice to the oracle's pick the panel goes "
            f"{shares['success']} in successes, {shares['facts']} in facts"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
