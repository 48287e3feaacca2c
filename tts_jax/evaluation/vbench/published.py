"""Published rows of VBench, and beside which scores of ours they may stand.

Figures are in per cent, as the sources print them. Where a source gives no more than the three
final scores, only these are here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tts_jax.evaluation.vbench.scores import NAMES

# Of the 946 prompts with their dimensions, at commit 45e79ec14e69 of Vchitect/VBench.
SUITE = "2e759766664ae623eb022e540361ace3d257d723d94b123690baabd89aed260d"
LONG = 5.0  # seconds from which VBench's authors want its pipeline for long videos
_GOKU = "table in the Goku repository's README, which quotes the leaderboard (arXiv 2502.04896)"
_SHOW_O2 = "Show-o2, table 8, which quotes the leaderboard (arXiv 2506.15564)"
_FLASH = "FlashVideo, table 1, which quotes the leaderboard (arXiv 2502.05179)"
_VIDEO_T1 = "Video-T1, table 2 (arXiv 2503.18942)"
_REWRITTEN = "sampled with rewritten prompts"
_UNSTATED = "the prompts that it was sampled with are not stated"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published row.

    Attributes:
      model: as the source calls it.
      total, quality, semantic: per cent.
      source: where it is printed.
      dimensions: raw scores by name, per cent; none where the source has none.
      differs: how its protocol is known to differ from sampling VBench's own prompts into short
        clips, or what is not known of it; empty where it is that.
    """

    model: str
    total: float
    quality: float
    semantic: float
    source: str
    dimensions: Mapping[str, float] = field(default_factory=dict)
    differs: str = ""


def _row(model: str, final: tuple, source: str, *scores: float, differs: str = "") -> Row:
    total, quality, semantic = final
    return Row(
        model=model,
        total=total,
        quality=quality,
        semantic=semantic,
        source=source,
        dimensions=dict(zip(NAMES, scores, strict=True)) if scores else {},
        differs=differs,
    )


# fmt: off
ROWS = (
    _row("ModelScope", (75.75, 78.05, 66.54), _SHOW_O2,
         89.87, 95.29, 98.28, 95.79, 66.39, 52.06, 58.57, 82.25,
         38.98, 92.40, 81.72, 33.68, 39.26, 23.39, 25.37, 25.67),
    _row("LaVie", (77.08, 78.78, 70.31), _SHOW_O2,
         91.41, 97.47, 98.30, 96.38, 49.72, 54.94, 61.90, 91.82,
         33.32, 96.80, 86.39, 34.09, 52.69, 23.56, 25.93, 26.41),
    _row("Show-1", (78.93, 80.42, 72.98), _SHOW_O2,
         95.53, 98.02, 99.12, 98.24, 44.44, 57.35, 58.66, 93.07,
         45.47, 95.60, 86.35, 53.50, 47.03, 23.06, 25.28, 27.46),
    _row("VideoCrafter-2.0", (80.44, 82.20, 73.42), _SHOW_O2,
         96.85, 98.22, 98.41, 97.73, 42.50, 63.13, 67.22, 92.55,
         40.66, 95.00, 92.92, 35.86, 55.29, 25.13, 25.84, 28.23),
    _row("NOVA 0.6B", (78.48, 78.96, 76.57), "NOVA, table 3 (arXiv 2412.14169)"),
    _row("NOVA 0.6B, rewritten prompts", (80.12, 80.39, 79.05), "NOVA, table 3 (arXiv 2412.14169)",
         differs=_REWRITTEN),
    _row("Open-Sora 1.2, 2 s", (79.23, 80.71, 73.30), "Open-Sora's report 03; " + _GOKU,
         94.45, 97.90, 99.47, 98.20, 47.22, 56.18, 60.94, 83.37,
         58.41, 85.80, 87.49, 67.51, 42.47, 23.89, 24.55, 27.07, differs=_UNSTATED),
    _row("CogVideoX-2B", (81.57, 82.51, 77.79), _FLASH,
         96.42, 96.53, 98.45, 97.76, 58.33, 61.47, 65.60, 87.81,
         69.35, 97.00, 86.87, 54.64, 57.51, 24.93, 25.56, 28.01, differs=_REWRITTEN),
    _row("CogVideoX-5B", (81.61, 82.75, 77.04), _SHOW_O2,
         96.23, 96.52, 98.66, 96.92, 70.97, 61.98, 62.90, 85.23,
         62.11, 99.40, 82.81, 66.35, 53.20, 24.91, 25.38, 27.59, differs=_REWRITTEN),
    _row("HunyuanVideo", (83.24, 85.09, 75.82), _GOKU,
         97.37, 97.76, 99.44, 98.99, 70.83, 60.36, 67.56, 86.10,
         68.55, 94.40, 91.60, 68.68, 53.88, 19.80, 23.89, 26.44, differs=_REWRITTEN),
    _row("Wan2.1 T2V 1.3B", (83.96, 84.92, 80.10), "Wan's report, table 4 (arXiv 2503.20314)",
         differs=_UNSTATED),
    _row("Wan2.1 T2V 14B", (86.22, 86.67, 84.44), "Wan's report, table 4 (arXiv 2503.20314)",
         differs=_UNSTATED),
    _row("Pyramid-Flow (SD3)", (81.72, 84.74, 69.62), "Pyramid-Flow, table 1 (arXiv 2410.05954)",
         differs=_UNSTATED),
    *(
        _row(f"{model}, {way}", final, _VIDEO_T1, differs=_UNSTATED)
        for model, single, searched in (
            ("CogVideoX-2B", (80.91, 82.18, 75.83), (83.89, 85.27, 78.39)),
            ("CogVideoX-5B", (81.61, 82.75, 77.04), (84.42, 84.32, 84.83)),
            ("NOVA", (78.56, 83.79, 57.63), (79.80, 84.99, 59.03)),
            ("Open-Sora 1.2", (79.76, 81.35, 73.39), (81.65, 81.90, 80.63)),
            ("Pyramid-Flow (FLUX)", (81.61, 84.11, 71.61), (86.51, 87.50, 82.56)),
            ("Pyramid-Flow (SD3)", (81.72, 84.74, 69.62), (85.31, 86.84, 79.21)),
        )
        for way, final in (("one sample", single), ("Video-T1's search", searched))
    ),
)
# fmt: on


