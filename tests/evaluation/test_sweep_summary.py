import json

import numpy as np
import pytest

from tts_jax.evaluation.sweep import summarise
from tts_jax.report.curves import draw_sweep
from tts_jax.report.page import sprite
from tts_jax.report.sweep_page import examples, write_sweep_page

METRICS = ["success", "facts", "colour", "shape", "motion", "count", "score_judge", "score_held"]
PROMPTS, SEEDS, MOST = 30, 2, 8


@pytest.fixture(scope="module")
def rows():
    """Random linear search by a good judge, and a tree that is as good at half the cost."""
    rng = np.random.default_rng(0)
    picture = sprite(np.zeros((2, 4, 4, 3)))
    about = {"sprite": picture.pop("bytes"), **{f"sprite_{k}": v for k, v in picture.items()}}
    found = []
    for prompt in range(PROMPTS):
        for seed in range(SEEDS):
            facts = np.clip(rng.normal(0.3 + 0.4 * prompt / PROMPTS, 0.25, MOST), 0, 1)
            noise = rng.normal(0, 0.1, (2, MOST))
            table = {name: facts for name in METRICS[1:6]}
            table |= {"success": facts > 0.7, "colour": np.ones(MOST)}
            table |= {"score_judge": facts + noise[0], "score_held": facts + noise[1]}
            points = [("linear", "random_linear", n, n, n) for n in (1, 2, 4, 8)]
            points.append(("tree", "tree_of_frames", "big", 4, 8))
            for search, preset, budget, cost, count in points:
                pick = int(np.argmax(table["score_judge"][:count]))
                row = {
                    **about,
                    "search": search,
                    "preset": preset,
                    "budget": str(budget),
                    "panel": "judge",
                    "prompt": f"prompt {prompt}",
                    "prompt_index": prompt,
                    "seed": seed,
                    "candidates": count,
                    **{name: float(10 * cost) for name in ("nfe", "flops", "seconds")},
                }
                for name, column in table.items():
                    column = np.asarray(column, float)[:count]
                    row[name], row[f"best_{name}"] = column[pick], column.max()
                    row[f"chance_{name}"] = column.mean()
                    row[f"all_{name}"] = list(column) if budget == MOST else None
                found.append(row)
    return found


@pytest.fixture(scope="module")
def summary(rows):
    return summarise(rows, METRICS, {"judge": {"judge": 1.0}})


def test_points_hold_means_between_their_controls(rows, summary):
    by_name = {(p["search"], p["budget"]): p for p in summary["points"]}
    assert len(by_name) == 5 and summary["prompts"] == PROMPTS and summary["seeds"] == [0, 1]
    four = by_name["linear", "4"]["quality"]["facts"]
    own = [r["facts"] for r in rows if r["budget"] == "4"]
    assert four["mean"] == pytest.approx(np.mean(own))
    assert four["chance"] < four["mean"] <= four["best"]
    assert 0.5 < four["efficiency"] <= 1
    low, high = four["efficiency_interval"]
    assert low <= four["efficiency"] <= high
    assert by_name["linear", "1"]["quality"]["facts"]["efficiency"] is None
    json.dumps(summary, allow_nan=False)


def test_the_front_prefers_the_cheaper_of_equals(summary):
    front = [summary["points"][i] for i in summary["fronts"]["flops"]["facts"]]
    assert [p["budget"] for p in front] == ["1", "2", "big"]


def test_a_tree_is_tested_against_random_search_at_its_cost(summary):
    (found,) = [c for c in summary["comparisons"] if c["metric"] == "facts"]
    assert (found["first"], found["second"]) == (
        ["linear", "4", "judge"],
        ["tree", "big", "judge"],
    )
    assert found["cost_ratio"] == 1 and found["difference"] > 0 and found["losses"] < found["wins"]
    assert found["p_value"] < 0.01


def test_saturation_attributes_difficulty_and_over_optimisation_are_told(summary):
    (fit,) = [s for s in summary["saturation"] if s["metric"] == "facts"]
    assert fit["search"] == "linear" and fit["last"] <= fit["limit"] <= 1
    gains = {tuple(a["point"][:2]): a["gains"] for a in summary["attributes"]}
    assert gains["linear", "8"]["colour"]["gain"] == 0 < gains["linear", "8"]["motion"]["gain"]
    hard, easy = (
        next(d for d in summary["difficulty"] if d["bucket"] == b and d["point"][1] == "8")
        for b in ("hard", "easy")
    )
    assert hard["mean"] < easy["mean"] and hard["prompts"] == easy["prompts"] == 10
    curves = {(o["searching"], o["held_out"]): o["curve"] for o in summary["over_optimisation"]}
    assert [p["n"] for p in curves["judge", "facts"]] == [1, 2, 4, 8]
    assert curves["judge", "facts"][-1]["held_out"] > 1


def test_the_page_shows_who_gains_most_and_least(rows, summary, tmp_path):
    shown = examples(rows, summary)
    assert len(shown) == 8
    assert [e["gain"] for e in shown] == sorted((e["gain"] for e in shown), reverse=True)
    assert [v["search"] for v in shown[0]["videos"]] == ["single sample", "linear", "tree"]
    write_sweep_page(tmp_path / "report.html", rows, summary, title="sweep")
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page and "https://" not in page


def test_curves_for_papers_are_drawn_and_repeat(summary, tmp_path):
    for name in ("one.png", "one.svg", "two.svg"):
        draw_sweep(tmp_path / name, summary, "facts", panel="judge")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()


def test_a_grid_with_holes_is_told_as_far_as_it_goes(rows):
    part = [r for r in rows if (r["prompt_index"], r["seed"]) != (3, 1)]
    found = summarise(part, METRICS, {"judge": {"judge": 1.0}})
    assert found["points"][0]["rows"] == PROMPTS * SEEDS - 1
    with pytest.raises(ValueError, match="at least one row"):
        summarise([], METRICS, {})
