"""Quality against cost, as pictures for readers and papers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tts_jax.media import write_bytes

_KINDS = {
    "linear": ("random linear search", "#3b6fb6", "o"),
    "oracle": ("oracle's pick (upper bound)", "#9aa0a6", "^"),
    "chance": ("random choice (control)", "#c9a227", "s"),
    "tof": ("Tree-of-Frames", "#c0392b", "D"),
}


def draw_curve(path: Path | str, rows: Sequence[Mapping], cost: str = "flops") -> None:
    """Success against cost for each kind of search, with 95 % intervals.

    Args:
      path: PNG file to write.
      rows: search (its name begins with its kind), success, success_interval, and the cost.
      cost: the figure on the horizontal axis.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    single = next(row for row in rows if row["search"] == "single")
    for kind, (label, colour, marker) in _KINDS.items():
        found = [row for row in rows if row["search"].startswith(kind)]
        if not found:
            continue
        if kind != "tof":
            found = [single, *found]
        found = sorted(found, key=lambda row: row[cost])
        x = [row[cost] / single[cost] for row in found]
        y = [row["success"] for row in found]
        low, high = zip(*(row["success_interval"] for row in found), strict=True)
        if kind in ("linear", "tof"):
            below = [a - b for a, b in zip(y, low, strict=True)]
            above = [b - a for a, b in zip(y, high, strict=True)]
            spread = (below, above)
            axes.errorbar(
                x, y, spread, color=colour, marker=marker, capsize=3, label=label, linewidth=1.6
            )
        else:
            axes.plot(x, y, color=colour, marker=marker, label=label, linewidth=1.2, linestyle="--")
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8, 16]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel(f"cost in {cost.upper() if cost == 'nfe' else cost}, videos' worth")
    axes.set_ylabel("success on held-out captions")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


_COLOURS = ("#2f62c9", "#c2410c", "#0b7a57", "#8b3fb8", "#a16207", "#0e7490")
# Name and unit of each cost.
_COSTS = {"nfe": ("denoiser calls", 1), "flops": ("GFLOP", 1e9), "seconds": ("seconds", 1)}


def draw_sweep(
    path: Path | str, summary: Mapping, metric: str, *, panel: str, cost: str = "flops"
) -> None:
    """A quality over the cost of each search of a sweep, with 95 % intervals and controls.

    Args:
      path: file to write; its suffix, .png or .svg, is its format.
      summary: of the sweep, see `tts_jax.evaluation.sweep.summarise`.
      metric: the quality.
      panel: whose choices are drawn.
      cost: the figure on the horizontal axis, "nfe", "flops" or "seconds".

    Raises:
      MediaError: the file cannot be written.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [point for point in summary["points"] if point["panel"] == panel]
    name, unit = _COSTS[cost]
    for number, search in enumerate(summary["searches"]):
        family = sorted((p for p in points if p["search"] == search), key=lambda p: p[cost])
        found = [p["quality"][metric] for p in family]
        x = [p[cost] / unit for p in family]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(x, [q["mean"] for q in found], "o-", color=colour, label=search.replace("_", " "))
        low, high = zip(*(q["interval"] for q in found), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        if family and family[0]["preset"] == "random_linear":
            for control, label, style in (
                ("best", "best of the random samples", "--"),
                ("chance", "random choice", ":"),
            ):
                axes.plot(x, [q[control] for q in found], style, color="#7a808c", label=label)
    axes.set_xscale("log", base=2)
    ticks = sorted({p[cost] / unit for p in points if p["preset"] == "random_linear"})
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_xlabel(f"{name} per prompt")
    axes.set_ylabel(metric.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path | str) -> None:
    """Writes a figure; equal figures give equal bytes."""
    kind, picture = Path(path).suffix[1:], io.BytesIO()
    with rc_context({"svg.hashsalt": "tts_jax"}):
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, picture.getvalue())
