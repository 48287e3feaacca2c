"""Searches that go back or try again: neighbours, paths, rollover, backtracking, drafts."""

import math

import pytest

from tests.search.driver import (
    CHAIN,
    LONG_UNITS,
    ONE,
    OUTLINES,
    UNITS,
    falling,
    run,
    tied,
)
from tts_jax.search import (
    ROOT,
    Move,
    Renoise,
)
from tts_jax.search.presets.backtracking import first_bad_unit


def test_zero_order_search_never_makes_its_pivot_again():
    result = run("zero_order", CHAIN, neighbours=3, iterations=6)
    assert (result.nfe, result.decodes) == ((1 + 6 * 3) * ONE["chain"], 19)
    pivot = max(result.nodes[0], key=lambda n: n.value)
    moves = lambda path: tuple(s for s in path if isinstance(s, Move))  # noqa: E731
    for nodes in result.nodes[1:]:
        assert {moves(n.path)[:-1] for n in nodes} == {moves(pivot.path)}
        pivot = max([pivot, *nodes], key=lambda n: n.value)
    assert run("zero_order", CHAIN, tied).nodes[-1][0].path[0].index >= 12


def test_search_over_paths_costs_its_formula():
    fields = dict(samples=3, children=4, start=4, back=1, forward=3)
    result = run("search_over_paths", CHAIN, **fields)
    assert [r.to for r in result.rounds] == [4, 6, 8, 10]
    assert result.nfe == 3 * (3 + 2 * 3) + 12 * 2 * (3 * 3)
    assert result.decodes == 3 * 12
    assert [r.propose for r in result.rounds] == [None, Renoise(3), Renoise(5), Renoise(7)]


def test_search_over_paths_noises_again_in_every_unit():
    result = run("search_over_paths", LONG_UNITS, samples=2, children=3)
    assert [r.to for r in result.rounds] == [d + 3 * u for u in range(5) for d in (2, 3)]
    assert result.nfe == 5 * (2 * 2 * 2 + 6 * 2 * 2)


def test_rollover_spends_its_quota_where_nothing_improves():
    for score in (tied, falling):
        result = run("rollover_budget", CHAIN, score, quota=7, batch=3)
        # The first segment takes one batch, and what is left of its quota goes to the second.
        assert result.nfe == 3 * 3 + (7 + 4) * 2 + 8 * 7 * 2
        assert result.decodes == 7 * 10


def test_the_first_improving_child_goes_on_and_the_rest_of_the_quota_rolls_over():
    better = lambda path: float(len(path))  # noqa: E731
    result = run("rollover_budget", CHAIN, better, quota=4, batch=2)
    assert result.nfe == 2 * ONE["chain"] and len(result.rounds) == 10
    late = lambda path: float(len(path) == 1 or len(path) > 9)  # noqa: E731
    result = run("rollover_budget", CHAIN, late, quota=4, batch=2)
    assert max(n.path[0] for n in result.nodes[0]) == 1
    assert sum(r.to == 2 for r in result.rounds) == 3, "4 of its own and 2 left over"


@pytest.mark.parametrize("outline", sorted(OUTLINES))
def test_backtracking_restarts_from_the_prefix_before_the_first_bad_unit(outline):
    outline = OUTLINES[outline]
    ends = (0, *outline.unit_ends)
    units = len(outline.units)
    bad = min(2, units - 1)
    # Every prefix is worth its length, but for those whose bad unit is child 0.
    score = lambda path: len(path) - 50.0 * (len(path) > ends[bad] and path[ends[bad]] == 0)  # noqa: E731
    result = run("backtracking", outline, score, branches=3, restarts=1, children=2)
    again = result.rounds[units]
    if units > 1:
        assert (len(again.parents[0].path), again.first_child) == (ends[bad], 1)
    else:
        assert (again.parents, again.first_child) == ([ROOT], 3)
    rest = sum(outline.nfe[ends[bad] :])
    assert result.nfe == 3 * sum(outline.nfe) + 2 * rest
    assert result.decodes == 3 * units + 2 * (units - bad)


def test_backtracking_goes_on_from_what_it_found():
    result = run("backtracking", UNITS, branches=4, restarts=5, children=2)
    restarts = [r for r in result.rounds if r.label]
    assert len(restarts) == 5
    assert result.nfe <= 14 * ONE["units"]
    paths_made = [n.path for n in result.videos]
    assert len(set(paths_made)) == len(paths_made) == 14


@pytest.mark.parametrize(
    ("values", "tolerance", "unit"),
    [
        ([5, 5, 6, 4, 3], 0.0, 2),
        ([5, 3, 6, 4, 3], 0.0, 0),
        ([5, 5, 6, 4, 0], 3.0, 3),
        ([5, 5, 6, 4, 3], 9.0, 2),
        ([0, 0, 0, 0], 0.0, 0),
        ([5, 5, -math.inf, -math.inf], 0.0, 1),
        ([-math.inf, -math.inf, 1, 2], 0.0, 0),
    ],
)
def test_the_first_bad_unit_is_the_first_to_lose_more_than_tolerated(values, tolerance, unit):
    assert first_bad_unit(values, tolerance) == unit


def test_drafts_are_explored_and_the_best_are_made_in_full():
    result = run("draft_then_replay", CHAIN, branches=6, replays=2)
    assert (result.nfe, result.decodes) == (6 * 10 + 2 * ONE["chain"], 8)
    drafts = sorted(result.nodes[0], key=lambda n: -n.value)[:2]
    assert {n.path for n in result.videos} == {n.path for n in drafts}
    assert {n.fidelity for n in result.videos} == {"full"}
