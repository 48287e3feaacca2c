"""Successive halving."""

from typing import Any

import numpy as np

from tts_jax.search.calibration import load, smallest_set
from tts_jax.search.presets.common import at_least, check_depths, fields
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import in_order, top_k
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(widths=(), depths=(), calibration=None, delta=0.1)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Successive halving (arXiv 1502.07943) on clean estimates, with a calibrated rule.

    W[0] branches from independent noise; after depth d[i] the best W[i + 1] go on. With a
    calibration, which predicts final scores from those at a depth, only the smallest set goes on
    that holds the best branch with probability 1 - delta, and at most W[i + 1]; depths whose
    scores say too little of final ones are not judged.

    NFE: sum over i of W[i] times that of the segments from d[i - 1] to d[i], with d[-1] = 0 and
    the end for the last; less with a calibration. Decodes and calls of each verifier: the sum of
    the widths at judged depths and the last.

    Args:
      config: `widths`, W (8, 4, 2); `depths`, d, segments done, one fewer (evenly spread);
        `calibration`, path of a file that `experiments.calibrate` writes, or what it holds (none);
        `delta`, probability to lose the best branch (0.1).
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: widths that grow, other depths than widths, depths outside the video, a
        calibration that cannot be read.
    """
    own = fields(config, FIELDS)
    widths = tuple(own.widths) or (8, 4, 2)[: outline.num_segments]
    spread = [i * outline.num_segments // len(widths) for i in range(1, len(widths))]
    depths = tuple(own.depths) or tuple(spread)
    at_least(1, **{"the least of widths": min(widths)})
    if list(widths) != sorted(widths, reverse=True):
        raise SearchConfigError(f"widths {list(widths)} grow, but branches can only become fewer")
    if len(depths) != len(widths) - 1:
        raise SearchConfigError(
            f"depths has {len(depths)} entries for {len(widths)} widths, but needs one fewer"
        )
    check_depths(depths, outline, name="depths")
    if not 0 < own.delta < 1:
        raise SearchConfigError(f"delta is {own.delta}, but a probability is between 0 and 1")
    source = own.calibration or None
    calibration = load(source) if isinstance(source, str) else source

    live, children, label = [ROOT], widths[0], ""
    for depth, width in zip(depths, widths[1:], strict=True):
        if calibration is not None and calibration.predict(depth, []) is None:
            continue
        grown = yield Round(
            parents=live,
            to=depth,
            children=children,
            estimate="clean",
            judges="panel",
            label=label,
        )
        live, children, label = top_k(grown, width), 1, f"top_k({width})"
        prediction = calibration and calibration.predict(depth, grown)
        if prediction is not None:
            means, deviation = prediction
            order = sorted(smallest_set(means, deviation, own.delta), key=lambda i: -means[i])
            live = in_order(grown[i] for i in order[:width])
            label = f"calibrated({own.delta:g}, {width})"
    yield Round(
        parents=live, to=outline.num_segments, children=children, judges="panel", label=label
    )
