"""Random linear search and Tree-of-Frames: their rounds, and what those cost."""

import pytest

from tests.search.driver import CHAIN, ONE, SIXTEEN, UNITS, falling, hashed, run, settle, tied
from tts_jax.search import Outline, plan


def test_random_linear_search_is_one_round():
    result = run("random_linear", CHAIN, branches=7)
    assert (result.nfe, result.decodes, len(result.rounds)) == (7 * ONE["chain"], 7, 1)


def test_depths_judged_for_the_record_change_no_path():
    result = run("random_linear", CHAIN, branches=7, record_depths=(2, 5))
    assert (result.nfe, result.decodes) == (7 * ONE["chain"], 21)
    plain = run("random_linear", CHAIN, branches=7)
    assert [n.path for n in result.videos] == [n.path for n in plain.videos]


def layout(result):
    return [(r.to, r.children, r.judges, r.stage, len(r.parents), r.label) for r in result.rounds]


def test_the_embedded_tree_is_four_rounds():
    fields = dict(
        branching=(8, 2, 1, 1, 1), image_keep=3, judge_depths=(2,), rule="top_k", keep=(3,)
    )
    result = run("tree_of_frames", UNITS, **fields)
    assert layout(result) == [
        (1, 8, "image", 0, 1, ""),
        (3, 2, "panel", 0, 3, "top_k(3)"),
        (5, 1, "panel", None, 3, "top_k(3)"),
    ]
    assert result.nfe == 8 * 4 + 3 * 2 * 6 + 3 * 6
    firsts = sorted(result.nodes[0], key=lambda n: (-n.value, n.path))[:3]
    assert {p.path for p in result.rounds[1].parents} == {n.path for n in firsts}


def test_forks_without_judges_make_rounds_that_keep_everything():
    result = run("tree_of_frames", UNITS, branching=(2, 1, 3, 2, 1))
    assert layout(result) == [
        (2, 2, None, None, 1, ""),
        (3, 3, None, None, 2, ""),
        (5, 2, "panel", None, 6, ""),
    ]


@pytest.mark.parametrize(("score", "units"), [(falling, 90), (hashed, 90), (tied, 120)])
def test_the_published_tree_makes_ninety_units_and_with_ties_a_hundred_and_twenty(score, units):
    result = run("video_t1", SIXTEEN, score)
    assert result.advances == units
    images = 25 + 4 * 10
    assert result.decodes == images + (5 + 3 + 2 + 1 if units == 90 else 4 * 5)
    assert run("video_t1", SIXTEEN, score, cap=3).advances <= 90 + 8 + 2 * 2
    planned = plan(settle("video_t1"), SIXTEEN, "tied" if units == 120 else "distinct")
    assert planned.advances == units


def test_where_a_child_has_one_candidate_no_image_is_judged():
    result = run("video_t1", SIXTEEN)
    assert [r.to for r in result.rounds if r.judges == "image"] == [1, 2, 3, 4, 5]
    assert [(r.to, r.stage) for r in result.rounds if r.judges == "panel"] == [
        (5, 0),
        (10, 1),
        (14, 2),
        (16, None),
    ]


def test_rejected_candidates_go_no_further():
    """Five candidates of each child, of which 3, then 2, then 1 stay in a unit of 4 segments."""
    outline = Outline(units=(4, 4), nfe=(1,) * 8)
    fields = dict(branching=(2, 1), images=(5, 1), image_survivors=(3, 2))
    result = run("tree_of_frames", outline, **fields)
    # After the third segment a half of two is one.
    assert [(r.to, n, r.judges) for r, n in zip(result.rounds, result.widths, strict=True)] == [
        (1, 10, "image"),
        (2, 6, "image"),
        (3, 4, "image"),
        (8, 2, "panel"),
    ]
    assert result.nfe == 10 + 6 + 4 + 2 * 5
    for group in range(2):
        kept = [n for n in result.nodes[1] if n.path[0] // 5 == group]
        assert len(kept) == 3
    shares = run("tree_of_frames", outline, **fields | dict(image_survivors=(0.6, 0.5)))
    assert shares.widths == result.widths


def test_images_that_all_stay_are_not_judged():
    outline = Outline(units=(3, 1), nfe=(1,) * 4)
    fields = dict(branching=(2, 1), images=(3, 1), image_survivors=(3, 1.0))
    result = run("tree_of_frames", outline, **fields)
    assert layout(result)[0] == (3, 6, "image", 0, 1, "")


def test_all_candidates_of_the_last_unit_stand_for_the_final_pick():
    result = run("tree_of_frames", UNITS, branching=(2, 1, 1, 1, 1), images=(1, 1, 1, 1, 4))
    assert (result.widths[-1], result.rounds[-1].judges) == (8, "panel")


def test_stage_prompts_of_images_are_those_of_the_next_judge_depth():
    fields = dict(branching=(4, 1, 1, 1, 1), images=(2,) * 5, judge_depths=(1, 2), keep=(2, 1))
    result = run("tree_of_frames", UNITS, **fields)
    stages = [(r.to, r.stage) for r in result.rounds if r.judges == "image"]
    assert stages == [(1, 0), (2, 0), (3, 1), (4, None)]


@pytest.mark.parametrize(
    ("rule", "more", "live"),
    [
        ("top_k", {}, (4, 2)),
        ("fraction", dict(share=0.5, keep=(0, 0)), (4, 2)),
        ("all_yes", dict(floors={"a": 0.5}, keep=(0, 3)), (8, 3)),
        ("all_yes", dict(floors={"b": 0.5}, keep=(0, 0)), (1, 1)),
        ("median", dict(keep=(0, 0)), (4, 2)),
    ],
)
def test_a_rule_says_how_many_paths_live_on(rule, more, live):
    fields = dict(branching=(8, 1, 1, 1, 1), judge_depths=(0, 2), rule=rule, keep=(4, 2)) | more
    result = run("tree_of_frames", UNITS, **fields)
    assert tuple(len(r.parents) for r in result.rounds[1:]) == live
