"""The search tree as one picture: a row of frames per path, its scores, and where it was pruned.

T frames  H W frame size.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tts_jax.media import enlarge, to_uint8, write_png
from tts_jax.search import paths
from tts_jax.search.paths import Move, Path

INK = (28, 31, 38)
SOFT = (116, 122, 134)
FAINT = (178, 183, 192)
LINE = (222, 225, 231)
PAPER = (255, 255, 255)
BAND = (247, 248, 250)
ACCENT = (16, 122, 87)
ACCENT_BAND = (232, 246, 240)
TRACK = (234, 236, 240)
BAR = (92, 124, 196)

_SCALE = 2  # drawn twice as large, so that it is sharp on dense screens
_SHOWN = 9
_STEPS = 12  # of a path's label
_MOVES = {"neighbour": "n", "renoise": "r"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One path of the search.

    Attributes:
      path: its steps, see `tts_jax.search.paths`.
      frames: what was decoded of it last, [T, H, W, 3] float in [0, 1]; T may differ by row, 0 for
        a path that was never decoded.
      scores: the last score of each verifier that judged it, and `panel` where there is one.
      standing: for each score, how long its bar is, in [0, 1]: such as the place between the worst
        and the best of the branches it was pruned among.
      pruned_at: the depth, a segment's index, at which it was dropped; None if it was not.
      winner: it is the video that was returned.
      note: a remark shown beside the path, such as "no search".
      apart: it was made beside the search: drawn below the tree, on no branch of it.
    """

    path: Path
    frames: np.ndarray
    scores: Mapping[str, float]
    standing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pruned_at: int | None = None
    winner: bool = False
    note: str = ""
    apart: bool = False


def contact_sheet(
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str = "",
    total_frames: int | None = None,
    max_rows: int = 48,
) -> Image.Image:
    """Draws the sheet.

    Args:
      rows: all paths of the search, in any order; drawn in the order of the tree.
      title: the prompt.
      subtitle: one line about the search.
      total_frames: frames of a whole video; by default the most that any row has.
      max_rows: the longest-lived paths are drawn, up to this many, and the rest counted.

    Returns:
      An RGB picture.
    """
    total = max([total_frames or 1, *(len(row.frames) for row in rows)])
    kept = sorted(
        rows, key=lambda row: (not (row.winner or row.apart), -len(row.path), paths.order(row.path))
    )[:max_rows]
    left_out = len(rows) - len(kept)
    kept = sorted(kept, key=lambda row: (row.apart, paths.order(row.path)))
    return _Sheet(kept, title, subtitle, total, left_out).draw()


def write_contact_sheet(path: pathlib.Path | str, rows: Sequence[Row], **options) -> None:
    """Draws the sheet into a png file; options as in `contact_sheet`.

    Raises:
      MediaError: the file cannot be written.
    """
    write_png(path, contact_sheet(rows, **options))


@functools.cache
def _font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, round(size * _SCALE)
    )


