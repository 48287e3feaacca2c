"""From the raw scores of VBench's dimensions to Quality, Semantic and Total (arXiv 2311.17982).

Ranges, weights and the split are those of the leaderboard (https://github.com/Vchitect/VBench).
"""

from collections.abc import Mapping
from dataclasses import dataclass

_RANGES = {  # the raw scores that become zero and one
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.7060, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
NAMES = tuple(_RANGES)
QUALITY, SEMANTIC = NAMES[:7], NAMES[7:]
WEIGHTS = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in NAMES}
_QUALITY_SHARE, _SEMANTIC_SHARE = 4.0, 1.0


@dataclass(frozen=True)
class FinalScores:
    """The three scores of a leaderboard row.

    Attributes:
      quality, semantic, total: shares of one, not clipped.
      normalised: name to its normalised score times its weight.
      missing: dimensions that were counted as raw zero, as the leaderboard counts them.
    """

    quality: float
    semantic: float
    total: float
    normalised: dict[str, float]
    missing: tuple[str, ...]


def final_scores(raw: Mapping[str, float]) -> FinalScores:
    """Normalises and averages; what is missing counts as raw zero.

    Args:
      raw: name of a dimension to its score over the benchmark's whole prompt suite.

    Raises:
      ValueError: a name that is no dimension of VBench, such as that of a stand-in.
    """
    for name in raw:
        if name.startswith("proxy_"):
            raise ValueError(
                f"{name} stands in for a dimension and never enters Quality, Semantic or Total"
            )
        if name not in _RANGES:
            raise ValueError(f"{name!r} is no VBench dimension; they are {', '.join(NAMES)}")
    normalised = {}
    for name, (low, high) in _RANGES.items():
        normalised[name] = WEIGHTS[name] * (raw.get(name, 0.0) - low) / (high - low)

    def mean(names):
        return sum(normalised[n] for n in names) / sum(WEIGHTS[n] for n in names)

    quality, semantic = mean(QUALITY), mean(SEMANTIC)
    total = _QUALITY_SHARE * quality + _SEMANTIC_SHARE * semantic
    total /= _QUALITY_SHARE + _SEMANTIC_SHARE
    missing = tuple(name for name in NAMES if name not in raw)
    return FinalScores(quality, semantic, total, normalised, missing)
