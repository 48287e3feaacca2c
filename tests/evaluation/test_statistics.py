import numpy as np
import pytest

from tts_jax.evaluation.statistics import (
    bootstrap_interval,
    efficiency_interval,
    fit_saturation,
    paired_test,
    prompt_means,
    selection_efficiency,
)


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


def test_seeds_of_a_prompt_do_not_pass_for_prompts():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(40, 1))
    low, high = bootstrap_interval(prompts + np.zeros((40, 3)))
    assert (low, high) == pytest.approx(bootstrap_interval(prompts[:, 0]))
    covered = 0
    for seed in range(200):
        values = rng.normal(size=(30, 1)) + rng.normal(size=(30, 4))
        low, high = bootstrap_interval(values, draws=400, seed=seed)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_missing_seeds_are_left_out_and_a_lone_prompt_is_resampled_by_seeds():
    assert prompt_means([[1.0, np.nan], [0.0, 1.0]]).tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="no value for any seed"):
        prompt_means([[np.nan, np.nan]])
    low, high = bootstrap_interval([[0.0, 1.0, 0.0, 1.0]])
    assert low < 0.5 < high


def test_a_paired_test_knows_the_exact_chance_of_few_prompts():
    found = paired_test([0.0] * 5, [1.0, 2.0, 1.0, 3.0, 0.5])
    assert found.p_value == 2 / 2**5
    assert (found.wins, found.ties, found.losses) == (5, 0, 0)
    assert paired_test([1.0, 2.0], [1.0, 2.0]).p_value == 1
    assert paired_test([0.0, 1.0], [1.0, 0.0]).p_value == 1
    with pytest.raises(ValueError, match="same prompts and seeds"):
        paired_test([0.0], [0.0, 1.0])


def test_a_paired_test_of_nothing_is_wrong_as_rarely_as_it_says():
    rng = np.random.default_rng(2)
    found = []
    for seed in range(200):
        first, second = rng.normal(size=(2, 25)) + 3 * rng.normal(size=25)
        found.append(paired_test(first, second, draws=400, seed=seed).p_value)
    assert np.mean(np.array(found) <= 0.05) <= 0.1
    assert paired_test(first, first + 0.5 + 0.1 * second).p_value < 0.01


def test_the_efficiency_has_an_interval_around_it():
    chance, best = np.full(50, 0.5), np.ones(50)
    picked = np.where(np.arange(50) < 25, 1.0, 0.5)
    low, high = efficiency_interval(picked, chance, best)
    assert low < 0.5 < high and high - low < 0.35
    assert np.isnan(efficiency_interval(chance, best, best)).all()


def test_a_geometric_approach_is_found_again():
    costs = 3.0 * 2.0 ** np.arange(5)
    rng = np.random.default_rng(0)
    truth = 0.9 - 0.4 * 0.5 ** np.arange(5)
    values = truth[:, None] + 0.02 * rng.normal(size=(5, 60)) + 0.05 * rng.normal(size=60)
    found = fit_saturation(costs, values - values.mean(1, keepdims=True) + truth[:, None])
    assert found.limit == pytest.approx(0.9, abs=1e-6)
    assert found.gap == pytest.approx(0.4, abs=1e-6)
    assert found.ratio == pytest.approx(0.5)
    assert found.reached == pytest.approx(1 - 0.5**4)
    assert found.interval[0] < 0.9 < found.interval[1]


def test_a_limit_stays_below_the_ceiling_and_a_falling_curve_has_no_gap():
    rising = np.array([0.5, 0.7, 0.9])[:, None] + np.zeros((3, 4))
    assert fit_saturation([1, 2, 4], rising, ceiling=1.0).limit <= 1
    falling = fit_saturation([1, 2, 4], rising[::-1])
    assert falling.gap == 0 and falling.limit == pytest.approx(0.7)
    with pytest.raises(ValueError, match="three different positive costs"):
        fit_saturation([1, 2], rising[:2])
