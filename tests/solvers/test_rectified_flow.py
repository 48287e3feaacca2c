"""Rectified flow: known cases of its steps."""

import numpy as np
import pytest

from tts_jax.solvers import rectified_flow as flow


def test_levels_are_shifted_in_their_ratio_of_noise_to_signal():
    levels = np.array([0.0, 0.2, 0.5, 1.0])
    shifted = flow.shift_levels(levels, 3.0)
    np.testing.assert_allclose(shifted[1:3] / (1 - shifted[1:3]), 3 * np.array([0.25, 1.0]))
    assert shifted[0] == 0 and shifted[-1] == 1


def test_an_euler_step_moves_along_the_velocity():
    latents, velocity = np.float32([1.0, -2.0]), np.float32([0.5, 3.0])
    clean = flow.clean_estimate(latents, velocity, 0.8)
    step = flow.ode_step(latents, clean, 0.8, 0.5)
    np.testing.assert_allclose(step, latents - 0.3 * velocity, rtol=1e-6)


def test_noising_again_gives_the_earlier_level():
    """Signal and variance of a sample of clean value 1 and unit noise."""
    mean = flow.noise_again(1 - 0.3, 0.3, 0.7, 0.0)
    carried = flow.noise_again(0.3, 0.3, 0.7, 0.0)
    fresh = flow.noise_again(0.0, 0.3, 0.7, 1.0)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-6)
    np.testing.assert_allclose(carried**2 + fresh**2, 0.7**2, rtol=1e-6)


def test_a_second_order_solver_with_its_corrector_errs_less():
    """On Gaussian data of deviation d, where the ODE scales a sample with its spread."""
    deviation = 0.5

    def error(order, correct):
        levels = np.append(np.linspace(0.99, 0.05, 12), 0.0)
        predictor, corrector = flow.solver_steps(levels, order=order, correct=correct)

        def spread(s):
            return np.hypot((1 - s) * deviation, s)

        def estimate(x, s):
            return (1 - s) * deviation**2 / spread(s) ** 2 * x

        x, previous = spread(levels[0]), 0.0
        clean = estimate(x, levels[0])
        for i in range(len(levels) - 2):
            a, c = ([column[i] for column in part] for part in (predictor, corrector))
            x = a[0] * x + a[1] * clean + a[2] * previous
            ahead = estimate(x, levels[i + 1])
            x += c[0] * clean + c[1] * previous + c[2] * ahead
            previous, clean = clean, ahead
        return abs(x - spread(levels[-2]))

    assert error(2, True) < 0.7 * error(2, False) < 0.5 * error(1, False)


def test_solvers_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="order 3"):
        flow.solver_steps(np.array([0.9, 0.0]), order=3, correct=True)
    with pytest.raises(ValueError, match="starts below noise level 1"):
        flow.solver_steps(np.array([1.0, 0.0]), order=2, correct=True)
