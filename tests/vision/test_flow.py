"""Correlation of two feature maps and its look-up, against cells counted one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.vision import flow

RNG = np.random.default_rng(0)


def cell(plane, x, y):
    """A plane's value between cells, zero outside."""
    left, top = int(np.floor(x)), int(np.floor(y))
    found = 0.0
    for column, row in np.ndindex(2, 2):
        a, b = left + column, top + row
        if 0 <= a < plane.shape[1] and 0 <= b < plane.shape[0]:
            found += plane[b, a] * (1 - abs(x - a)) * (1 - abs(y - b))
    return found


def test_a_window_is_read_column_by_column_around_its_place():
    volumes = [RNG.normal(size=(1, 6, 5, 4)), RNG.normal(size=(1, 6, 2, 2))]
    places = RNG.uniform(-2, 6, (1, 2, 3, 2))
    found = flow.lookup([jnp.asarray(v) for v in volumes], jnp.asarray(places), 1)
    assert found.shape == (1, 2, 3, 2 * 9)
    for index, (x, y) in enumerate(places.reshape(-1, 2)):
        expected = [
            cell(volume[0, index], x / 2**level + dx, y / 2**level + dy)
            for level, volume in enumerate(volumes)
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        ]
        np.testing.assert_allclose(found.reshape(6, -1)[index], expected, atol=1e-5)


def test_odd_rows_and_columns_are_dropped_from_coarser_levels():
    volume = RNG.normal(size=(1, 2, 5, 7))
    levels = flow.pyramid(jnp.asarray(volume), 3)
    assert [x.shape[2:] for x in levels] == [(5, 7), (2, 3), (1, 1)]
    for place in np.ndindex(2, 3):
        row, column = 2 * place[0], 2 * place[1]
        mean = volume[..., row : row + 2, column : column + 2].mean((2, 3))
        np.testing.assert_allclose(levels[1][..., *place], mean, atol=1e-6)


def test_a_turned_correlation_is_that_of_the_second_map_with_the_first():
    first, second = jnp.asarray(RNG.normal(size=(2, 1, 2, 3, 4)))
    one, other = flow.correlate(first, second), flow.correlate(second, first)
    product = jnp.vdot(first[0, 1, 2], second[0, 0, 1]) / 2  # the root of four channels
    assert one[0, 5, 0, 1] == pytest.approx(float(product), abs=1e-6)
    np.testing.assert_allclose(flow.turn(one), other, atol=1e-6)
