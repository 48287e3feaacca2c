import numpy as np
import pytest

from tts_jax.evaluation.statistics import bootstrap_interval, selection_efficiency


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.random(100) < 0.3, draws=500, seed=seed)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)


def test_an_interval_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_efficiency_is_zero_at_chance_and_one_at_the_best():
    assert selection_efficiency(0.2, 0.2, 0.6) == 0
    assert selection_efficiency(0.6, 0.2, 0.6) == pytest.approx(1)
    assert np.isnan(selection_efficiency(0.2, 0.2, 0.2))
