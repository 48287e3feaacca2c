"""Published scores that may stand beside ours: short clips, made from the prompts as they are.

Scores of longer clips come from another pipeline (VBench-Long), and those of lengthened prompts are
of other videos; both are left out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """A model's scores, as shares of one.

    Attributes:
      model: its name.
      quality, semantic, total: as published.
      source: where.
    """

    model: str
    quality: float
    semantic: float
    total: float
    source: str


PUBLISHED_ROWS = (
    PublishedRow("NOVA 0.6B", 0.7896, 0.7657, 0.7848, "arXiv 2412.14169, table 3"),
    PublishedRow("Open-Sora 1.2, 2 s, 480p", 0.8071, 0.7330, 0.7923, "arXiv 2502.04896"),
    PublishedRow("ModelScope", 0.7805, 0.6654, 0.7575, "arXiv 2506.15564, table 8"),
    PublishedRow("LaVie", 0.7878, 0.7031, 0.7708, "arXiv 2506.15564, table 8"),
    PublishedRow("Show-1", 0.8042, 0.7298, 0.7893, "arXiv 2506.15564, table 8"),
    PublishedRow("VideoCrafter 2.0", 0.8220, 0.7342, 0.8044, "arXiv 2506.15564, table 8"),
)
