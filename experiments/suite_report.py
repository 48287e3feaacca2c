"""What a search changes of VBench's scores, beside what it costs and what others published."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.suite import COSTS, KINDS, total_costs
from tts_jax.evaluation.vbench.comparison import Results, compare
from tts_jax.evaluation.vbench.published import Beside, beside

_FINAL = ("total", "quality", "semantic")
_HEAD = ("dimension", "prompts", "base", "searched", "searched less base")
NOTE = (
    "A base video is the single sample of its seed; a searched one is the winner of the search "
    "from the same seed. Intervals are 95 % bootstrap intervals over prompts; the last column is "
    "the mean over prompts of paired differences."
)


def report(
    config: ConfigDict,
    entries: Sequence[Mapping],
    rows: Sequence[Mapping],
    tables: Mapping[str, Mapping],
    results: Mapping[str, Results],
) -> dict:
    """Everything that the tables say, as plain values.

    Args:
      config: settings of the run.
      entries: the list of prompts.
      rows: one per video, see `experiments.suite`.
      tables, results: of `experiments.vbench.evaluate`, for the base and the searched videos.
    """
    first = rows[0]
    seconds = first["frames"] / config.video.fps
    enlarged = max(1, config.video.size // max(first["height"], first["width"]))
    found = beside(entries, tables, seconds, enlarged)
    return {
        "generator": dict(config.generator),
        "search": dict(config.search),
        "seed": config.seed,
        "videos": len(rows),
        "prompts": len({row["prompt_index"] for row in rows}),
        "size": [first["frames"], first["height"], first["width"]],
        "seconds": seconds,
        "enlarged": enlarged,
        "comparison": compare(results["base"], results["searched"]),
        "final": {kind: table["final"] for kind, table in tables.items()},
        "no_final": {kind: table["no_final"] for kind, table in tables.items()},
        "costs": total_costs(rows),
        "published": _published(found, tables),
        "tables": dict(tables),
    }


def _published(found: Beside, tables: Mapping[str, Mapping]) -> dict:
    lines = []
    for kind, table in tables.items() if found.rows else ():
        own = {row["dimension"]: 100 * row["score"] for row in table["rows"]}
        scores = {name: own[name] for name in found.dimensions}
        if found.final:
            scores |= {name: 100 * table["final"][name] for name in _FINAL}
        lines.append({"model": f"this run, {kind}", "scores": scores, "source": ""})
    for row in found.rows:
        scores = {name: row.dimensions.get(name) for name in found.dimensions}
        if found.final:
            scores |= {name: getattr(row, name) for name in _FINAL}
        if any(value is not None for value in scores.values()):
            lines.append({"model": row.model, "scores": scores, "source": row.source})
    return {"rows": lines, "why_not": list(found.why_not)}


def _ranged(value: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def _comparison(found: Mapping) -> list[tuple[str, ...]]:
    lines = [
        (
            row["dimension"],
            str(row["prompts"]),
            *(_ranged(row[kind], row[f"{kind}_interval"]) for kind in KINDS),
            _ranged(row["difference"], row["difference_interval"], "+"),
        )
        for row in found["comparison"]
    ]
    if all(found["final"].values()):
        for name in ("quality", "semantic", "total"):
            base, searched = (found["final"][kind][name] for kind in KINDS)
            cells = f"{base:.4f}", f"{searched:.4f}", f"{searched - base:+.4f}"
            lines.append((name.capitalize(), "", *cells))
    return lines


def _costs(found: Mapping) -> list[tuple[str, ...]]:
    lines = []
    for part in found["costs"]["base"]:
        for kind in KINDS:
            cost = found["costs"][kind][part]
            if any(cost[name] for name in COSTS):
                figures = f"{cost['nfe']:.0f}", f"{cost['flops'] / 1e12:.4g}"
                lines.append((kind, part, *figures, f"{cost['seconds']:.1f}"))
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def markdown(found: Mapping) -> str:
    """A report as text."""
    frames, height, width = found["size"]
    size = f"{frames} frames of {height} x {width}"
    if found["enlarged"] != 1:
        size += f", enlarged {found['enlarged']} times in the files that are scored"
    lines = [
        f"# VBench: {found['generator']['name']}, {found['search']['preset']}",
        "",
        f"{found['videos']} videos of {found['prompts']} prompts, {size}, {found['seconds']:.1f} s "
        f"each, config.seed {found['seed']}. {NOTE}",
        "",
        *_table(_HEAD, _comparison(found)),
    ]
    for kind in KINDS:
        if found["no_final"][kind]:
            lines += ["", f"No final scores of the {kind} videos: {found['no_final'][kind]}."]
    head = ("videos", "part", "NFE", "TFLOP", "seconds")
    lines += ["", "## Cost of all videos", "", *_table(head, _costs(found))]
    lines += ["", "## Published rows, per cent", ""]
    rows = found["published"]["rows"]
    if rows:
        names = list(rows[0]["scores"])
        lines += _table(
            ("model", *names, "source"),
            [
                (
                    row["model"],
                    *("" if (v := row["scores"][n]) is None else f"{v:.2f}" for n in names),
                    row["source"],
                )
                for row in rows
            ],
        )
        lines += ["", "Left out, since protocols differ:"]
    else:
        lines.append("None may stand beside these scores:")
    lines += ["", *(f"- {why}" for why in found["published"]["why_not"])]
    return "\n".join(lines) + "\n"


def show(console: Console, found: Mapping) -> None:
    """Prints what a report says of dimensions and cost, and why nothing published is beside it."""
    for title, head, lines in (
        ("VBench, base against searched", _HEAD, _comparison(found)),
        ("cost", ("videos", "part", "NFE", "TFLOP", "seconds"), _costs(found)),
    ):
        drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, name in enumerate(head):
            drawn.add_column(name, justify="right" if index else "left", no_wrap=True)
        for line in lines:
            drawn.add_row(*line)
        console.print(drawn)
    if not found["published"]["rows"]:
        console.print(f"no published rows: {'; '.join(found['published']['why_not'])}")
