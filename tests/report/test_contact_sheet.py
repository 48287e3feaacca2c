"""The contact sheet shows every path, greys what was pruned and marks the winner."""

import numpy as np
import pytest
from PIL import Image

from tts_jax.report import contact_sheet as sheets
from tts_jax.report.contact_sheet import Row, contact_sheet, write_contact_sheet

COLOURS = [(0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.2, 0.3, 0.95), (0.9, 0.85, 0.1)]


def row(path, colour, frames=5, **options):
    video = np.broadcast_to(np.asarray(COLOURS[colour], np.float32), (frames, 8, 8, 3))
    return Row(path=path, frames=video, **options)


def tree():
    return [
        row((1, 0), 2, scores={"clip": 0.4, "panel": 1.0}, winner=True),
        row((0,), 0, frames=1, scores={"clip": 0.1}, pruned_at=1),
        row((1, 1), 1, scores={"clip": 0.3, "panel": -1.0}, note="no search"),
    ]


def count(image, colour, tolerance=3):
    wanted = np.round(np.asarray(colour) * 255)
    return int((np.abs(np.asarray(image, np.float32) - wanted) <= tolerance).all(-1).sum())


def test_paths_that_stay_are_in_colour_and_pruned_paths_are_not():
    image = contact_sheet(tree(), title="a prompt")
    assert count(image, COLOURS[1]) > 5 * 50 * 50
    assert count(image, COLOURS[2]) > 5 * 50 * 50
    assert count(image, COLOURS[0]) == 0


def test_only_a_winner_is_highlighted():
    band = np.asarray(sheets.ACCENT_BAND) / 255
    rows = tree()
    assert count(contact_sheet(rows, title="a prompt"), band, 0) > 1000
    assert count(contact_sheet(rows[1:], title="a prompt"), band, 0) == 0


def test_the_order_of_the_rows_does_not_matter():
    assert (
        contact_sheet(tree(), title="t").tobytes()
        == contact_sheet(tree()[::-1], title="t").tobytes()
    )


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        write_contact_sheet(tmp_path / name, tree(), title="a prompt", subtitle="seed 0")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").mode == "RGB"


def test_more_rows_make_a_taller_sheet_up_to_the_limit_and_the_winner_stays():
    rows = [row((i,), i % 2, frames=1, scores={"clip": i / 99}, pruned_at=1) for i in range(99)]
    rows.append(row((99, 0), 2, scores={"clip": 1.0}, winner=True))
    heights = [contact_sheet(rows, title="t", max_rows=n).height for n in (20, 40, 200)]
    assert heights[0] < heights[1] < heights[2]
    assert count(contact_sheet(rows, title="t", max_rows=20), COLOURS[2]) > 0


def test_a_long_video_is_shown_by_frames_spread_over_it():
    video = np.linspace(0, 1, 49, dtype=np.float32)[:, None, None, None] * np.ones((8, 8, 3))
    image = contact_sheet([Row(path=(0,), frames=video, scores={})], title="t")
    assert count(image, (0, 0, 0), 0) > 1000
    assert image.width < 3000


@pytest.mark.parametrize(
    "scores",
    [{}, {"clip": float("nan")}, {"clip": float("-inf")}, {"clip": 12345.678}],
)
def test_any_score_can_be_drawn(scores):
    contact_sheet([row((0,), 0, scores=scores), row((1,), 1, scores={"clip": 1.0})], title="t")


def test_a_bar_is_as_long_as_its_standing():
    def bar(share):
        rows = [row((0,), 0, scores={"clip": 0.5}, standing={"clip": share})]
        return count(contact_sheet(rows, title="t"), np.asarray(sheets.BAR) / 255, 0)

    assert 2.5 * bar(0.3) > bar(0.6) > 1.5 * bar(0.3) > 0


def test_a_path_never_decoded_still_has_its_row():
    rows = [*tree(), Row(path=(2,), frames=np.zeros((0, 8, 8, 3)), scores={}, pruned_at=1)]
    taller, lower = contact_sheet(rows, title="t"), contact_sheet(tree(), title="t")
    assert taller.height > lower.height


def test_a_path_apart_stands_below_the_tree_and_on_no_branch_of_it():
    apart = row((0, 0), 3, scores={"clip": 0.2}, note="no search", apart=True)
    rows = [row((1, 0), 2, scores={"clip": 0.4}, winner=True), apart]
    tree, both = contact_sheet(rows[:1], title="t"), contact_sheet(rows, title="t")
    end = tree.height - 40  # between the rows of the tree and the one below
    assert count(both, COLOURS[3]) > 5 * 50 * 50
    assert count(both.crop((0, 0, both.width, end)), COLOURS[3]) == 0
    left = np.asarray(both.crop((0, end, 60, both.height)))
    assert (left == 255).all()
