"""Configurations become rounds, or one sentence that says why not."""

from types import SimpleNamespace

import pytest

from tts_jax.search import Round, SearchConfigError, load_rounds, plan, top_k

MODEL = SimpleNamespace(num_segments=5, nfe=lambda segment: 2 + segment)


def layout(rounds):
    return [(list(r.segments), r.children, r.judges, r.stage, bool(r.select)) for r in rounds]


def test_random_linear_is_one_round(linear):
    (r,) = rounds = linear(7)
    assert layout(rounds) == [([0, 1, 2, 3, 4], 7, "panel", None, True)]
    (p,) = plan(rounds, MODEL)
    assert (p.width, p.kept, p.advances, p.nfe, p.decodes) == (7, 1, 35, 7 * 20, 7)
    assert r.select.name == "top_k(1)"


def test_a_tree_is_cut_at_forks_and_judge_depths(tree):
    rounds = tree((8, 1, 2, 1, 1), image_keep=4, judge_depths=(1, 3), rule="median", keep=(2, 0))
    assert layout(rounds) == [
        ([0], 8, "image", 0, True),
        ([1], 1, "panel", 0, True),
        ([2, 3], 2, "panel", 1, True),
        ([4], 1, "panel", None, True),
    ]
    plans = plan(rounds, MODEL)
    assert [(p.parents, p.width, p.kept) for p in plans] == [
        (1, 8, 4),
        (4, 4, 2),
        (2, 4, 4),
        (4, 4, 1),
    ]
    assert sum(p.advances for p in plans) == 8 + 4 + 8 + 4


def test_forks_without_judges_make_rounds_that_keep_everything(tree):
    assert layout(tree((2, 1, 3, 2, 1))) == [
        ([0, 1], 2, "panel", None, False),
        ([2], 3, "panel", None, False),
        ([3, 4], 2, "panel", None, True),
    ]


def test_a_video_of_one_segment_is_judged_as_a_video(tree):
    assert layout(tree((3,))) == [([0], 3, "panel", None, True)]


def test_the_published_tree_makes_ninety_units(tree):
    """Video-T1's sixteen units without image candidates: 5 paths, halved at 4, 9 and 13."""
    rounds = tree((5, *[1] * 15), judge_depths=(4, 9, 13), rule="median", keep=(3, 2, 1))
    plans = plan(rounds, SimpleNamespace(num_segments=16, nfe=lambda segment: 1))
    assert sum(p.advances for p in plans) == 5 * 5 + 3 * 5 + 2 * 4 + 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(branching=(2, 1, 1)), "3 entries for a video of 5 segments"),
        (dict(branching=(2, 1, 0, 1, 1)), "without children"),
        (dict(judge_depths=(1, 5), keep=(1, 1)), r"not all in 0\.\.4"),
        (dict(judge_depths=(-1,), keep=(1,)), r"not all in 0\.\.4"),
        (dict(judge_depths=(3, 1), keep=(1, 1)), "do not increase"),
        (dict(judge_depths=(4,), keep=(1,)), "the final pick"),
        (dict(judge_depths=(0,), keep=(1,), image_keep=1), "image_keep judges already"),
        (dict(judge_depths=(1,), keep=()), "0 entries for 1 judge depths"),
        (dict(rule="best"), "neither 'median' nor 'top_k'"),
        (dict(image_keep=3), "image_keep is 3 of 2"),
        (dict(image_keep=-1), "image_keep is -1"),
        (dict(judge_depths=(1,), keep=(0,)), "keeps 0"),
        (dict(judge_depths=(1,), keep=(-2,), rule="median"), "keeps -2"),
    ],
)
def test_fields_that_do_not_fit_are_refused(tree, fields, message):
    with pytest.raises(SearchConfigError, match=message):
        tree(**{"branching": (2, 1, 1, 1, 1), "num_segments": 5} | fields)


def test_more_cannot_be_kept_than_there_is(tree):
    rounds = tree((2, 1, 1, 1, 1), judge_depths=(1,), keep=(3,))
    with pytest.raises(SearchConfigError, match="keeps 3 branches out of at most 2"):
        plan(rounds, MODEL)


def test_no_branches_and_no_preset_are_refused(linear):
    with pytest.raises(SearchConfigError, match="branches is 0"):
        linear(0)
    with pytest.raises(SearchConfigError, match="none of random_linear, tree_of_frames"):
        load_rounds(SimpleNamespace(preset="magic"), 5)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ([Round(segments=range(4), select=top_k(1))], "make 4 of 5 segments"),
        ([Round(segments=range(5))], "selects no winner"),
        ([Round(segments=(0, 2), select=top_k(1))], r"advances \[0, 2\] after 0"),
        ([Round(segments=range(5), children=0, select=top_k(1))], "0 children"),
        ([], "make 0 of 5"),
    ],
)
def test_rounds_that_make_no_video_are_refused(rounds, message):
    with pytest.raises(SearchConfigError, match=message):
        plan(rounds, MODEL)
