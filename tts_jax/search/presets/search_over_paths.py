"""Search over paths."""

from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, fields
from tts_jax.search.rounds import Outline, Renoise, Round, Rounds, SearchConfigError
from tts_jax.search.selection import top_k
from tts_jax.search.tree import ROOT

# With the values they have where a configuration has none.
FIELDS = dict(samples=2, children=2, start=2, back=1, forward=2)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Search over paths (arXiv 2501.09732).

    N samples run for `start` segments. Then each is noised M times back by f segments, and each of
    these runs on by b > f; the N best by the clean estimate go on, until the end. In every further
    unit of an autoregressive generator each path starts with a child of its own and goes on
    likewise; a unit of no more segments than `start` has M children of each path in the place of
    noise added. Published for flow models: N 2, M 5.

    NFE, one unit: N * start + N * M * b for each of ceil((T - start) / (b - f)) iterations, the
    last of which may be shorter. Decodes and calls of each verifier: N * M an iteration.

    Args:
      config: `samples`, N; `children`, M; `start`, `back`, f, and `forward`, b, in segments.
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: numbers that do not fit together, a generator that cannot add noise.
    """
    own = fields(config, FIELDS)
    at_least(1, samples=own.samples, children=own.children, back=own.back)
    if own.forward <= own.back:
        raise SearchConfigError(
            f"forward is {own.forward} and back is {own.back}, but forward must be more"
        )
    if own.start <= own.back:
        raise SearchConfigError(
            f"start is {own.start} and back is {own.back}, but start must be more"
        )
    if max(outline.units) > own.start and not outline.renoises:
        raise SearchConfigError(
            "search_over_paths noises states again, which this generator's states do not allow"
        )
    live, keep, label = [ROOT], own.samples, ""
    for unit, end in zip(outline.units, outline.unit_ends, strict=True):
        depth = min(end - unit + own.start, end)
        whole = depth == end
        children = (own.children if whole else 1) * (keep if live == [ROOT] else 1)
        live = yield Round(
            parents=live,
            to=depth,
            children=children,
            judges="panel" if whole else None,
            label=label,
        )
        live = top_k(live, keep) if whole else live
        label = f"top_k({keep})" if whole else ""
        while depth < end:
            back = depth - own.back
            depth = min(back + own.forward, end)
            grown = yield Round(
                parents=live,
                to=depth,
                children=own.children,
                propose=Renoise(back),
                estimate="clean",
                judges="panel",
                label=label,
            )
            live, label = top_k(grown, keep), f"top_k({keep})"
