"""The rules that say which branches stay."""

import numpy as np
import pytest

from tts_jax.search import SearchConfigError, best_per_parent, median, top_k

PATHS = [(0, 0), (0, 1), (0, 10), (0, 2), (1, 0)]
PARENTS = [(0,), (0,), (0,), (0,), (1,)]


def kept(rule, values, paths=PATHS, parents=PARENTS):
    return [paths[i] for i in rule(np.array(values, np.float32), paths, parents)]


def test_top_k_keeps_the_best_in_the_order_of_their_paths():
    assert kept(top_k(2), [1, 5, 2, 9, 0]) == [(0, 1), (0, 2)]


def test_ties_go_to_the_smaller_path_and_ten_comes_after_two():
    assert kept(top_k(2), [0, 0, 7, 7, 7]) == [(0, 2), (0, 10)]
    assert kept(top_k(1), [0, 0, 7, 7, 0]) == [(0, 2)]


def test_the_median_rule_keeps_its_ties():
    assert kept(median(), [1, 2, 2, 2, 3]) == [(0, 1), (0, 2), (0, 10), (1, 0)]
    assert len(kept(median(), [4] * 5)) == 5


def test_an_even_number_is_halved():
    assert kept(median(), [4, 3, 2, 1], PATHS[:4], PARENTS[:4]) == [(0, 0), (0, 1)]


def test_a_cap_cuts_the_ties_of_the_median():
    assert kept(median(2), [1, 2, 2, 2, 3]) == [(0, 1), (1, 0)]
    assert median(2).most(3, 4) == 2 and median().most(3, 4) == 12


def test_branches_without_a_value_go_first():
    nothing = -np.inf
    assert kept(median(), [nothing, nothing, 1, nothing, np.nan]) == [(0, 10)]
    assert kept(top_k(2), [nothing, 1, np.nan, nothing, nothing]) == [(0, 0), (0, 1)]
    assert len(kept(median(3), [nothing] * 5)) == 3


def test_each_parent_keeps_its_best_child():
    assert kept(best_per_parent(), [1, 5, 5, 2, 0]) == [(0, 1), (1, 0)]
    assert best_per_parent().most(3, 4) == 3


@pytest.mark.parametrize("rule", [top_k, median])
def test_a_rule_keeps_something(rule):
    with pytest.raises(SearchConfigError, match="keeps 0"):
        rule(0)