@dataclass(frozen=True)
class Beside:
    """What of the published rows may stand beside scores.

    Attributes:
      rows: whose protocol is that of the scores as far as it is stated.
      dimensions: that cover their whole suites in all sets of videos.
      final: whether the three final scores may be compared.
      why_not: why rows, dimensions or final scores are left out.
    """

    rows: tuple[Row, ...]
    dimensions: tuple[str, ...]
    final: bool
    why_not: tuple[str, ...]


def digest(entries: Sequence[Mapping]) -> str:
    """Tells lists of prompts apart; that of VBench's own is `SUITE`.

    Args:
      entries: each with "prompt_en" and "dimension", in any order.
    """
    known = sorted((entry["prompt_en"], sorted(entry["dimension"])) for entry in entries)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def beside(entries: Sequence[Mapping], tables: Mapping[str, Mapping], seconds: float) -> Beside:
    """Chooses the published figures that scores of ours may be compared with.

    Args:
      entries: the list of prompts.
      tables: of `experiments.vbench.evaluate`, by what their videos are.
      seconds: that a video lasts.
    """
    faults = []
    if digest(entries) != SUITE:
        faults.append("the list of prompts is not VBench's")
    if seconds >= LONG:
        faults.append(
            f"videos of {seconds:.1f} s belong to VBench-Long, another pipeline, from {LONG:.0f} s"
        )
    whole = [
        {row["dimension"] for row in table["rows"] if row["whole"]} for table in tables.values()
    ]
    dimensions = tuple(name for name in NAMES if all(name in own for own in whole))
    if not dimensions:
        faults.append("no dimension is computed over its whole suite")
    if faults:
        return Beside((), (), False, tuple(faults))
    without = [kind for kind, table in tables.items() if table["final"] is None]
    why = []
    if without:
        why.append(f"final scores: the {' and the '.join(without)} videos have none")
        lacking = [name for name in NAMES if name not in dimensions]
        why.append(f"not computed over the whole suite: {', '.join(lacking)}")
    by_reason: dict[str, list[str]] = {}
    for row in ROWS:
        by_reason.setdefault(row.differs, []).append(row.model)
    why += [f"{'; '.join(models)}: {reason}" for reason, models in by_reason.items() if reason]
    rows = tuple(row for row in ROWS if not row.differs)
    return Beside(rows, dimensions, not without, tuple(why))