def _label(path: Path) -> str:
    steps = [
        _MOVES[step.kind] + str(step.index) if isinstance(step, Move) else str(step)
        for step in path
    ]
    if len(steps) > _STEPS:
        steps[_STEPS // 2 : -_STEPS // 2] = ["…"]
    return "·".join(steps) or "root"


def _number(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:.{digits}f}"


class _Sheet:
    """Measures in points; multiplied by _SCALE on the way to the canvas."""

    margin = 28
    gap = 4

    def __init__(self, rows, title, subtitle, total, left_out):
        self.rows = rows
        self.tree = [row for row in rows if not row.apart]  # the rows above those apart
        self.title, self.subtitle, self.left_out = title, subtitle, left_out
        self.times = self._times(total)
        self.verifiers = list(dict.fromkeys(name for row in rows for name in row.scores))
        self.depth = max((len(row.path) for row in self.tree), default=0)
        self._measure()

    @staticmethod
    def _times(total: int) -> list[int]:
        if total <= _SHOWN:
            return list(range(total))
        return [round(i * (total - 1) / (_SHOWN - 1)) for i in range(_SHOWN)]

    def _measure(self):
        height, width = next(
            (row.frames.shape[1:3] for row in self.rows if len(row.frames)), (32, 32)
        )
        self.thumb_height = 56 if len(self.rows) <= 16 else 44
        self.thumb_width = round(self.thumb_height * width / height)
        while len(self.times) * (self.thumb_width + self.gap) > 900 and len(self.times) > 4:
            self.times = self.times[::2]
        self.row_height = self.thumb_height + 12

        self.tree_x = self.margin + 8
        self.tree_step = min(18, 216 / max(self.depth, 1))
        self.label_x = self.tree_x + self.depth * self.tree_step + 14
        names = [_label(row.path) for row in self.rows]
        notes = [row.note for row in self.rows]
        label_width = max(
            [
                *(self._width(name, 11, True) for name in names),
                *(self._width(note, 9) for note in notes),
                self._width("path", 9),
            ]
        )
        self.frames_x = self.label_x + label_width + 20
        self.frames_end = self.frames_x + len(self.times) * (self.thumb_width + self.gap)
        self.score_width = max([68, *(math.ceil(self._width(name, 9)) for name in self.verifiers)])
        self.scores_x = self.frames_end + 20
        self.status_x = self.scores_x + len(self.verifiers) * (self.score_width + 20)
        status = max([60, *(self._width(self._status(row)[0], 10, True) + 20 for row in self.rows)])
        self.width = math.ceil(self.status_x + status + self.margin)
        self.title_lines = self._wrap(self.title, 18, self.width - 2 * self.margin)
        self.title_height = 26 * len(self.title_lines)
        self.head_y = self.margin + self.title_height + (22 if self.subtitle else 2) + 14
        self.rows_y = self.head_y + 24
        self.foot = [f"{self.left_out} more not shown"] * bool(self.left_out)
        if any(row.standing for row in self.rows):
            self.foot.append("bars: between the worst and the best of a round")
        foot = 30 if self.foot else 0
        self.height = self.rows_y + len(self.rows) * self.row_height + foot + self.margin - 6

    @staticmethod
    def _width(text, size, bold=False):
        return _font(size, bold).getlength(text) / _SCALE

    def _wrap(self, text, size, room):
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, size, True) > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    @staticmethod
    def _status(row):
        if row.winner:
            return "winner", ACCENT
        if row.pruned_at is not None:
            return f"pruned at depth {row.pruned_at}", SOFT
        if row.apart:
            return "not in the search", INK
        return "finished", INK

    def _text(self, x, y, text, size, colour, *, bold=False, anchor="lm"):
        self.canvas.text(
            (x * _SCALE, y * _SCALE), text, colour, font=_font(size, bold), anchor=anchor
        )

    def _box(self, x, y, width, height, colour, radius=0, outline=None, stroke=0):
        corners = [v * _SCALE for v in (x, y, x + width, y + height)]
        self.canvas.rounded_rectangle(
            [round(v) for v in corners],
            radius * _SCALE,
            fill=colour,
            outline=outline,
            width=round(stroke * _SCALE),
        )

    def _line(self, points, colour, width):
        self.canvas.line(
            [round(v * _SCALE) for point in points for v in point],
            fill=colour,
            width=round(width * _SCALE),
            joint="curve",
        )

    def _middle(self, index):
        return self.rows_y + index * self.row_height + self.row_height / 2

    def draw(self) -> Image.Image:
        """Paints everything, back to front."""
        size = (round(self.width * _SCALE), round(self.height * _SCALE))
        self.image = Image.new("RGB", size, PAPER)
        self.canvas = ImageDraw.Draw(self.image)
        for i, line in enumerate(self.title_lines):
            self._text(self.margin, self.margin + 26 * i + 8, line, 18, INK, bold=True)
        if self.subtitle:
            y = self.margin + self.title_height + 8
            self._text(self.margin, y, self.subtitle, 11, SOFT)
        self._draw_head()
        for i, row in enumerate(self.rows):
            if row.winner:
                self._box(
                    self.margin - 12,
                    self._middle(i) - self.row_height / 2,
                    self.width - 2 * self.margin + 24,
                    self.row_height,
                    ACCENT_BAND,
                    radius=8,
                )
        self._draw_tree()
        for i, row in enumerate(self.rows):
            self._draw_row(i, row)
        if self.foot:
            y = self.rows_y + len(self.rows) * self.row_height + 18
            self._text(self.margin, y, "  ·  ".join(self.foot), 9, SOFT)
        return self.image

    def _draw_head(self):
        y = self.head_y
        self._text(self.label_x, y, "path", 9, SOFT)
        for i, t in enumerate(self.times):
            x = self.frames_x + i * (self.thumb_width + self.gap) + self.thumb_width / 2
            self._text(x, y, f"frame {t}" if i == 0 else str(t), 9, SOFT, anchor="mm")
        for i, name in enumerate(self.verifiers):
            x = self.scores_x + i * (self.score_width + 20)
            self._text(x, y, name, 9, SOFT)
        y += 14
        self._line([(self.margin, y), (self.width - self.margin, y)], LINE, 1)

    def _draw_tree(self):
        """A line per segment of each path; what two paths share is drawn once."""
        spans: dict[tuple, list[int]] = {}
        for i, row in enumerate(self.tree):
            for depth in range(len(row.path) + 1):
                spans.setdefault(row.path[:depth], []).append(i)
        nodes = {
            prefix: (
                self.tree_x + len(prefix) * self.tree_step,
                (self._middle(members[0]) + self._middle(members[-1])) / 2,
            )
            for prefix, members in spans.items()
        }
        winners = {
            row.path[:depth] for row in self.tree if row.winner for depth in range(self.depth + 1)
        }
        alive = {
            row.path[:depth]
            for row in self.tree
            if row.pruned_at is None
            for depth in range(self.depth + 1)
        }

        def rank(prefix):
            return (prefix in winners, prefix in alive)

        for prefix in sorted(nodes, key=rank):
            if not prefix:
                continue
            colour = ACCENT if prefix in winners else SOFT if prefix in alive else FAINT
            width = 2.5 if prefix in winners else 1.5
            (x0, y0), (x1, y1) = nodes[prefix[:-1]], nodes[prefix]
            bend = x0 + self.tree_step * 0.45
            self._line([(x0, y0), (bend, y0), (bend, y1), (x1, y1)], colour, width)
        for i, row in enumerate(self.tree):
            x, _ = nodes[row.path]
            y = self._middle(i)
            if row.pruned_at is not None:
                for sign in (-1, 1):
                    self._line([(x - 3, y - 3 * sign), (x + 3, y + 3 * sign)], SOFT, 1.5)
            else:
                colour = ACCENT if row.winner else SOFT
                radius = 4.5 if row.winner else 3
                self._box(x - radius, y - radius, 2 * radius, 2 * radius, colour, radius=radius)

    def _draw_row(self, index, row):
        y = self._middle(index)
        pruned = row.pruned_at is not None
        ink = SOFT if pruned else ACCENT if row.winner else INK
        lift = 7 if row.note else 0
        self._text(self.label_x, y - lift, _label(row.path), 11, ink, bold=not pruned)
        if row.note:
            self._text(self.label_x, y + 8, row.note, 9, SOFT)
        for i, t in enumerate(self.times):
            x = self.frames_x + i * (self.thumb_width + self.gap)
            top = y - self.thumb_height / 2
            if t < len(row.frames):
                self.image.paste(
                    self._thumbnail(row.frames[t], pruned), (round(x * _SCALE), round(top * _SCALE))
                )
                if row.winner:
                    self._box(
                        x - 1.5,
                        top - 1.5,
                        self.thumb_width + 3,
                        self.thumb_height + 3,
                        None,
                        radius=2,
                        outline=ACCENT,
                        stroke=1.5,
                    )
            else:
                self._box(x, top, self.thumb_width, self.thumb_height, BAND)
        for i, name in enumerate(self.verifiers):
            if name in row.scores:
                x = self.scores_x + i * (self.score_width + 20)
                self._text(x, y - 7, _number(row.scores[name]), 11, ink)
                colour = FAINT if pruned else ACCENT if row.winner else BAR
                self._draw_bar(x, y + 6, row.standing.get(name), colour)
        text, colour = self._status(row)
        if row.winner:
            width = self._width(text, 10, True) + 20
            self._box(self.status_x, y - 10, width, 20, ACCENT, radius=10)
            self._text(self.status_x + 10, y, text, 10, PAPER, bold=True)
        else:
            self._text(self.status_x, y, text, 10, colour)

    def _draw_bar(self, x, y, standing, colour):
        if standing is not None:
            self._box(x, y, self.score_width, 5, TRACK, radius=2.5)
            self._box(x, y, max(5, standing * self.score_width), 5, colour, radius=2.5)

    def _thumbnail(self, frame, pruned):
        pixels = enlarge(to_uint8(frame), round(self.thumb_height * _SCALE))
        size = (round(self.thumb_width * _SCALE), round(self.thumb_height * _SCALE))
        image = Image.fromarray(pixels)
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        if not pruned:
            return image
        grey = Image.blend(image.convert("L").convert("RGB"), image, 0.25)
        return Image.blend(grey, Image.new("RGB", size, PAPER), 0.5)
