"""Stage scores against final scores, as a picture for readers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tts_jax.media import write_bytes
from tts_jax.search.calibration import Calibration, Sample, pairs

_USED, _UNUSED = "#3b6fb6", "#9aa0a6"


def draw_calibration(path: Path | str, calibration: Calibration, samples: Sequence[Sample]) -> None:
    """For each judged depth the videos, the line through them and one residual to each side.

    Args:
      path: PNG file to write.
      calibration: fitted to the samples.
      samples: finished videos.

    Raises:
      MediaError: the file cannot be written.
    """
    fits = calibration.depths
    columns = min(len(fits), 3)
    rows = -(-len(fits) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.4 * rows), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    for number, fit in enumerate(fits, 1):
        axes = figure.add_subplot(rows, columns, number)
        stage, final, _ = pairs(calibration, fit.depth, fit.verifiers, samples)
        colour = _USED if fit.prunes else _UNUSED
        axes.scatter(stage, final, s=9, color=colour, alpha=0.5, linewidths=0)
        ends = np.array([stage.min(), stage.max()])
        line = fit.intercept + fit.slope * ends
        axes.plot(ends, line, color=colour, linewidth=1.6)
        axes.fill_between(
            ends, line - fit.residual, line + fit.residual, color=colour, alpha=0.15, linewidth=0
        )
        use = "" if fit.prunes else ", not used"
        axes.set_title(
            f"{fit.depth} of {calibration.segments} segments: r = {fit.correlation:.2f}{use}",
            fontsize=10,
        )
        axes.set_xlabel("stage score")
        axes.set_ylabel("final score")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_bytes(path, png.getvalue())
