"""The shapes of calls, and which branch lies where."""

import numpy as np
import pytest

from tts_jax.search.expansion import Layout, Row, layout, row_arrays, rows


def shape(parents, children, devices=1, micro_batch=0, exact=False, share=True):
    return layout(
        parents, children, devices=devices, micro_batch=micro_batch, exact=exact, share=share
    )


def test_siblings_stay_together_where_devices_and_memory_allow():
    assert shape(4, 3) == Layout(rows=4, siblings=3)
    assert shape(4, 2, devices=8) == Layout(rows=8, siblings=1)
    assert shape(8, 2, devices=8) == Layout(rows=8, siblings=2)
    assert shape(1, 12, micro_batch=8) == Layout(rows=1, siblings=6)
    assert shape(1, 12, share=False, micro_batch=8) == Layout(rows=8, siblings=1)


def test_exact_calls_hold_one_branch_per_device():
    assert shape(5, 3, devices=4, exact=True) == Layout(rows=4, siblings=1)


@pytest.mark.parametrize("parents", [1, 3, 7])
@pytest.mark.parametrize("children", [1, 5, 12])
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_no_device_holds_more_than_a_micro_batch(parents, children, devices, micro_batch):
    chosen = shape(parents, children, devices, micro_batch)
    assert chosen.rows * chosen.siblings <= devices * micro_batch
    made, places = rows(range(parents), [range(children)] * parents, chosen.siblings)
    capacity = chosen.capacity(len(made))
    assert len(set(places)) == parents * children and max(places) < capacity
    assert capacity % (chosen.rows * chosen.siblings) == 0


def test_numbers_of_rows_come_from_a_short_list():
    listed = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}
    assert {shape(parents, 1).rows for parents in range(1, 65)} == listed
    limits = range(1, 65)
    assert {shape(64, 1, micro_batch=limit).rows for limit in limits} == listed


def test_less_than_a_third_of_a_call_is_padding():
    for parents in range(1, 200):
        chosen = shape(parents, 1).rows
        assert parents <= chosen < parents * 3 / 2


def test_every_child_has_one_row_and_one_place():
    made, places = rows([4, 2], [(0, 1, 2), (5,)], siblings=2)
    assert made == [Row(4, (0, 1)), Row(4, (2,)), Row(2, (5,))]
    assert places == [0, 1, 2, 4]


def test_calls_are_filled_up_by_repetition():
    slots, children = row_arrays([Row(4, (2,)), Row(2, (0, 1))], Layout(rows=3, siblings=2))
    np.testing.assert_array_equal(slots, [4, 2, 4])
    np.testing.assert_array_equal(children, [[2, 2], [0, 1], [2, 2]])
