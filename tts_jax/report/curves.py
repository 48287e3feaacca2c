"""Quality against cost, as a picture for readers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_bytes(path, png.getvalue())
