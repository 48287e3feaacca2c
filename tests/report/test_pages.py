"""Pages of runs and sweeps: one file each that holds all it shows and fetches nothing."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tts_jax.report.page import embedded, render, sprite
from tts_jax.report.run_page import path_nfe, write_run_page
from tts_jax.search import Outline
from tts_jax.search.paths import Move

OUTLINE = Outline(units=(1, 1), nfe=(4, 2), renoise_nfe=lambda depth, to: 10 * depth + to)
PROMPT = 'a </script><b>"bold"</b> {{ data }} & {{ style }} prompt'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checked(HTMLParser):
    """Collects what a page refers to, and fails where an element is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.ids, self.texts = [], [], [], {}

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "action")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def parsed(page):
    text = page.decode()
    checked = Checked()
    checked.feed(text)
    checked.close()
    assert not checked.open and not checked.references
    assert len(set(checked.ids)) == len(checked.ids)
    assert not re.search(r"https?://|@import|\bfetch\(|XMLHttpRequest", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    return checked, data


def video(seed, frames=3, size=8):
    return np.random.default_rng(seed).random((frames, size, size + 2, 3)).astype(np.float32)


def node(path, parent, number, value, kept=False):
    scores = {} if value is None else {"look": value, "other": None}
    return dict(path=path, parent=parent, round=number, scores=scores, value=value, kept=kept)


def tree():
    cost = dict(launches=3, calls=3, nfe=10, flops=5, padding=0, padding_nfe=0, padding_flops=0)
    role = {"path": [0, 0], "panel": 1.0, "scores": {"look": 2.0, "other": None}}
    return {
        "prompt": PROMPT,
        "prompt_index": 0,
        "seed": 3,
        "stage_prompts": ["a"],
        "panel": {"verifiers": ["look", "other"], "weights": [1.0, 0.0], "held_out": ["other"]},
        "best": [0, 0],
        "rounds": [
            {"to": 1, "parents": 1, "judges": "image", "stage": 0, "label": ""},
            {"to": 2, "parents": 1, "judges": "panel", "stage": None, "label": "top_k(1)"},
        ],
        "nodes": [
            node([0], [], 0, 0.5, kept=True),
            node([1], [], 0, None),
            node([0, 0], [0], 1, 2.0, kept=True),
            node([0, 1], [0], 1, 1.0),
        ],
        "cut": False,
        "cost": {"generator": cost, "total": cost},
        "winner": role,
        "single": role,
    }


@pytest.fixture
def write(tmp_path):
    def make(name="report.html", frames=None):
        frames = frames or [video(0, 1), None, video(2), video(3)]
        options = dict(outline=OUTLINE, preset="tree_of_frames", generator="tiny", fps=8)
        path = tmp_path / name
        write_run_page(path, tree(), frames, winner=video(2), single=video(2), **options)
        return path.read_bytes()

    return make


def test_a_run_page_holds_every_node_with_its_scores_and_pictures(write):
    checked, data = parsed(write())
    assert [n["path"] for n in data["nodes"]] == [n["path"] for n in tree()["nodes"]]
    assert [n["scores"] for n in data["nodes"]] == [n["scores"] for n in tree()["nodes"]]
    assert [n["sprite"] for n in data["nodes"]] == [0, None, 1, 2]
    assert [n["nfe"] for n in data["nodes"]] == [4, 4, 6, 6]
    assert data["tree"]["prompt"] == PROMPT and data["video_nfe"] == 6
    assert "".join(checked.texts["title"]) == PROMPT
    for part in ("tree", "inspector", "versus", "compare", "cost", "replay"):
        assert part in checked.ids


def test_pictures_decode_to_the_frames(write):
    _, data = parsed(write())
    picture = data["sprites"][1]
    image = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))
    assert image.size == (picture["width"] * picture["frames"], picture["height"])
    pixels = np.asarray(image.convert("RGB")).reshape(8, 3, 10, 3).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(pixels, np.round(video(2) * 255))


def test_equal_searches_give_equal_bytes_and_other_pictures_other_ones(write):
    assert write() == write("again.html")
    assert write() != write("other.html", [video(9, 1), None, video(2), video(3)])


def test_large_videos_are_made_small_and_long_ones_sampled(write):
    large = sprite(video(0, 40, 300), size=100, count=8)
    assert (large["frames"], large["width"], large["height"]) == (8, 100, 99)
    page = write(frames=[video(i, 24, 400) for i in range(4)])
    assert len(page) < 5_000_000
    with pytest.raises(ValueError, match="not empty"):
        sprite(np.zeros((0, 2, 2, 3)))


def test_a_path_costs_its_segments_and_its_ways_back():
    assert path_nfe((3, 1), OUTLINE) == 6
    back = Move("renoise", 0, 1, 1.0)
    assert path_nfe((0, 0, back, 0), OUTLINE) == 4 + 2 + 21 + 2
    drafts = Outline(units=(1, 1), nfe=(4, 2), draft_nfe=(1, 1))
    assert path_nfe((0, 0), drafts, draft=True) == 2


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError):
        render("sweep", "title", {"value": float("nan")})
    assert embedded(sprite(video(0)))["src"].startswith("data:image/webp;base64,")
