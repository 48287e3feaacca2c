"""Tree-of-Frames with the published settings of Video-T1."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, fields
from tts_jax.search.presets.tree_of_frames import Tree, grow
from tts_jax.search.rounds import Outline, Rounds

# With the values they have where a configuration has none.
FIELDS = dict(cap=0)
VIDEOS = (5,)
IMAGES = (5, 2, 2, 2, 2)
JUDGE_DEPTHS = (4, 9, 13)


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Tree-of-Frames as Video-T1 publishes it for 16 units (arXiv 2503.18942).

    Children per depth 5, 1, ...; candidates of each 5, 2, 2, 2, 2, 1, ...; no worse than the
    median stays at the depths 4, 9 and 13. Lists are continued by ones, and cut for a shorter
    video. A rejected candidate stops, as the paper has it and the published code has not.

    Units: 25 + 4 * 10 + 5 * 3 + 4 * 2 + 2 * 1 = 90 if no values are equal, 120 if all are, against
    16 of one video; NFE and decodes as `tree_of_frames`.

    Args:
      config: `cap`, of the paths that stay at a judge depth (0: none), which holds whatever the
        ties: 3 is what the median keeps of 5.
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: a negative cap.
    """
    cap = fields(config, FIELDS).cap
    at_least(0, cap=cap)
    units = len(outline.units)
    depths = tuple(depth for depth in JUDGE_DEPTHS if depth < units - 1)
    yield from grow(
        Tree(
            branching=_fit(VIDEOS, units),
            images=_fit(IMAGES, units),
            judge_depths=depths,
            rule="median",
            keep=(cap,) * len(depths),
        ),
        outline,
    )


def _fit(numbers: Sequence[int], units: int) -> tuple[int, ...]:
    return (*numbers, *[1] * units)[:units]
