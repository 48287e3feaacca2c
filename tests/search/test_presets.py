"""Every preset on a pencil of its own: sound rounds, counted costs, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.driver import (
    CHAIN,
    LONG_UNITS,
    ONE,
    OUTLINES,
    SCORES,
    SIXTEEN,
    UNITS,
    fields_of,
    run,
    settle,
    tied,
)
from tts_jax.search import PRESETS, Outline, SearchConfigError, plan


@pytest.mark.parametrize("outline", OUTLINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_makes_sound_rounds_for_any_generator_and_scores(preset, outline):
    outline = OUTLINES[outline]
    for score in SCORES.values():
        run(preset, outline, score, **fields_of(preset, outline))


@given(
    preset=st.sampled_from(PRESETS),
    outline=st.sampled_from(sorted(OUTLINES)),
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
    score=st.sampled_from(sorted(SCORES)),
)
@settings(max_examples=150, deadline=None)
def test_a_preset_goes_on_with_any_part_of_a_round(preset, outline, seed, share, score):
    outline = OUTLINES[outline]
    run(preset, outline, SCORES[score], seed, cut=share, **fields_of(preset, outline))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_asks_the_same_for_the_same_scores_and_seed(preset):
    for outline in (CHAIN, LONG_UNITS):
        one, two = (run(preset, outline, seed=3, **fields_of(preset, outline)) for _ in range(2))
        assert [[n.path for n in nodes] for nodes in one.nodes] == [
            [n.path for n in nodes] for nodes in two.nodes
        ]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("outline", OUTLINES)
def test_the_plan_counts_what_is_counted_here(preset, outline):
    outline = OUTLINES[outline]
    fields = fields_of(preset, outline)
    expected = run(preset, outline, tied, **fields)
    planned = plan(settle(preset, **fields), outline, "tied")
    assert [r.width for r in planned.rounds] == expected.widths
    assert (planned.nfe, planned.decodes) == (expected.nfe, expected.decodes)
    assert planned.advances == expected.advances


def test_a_preset_reads_the_fields_that_other_presets_share():
    """The embedded configuration holds the fields of two presets side by side."""
    both = dict(branching=(8, 2, 1, 1, 1), image_keep=3, judge_depths=(2,), keep=(3,), branches=4)
    assert run("random_linear", UNITS, rule="top_k", **both).nfe == 4 * ONE["units"]


ODE = Outline(units=(10,), nfe=(1,) * 10)
TREE = dict(branching=(2, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("preset", "outline", "fields", "message"),
    [
        ("random_linear", UNITS, dict(branches=0), "branches is 0, but at least 1"),
        ("random_linear", UNITS, dict(record_depths=(5,)), r"record_depths \[5\] are not all in"),
        ("random_linear", UNITS, dict(record_depths=(2, 2)), "do not increase"),
        ("tree_of_frames", UNITS, dict(branching=(2, 1, 1)), "3 entries for a video of 5 units"),
        ("tree_of_frames", UNITS, dict(branching=(2, 1, 0, 1, 1)), "without children"),
        ("tree_of_frames", UNITS, TREE | dict(images=(2, 1)), "images has 2 entries"),
        ("tree_of_frames", UNITS, TREE | dict(images=(0,) * 5), "without children"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1, 5), keep=(1, 1)), r"in 0\.\.4"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(-1,), keep=(1,)), r"in 0\.\.4"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(3, 1), keep=(1, 1)), "do not increase"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(4,), keep=(1,)), "the final pick"),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(0,), keep=(1,), image_keep=1),
            "image_keep judges already",
        ),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1,)), "0 entries for 1 judge depths"),
        ("tree_of_frames", UNITS, TREE | dict(rule="best"), "none of median, all_yes, top_k"),
        ("tree_of_frames", UNITS, TREE | dict(rule="all_yes"), "all_yes needs floors"),
        ("tree_of_frames", UNITS, TREE | dict(rule="fraction", share=2.0), r"share of 2.0 is not"),
        ("tree_of_frames", UNITS, TREE | dict(image_keep=3), "image_keep is 3 of 2"),
        ("tree_of_frames", UNITS, TREE | dict(image_keep=-1), "image_keep is -1"),
        ("tree_of_frames", CHAIN, dict(branching=(2,), image_keep=1), "more than one unit"),
        ("tree_of_frames", UNITS, TREE | dict(image_survivors=(0,)), "a candidate must stay"),
        ("tree_of_frames", UNITS, TREE | dict(image_survivors=(0.0,)), "share of 0.0"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1,), keep=(0,)), "keeps 0 paths"),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(1,), keep=(-2,), rule="median"),
            "keeps -2 paths",
        ),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(1,), keep=(3,)),
            "keeps 3 paths out of at most 2",
        ),
        ("video_t1", SIXTEEN, dict(cap=-1), "cap is -1"),
        ("beam", CHAIN, dict(beams=0), "beams is 0"),
        ("beam", CHAIN, dict(every=0), "every is 0"),
        ("beam", UNITS, dict(look_ahead=2), "look_ahead is 2, but this generator"),
        ("beam", ODE, {}, "forks inside a unit, after segment 1,"),
        ("greedy", CHAIN, dict(chains=0), "chains is 0"),
        ("greedy", CHAIN, dict(alpha=-0.1), "alpha is -0.1"),
        ("greedy", ODE, dict(every=5), "after segment 5,"),
        ("fk_steering", CHAIN, dict(particles=0), "particles is 0"),
        ("fk_steering", CHAIN, dict(potential="min"), "potential 'min' is none of diff, max"),
        ("fk_steering", CHAIN, dict(depths=(0, 4)), r"are not all in 1\.\.9"),
        ("fk_steering", CHAIN, dict(resample_below=1.5), "resample_below is 1.5"),
        ("fk_steering", ODE, {}, "needs a stochastic solver"),
        ("successive_halving", CHAIN, dict(widths=(4, 0)), "widths is 0"),
        ("successive_halving", CHAIN, dict(widths=(2, 4)), "can only become fewer"),
        ("successive_halving", CHAIN, dict(widths=(4, 2), depths=(1, 2)), "2 entries for 2 widths"),
        ("successive_halving", CHAIN, dict(delta=0), "delta is 0"),
        ("successive_halving", CHAIN, dict(calibration="nowhere.json"), "nowhere.json cannot be"),
        ("evolutionary", CHAIN, dict(schedule=(2, 10), sizes=(2, 2, 2)), r"not all in 0\.\.9"),
        ("evolutionary", CHAIN, dict(schedule=(2, 4), sizes=(2, 2)), "2 entries for 2 depths"),
        ("evolutionary", CHAIN, dict(schedule=(2,), sizes=(2, 0)), "sizes is 0"),
        ("evolutionary", CHAIN, dict(tournament=0.0), "share of 0.0"),
        ("evolutionary", CHAIN, dict(mutation=1.2), "mutation is 1.2"),
        ("evolutionary", CHAIN, dict(elites=-1), "elites is -1"),
        ("evolutionary", ODE, {}, "needs a stochastic solver"),
        ("evolutionary", ODE, dict(elites=0), "cannot add noise"),
        ("zero_order", UNITS, dict(neighbours=0), "neighbours is 0"),
        ("zero_order", UNITS, dict(strength=1.1), "strength is 1.1"),
        ("search_over_paths", CHAIN, dict(forward=1), "forward must be more"),
        ("search_over_paths", CHAIN, dict(start=1), "start must be more"),
        ("search_over_paths", CHAIN, dict(back=0), "back is 0"),
        ("search_over_paths", ODE, {}, "noises states again"),
        ("rollover_budget", CHAIN, dict(quota=0), "quota is 0"),
        ("rollover_budget", CHAIN, dict(batch=0), "batch is 0"),
        ("rollover_budget", ODE, {}, "needs a stochastic solver"),
        ("backtracking", UNITS, dict(branches=0), "branches is 0"),
        ("backtracking", UNITS, dict(restarts=-1), "restarts is -1"),
        ("backtracking", UNITS, dict(tolerance=-1.0), "tolerance is -1.0"),
        ("draft_then_replay", UNITS, dict(branches=2, replays=3), "replays is 3 of 2 drafts"),
        ("draft_then_replay", ODE, {}, "needs a generator that makes drafts"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(preset, outline, fields, message):
    with pytest.raises(SearchConfigError, match=message) as refused:
        run(preset, outline, **fields)
    assert "\n" not in str(refused.value) and ". " not in str(refused.value)


def test_forks_between_units_need_no_stochastic_solver():
    outline = Outline(units=(3,) * 5, nfe=(1,) * 15)
    for preset in ("beam", "greedy"):
        run(preset, outline, every=3)
    run("fk_steering", outline, depths=(3, 9))


def test_no_such_preset_is_refused():
    with pytest.raises(SearchConfigError, match="none of backtracking, beam"):
        settle("magic")
