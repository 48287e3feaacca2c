"""The rules that say which branches stay."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_jax.search import Move, Node, SearchConfigError, paths, selection
from tts_jax.search.selection import (
    all_yes,
    best_of_groups,
    best_per_parent,
    ess,
    first_improving,
    fraction,
    median,
    multinomial,
    normalised,
    softmax_per_parent,
    systematic,
    top_k,
    tournament,
)

PATHS = [(0, 0), (0, 1), (0, 10), (0, 2), (1, 0)]


def nodes(values, of=PATHS):
    return [Node(p, p[:1], 0, value=v) for p, v in zip(of, values, strict=True)]


def kept(rule, values, *args, of=PATHS, **kwargs):
    return [node.path for node in rule(nodes(values, of), *args, **kwargs)]


some_values = st.one_of(
    st.none(), st.just(math.nan), st.just(-math.inf), st.integers(-3, 3).map(float)
)


@st.composite
def rounds_of_nodes(draw):
    """Shuffled children 0, 1, ... of several parents, with a few equal and absent values."""
    sizes = draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    made = [(parent, child) for parent, size in enumerate(sizes) for child in range(size)]
    values = draw(st.lists(some_values, min_size=len(made), max_size=len(made)))
    return draw(st.permutations(nodes(values, made)))


RULES = {
    "top_k": lambda n, cap: top_k(n, cap),
    "median": median,
    "fraction": lambda n, cap: fraction(n, 0.5, cap),
    "all_yes": lambda n, cap: all_yes(n, {}, cap),
}


@given(rounds_of_nodes(), st.integers(1, 20), st.sampled_from(sorted(RULES)))
def test_a_capped_rule_keeps_some_of_the_best_whatever_the_ties(made, cap, name):
    stay = RULES[name](made, cap)
    assert 1 <= len(stay) <= min(cap, len(made))
    assert stay == sorted(stay, key=lambda node: paths.order(node.path))
    assert set(map(id, stay)) <= set(map(id, made))
    key = lambda node: (-selection.worth(node), paths.order(node.path))  # noqa: E731
    gone = [node for node in made if node not in stay]
    assert not gone or max(map(key, stay)) < min(map(key, gone))


@given(rounds_of_nodes(), st.integers(1, 5), st.randoms())
def test_a_rule_does_not_depend_on_the_order_of_its_nodes(made, k, random):
    again = random.sample(made, len(made))
    for rule in (
        lambda n: top_k(n, k),
        median,
        best_per_parent,
        lambda n: best_of_groups(n, k),
        lambda n: [tournament(n, 0.5, np.random.default_rng(k))],
        lambda n: softmax_per_parent(n, 0.5, np.random.default_rng(k)),
    ):
        assert [n.path for n in rule(made)] == [n.path for n in rule(again)]


@given(rounds_of_nodes())
def test_the_median_is_that_of_numpy(made):
    values = np.array([selection.worth(node) for node in made])
    finite = values[np.isfinite(values)]
    if len(finite) == len(values):
        expected = {n.path for n in made if n.value >= np.median(values)}
        assert {n.path for n in median(made)} == expected
    elif len(finite):
        assert all(np.isfinite(selection.worth(node)) for node in median(made))


def test_top_k_keeps_the_best_in_the_order_of_their_paths():
    assert kept(top_k, [1, 5, 2, 9, 0], 2) == [(0, 1), (0, 2)]


def test_ties_go_to_the_smaller_path_and_ten_comes_after_two():
    assert kept(top_k, [0, 0, 7, 7, 7], 2) == [(0, 2), (0, 10)]
    assert kept(top_k, [0, 0, 7, 7, 0], 1) == [(0, 2)]


def test_children_go_before_moves_of_equal_value():
    move = Move("neighbour", 0, 0, 0.9)
    assert kept(top_k, [1, 1], 1, of=[(move, 0), (3, 0)]) == [(3, 0)]


def test_the_median_rule_keeps_its_ties():
    assert kept(median, [1, 2, 2, 2, 3]) == [(0, 1), (0, 2), (0, 10), (1, 0)]
    assert len(kept(median, [4] * 5)) == 5


def test_an_even_number_is_halved():
    assert kept(median, [4, 3, 2, 1], of=PATHS[:4]) == [(0, 0), (0, 1)]


def test_a_cap_cuts_the_ties_of_the_median():
    assert kept(median, [1, 2, 2, 2, 3], 2) == [(0, 1), (1, 0)]


def test_branches_without_a_value_go_first():
    nothing = -np.inf
    assert kept(median, [nothing, nothing, 1, None, np.nan]) == [(0, 10)]
    assert kept(top_k, [nothing, 1, np.nan, nothing, None], 2) == [(0, 0), (0, 1)]
    assert len(kept(median, [nothing] * 5, 3)) == 3


@pytest.mark.parametrize(("count", "share", "stay"), [(5, 0.5, 3), (10, 0.7, 7), (3, 0.01, 1)])
def test_a_fraction_is_rounded_up(count, share, stay):
    assert len(fraction(nodes(range(count), [(i,) for i in range(count)]), share)) == stay


def scored(*rows):
    """Nodes with scores by verifiers a and b, and values that fall with the path."""
    return [Node((i,), (), 0, {"a": a, "b": b}, value=-float(i)) for i, (a, b) in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "stay"),
    [
        ([(1, 1), (1, 0), (2, 3)], [0, 2]),  # all yes
        ([(0, 0), (1, 0), (0, 1)], [1]),  # no majority: most yeses, then the value
        ([(math.nan, 1), (0, 0)], [0]),
        ([(0, 0), (0, 0)], [0]),
    ],
)
def test_all_yes_keeps_what_all_accept_else_the_best(rows, stay):
    floors = {"a": 0.5, "b": 0.5}
    assert [n.path[0] for n in all_yes(scored(*rows), floors)] == stay


def test_all_yes_falls_back_on_what_more_accept_than_not():
    rows = scored((0, 1), (1, 0), (1, 1))
    for node, c in zip(rows, (1, 0, 0), strict=True):
        node.scores["c"] = c
    assert [n.path[0] for n in all_yes(rows, dict.fromkeys("abc", 0.5))] == [0, 2]
    assert [n.path[0] for n in all_yes(rows, dict.fromkeys("abc", 0.5), cap=1)] == [0]


def test_a_floor_of_a_verifier_that_does_not_judge_is_refused():
    with pytest.raises(SearchConfigError, match="floors has 'c', but the verifiers are a, b"):
        all_yes(scored((1, 1)), {"a": 0.5, "c": 0.5})


def test_each_parent_keeps_its_best_children():
    assert kept(best_per_parent, [1, 5, 5, 2, 0]) == [(0, 1), (1, 0)]
    assert kept(best_per_parent, [1, 5, 5, 2, 0], keep=2) == [(0, 1), (0, 10), (1, 0)]


def test_groups_are_consecutive_children_of_one_parent():
    of = [(p, c) for p in range(2) for c in range(6)]
    values = [0, 1, 0, 0, 0, 2, 3, 0, 0, 9, 9, 9]
    assert kept(best_of_groups, values, 3, of=of) == [(0, 1), (0, 5), (1, 0), (1, 3)]


def test_candidates_stay_in_their_group_in_later_segments():
    later = [Node((0, c, 0), (0, c), 1, value=float(c)) for c in (0, 2, 3)]
    assert [n.path for n in best_of_groups(later, 2, length=1)] == [(0, 0, 0), (0, 3, 0)]


def test_softmax_draws_by_value_and_is_the_best_at_temperature_zero():
    made, rng = nodes([math.log(3), 0.0, -math.inf], [(0, 0), (0, 1), (0, 2)]), None
    assert softmax_per_parent(made, 0, rng) == made[:1]
    rng = np.random.default_rng(0)
    drawn = [softmax_per_parent(made, 1.0, rng)[0].path[1] for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, [0.75, 0.25, 0], atol=0.02)


log_weights = st.lists(
    st.one_of(st.floats(-50, 50), st.just(-math.inf), st.just(math.nan)), min_size=1, max_size=20
)


@given(log_weights, st.integers(0, 2**32 - 1))
def test_systematic_counts_are_expectations_rounded_down_or_up(logs, seed):
    counts, expected = systematic(logs, np.random.default_rng(seed)), len(logs) * normalised(logs)
    assert counts.sum() == len(logs)
    assert (np.floor(expected - 1e-9) <= counts).all() and (counts <= expected + 1 + 1e-9).all()


@given(log_weights)
def test_a_weightless_particle_is_not_drawn(logs):
    weights = normalised(logs)
    for draw in (systematic, multinomial):
        assert not draw(logs, np.random.default_rng(0), 50)[weights == 0].any()
    assert 1 - 1e-9 <= ess(logs) <= len(logs) + 1e-9


def test_both_resamplings_are_unbiased():
    logs, rng = np.log([0.1, 0.2, 0.7]), np.random.default_rng(0)
    for draw in (systematic, multinomial):
        mean = sum(draw(logs, rng) for _ in range(4000)) / 4000
        np.testing.assert_allclose(mean, [0.3, 0.6, 2.1], atol=0.06)


def test_the_effective_sample_size_counts_equal_weights():
    assert ess([5.0] * 4) == pytest.approx(4)
    assert ess([0.0, -math.inf, 0.0]) == pytest.approx(2)
    assert ess([-math.inf] * 3) == pytest.approx(3)


def test_a_tournament_of_all_has_the_best_for_a_winner():
    made = nodes([1, 5, 2, 5, 0])
    assert tournament(made, 1.0, np.random.default_rng(0)).path == (0, 1)
    rng = np.random.default_rng(0)
    assert {tournament(made, 0.2, rng).path for _ in range(100)} == set(PATHS)


def test_the_first_that_improves_wins_and_equal_is_no_improvement():
    assert first_improving(nodes([1, 3, 9, 4, 0]), 2).path == (0, 1)
    assert first_improving(nodes([1, 3, 9, 4, 0]), 9) is None
    assert first_improving(nodes([None, -math.inf, math.nan, -5, None]), -math.inf).path == (0, 2)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda n: top_k(n, 0), "keeps 0"),
        (lambda n: median(n, 0), "keeps 0"),
        (lambda n: best_per_parent(n, -1), "keeps -1"),
        (lambda n: fraction(n, 0.0), r"share of 0.0 is not in \(0, 1\]"),
        (lambda n: tournament(n, 1.5, np.random.default_rng(0)), "share of 1.5"),
        (lambda n: softmax_per_parent(n, -1, np.random.default_rng(0)), "alpha is -1"),
    ],
)
def test_a_rule_keeps_something(choose, message):
    with pytest.raises(SearchConfigError, match=message):
        choose(nodes(range(5)))


def test_every_rule_takes_a_single_node():
    for value, (_, rule) in itertools.product((None, 1.0), RULES.items()):
        assert len(rule([Node((0,), (), 0, value=value)], 3)) == 1
