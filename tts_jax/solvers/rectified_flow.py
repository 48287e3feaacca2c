"""Rectified flow: straight paths from data to noise, and multistep solvers of their ODE and SDE.

A sample at noise level s is `x = (1 - s) z + s n`, z clean and n white noise (arXiv 2209.03003,
2210.02747); the denoiser predicts the velocity `n - z`. The solvers are written for the clean
estimate along the log-SNR `log((1 - s) / s)`, as exponential integrators: order 1 is Euler's step,
order 2 with a corrector is UniPC (arXiv 2302.04867). Arrays have any shape.

N steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.solvers.steps import Coefficients


class Corrector(NamedTuple):
    """What is added to the next state once the denoiser has been called there.

    Attributes:
      clean, previous: as of the predictor, at the state that the step left.
      ahead: the clean estimate at the next state, as predicted.
    """

    clean: np.ndarray
    previous: np.ndarray
    ahead: np.ndarray


def shift_levels(levels: np.ndarray, shift: float) -> np.ndarray:
    """Noise levels moved towards 1, where the ratio of noise to signal is `shift` times as high.

    Args:
      levels: in [0, 1].
      shift: 1 moves nothing; above 1 more steps are spent at high noise (arXiv 2403.03206, eq. 23).
    """
    return shift * levels / (1 + (shift - 1) * levels)


def clean_estimate(latents: Array, velocity: Array, level: Array) -> Array:
    """The clean sample that a predicted velocity implies, in float32.

    Args:
      latents: a sample at `level`.
      velocity: predicted n - z, same shape.
      level: its s.
    """
    return latents - level * velocity.astype(jnp.float32)


def ode_step(latents: Array, clean: Array, level: Array, next_level: Array) -> Array:
    """Euler's step, which keeps the clean estimate and the noise of a sample.

    Args:
      latents: a sample at `level`.
      clean: its clean estimate, same shape.
      level: its s, above 0.
      next_level: s after the step.
    """
    ratio = next_level / level
    return ratio * latents + (1 - ratio) * clean


def noise_again(latents: Array, level: Array, earlier: Array, normals: Array) -> Array:
    """Goes back to a noisier level in one draw from the forward process.

    Args:
      latents: a sample at `level`.
      level: its s, below 1.
      earlier: s to go back to, above `level`.
      normals: standard normal values, same shape.
    """
    kept = (1 - earlier) / (1 - level)
    return kept * latents + jnp.sqrt(earlier**2 - (kept * level) ** 2) * normals


def add_noise(latents: Array, level: Array, normals: Array, s: Array) -> Array:
    """x + s * level * normals (EvoSearch, arXiv 2505.17618).

    The result holds more noise than its level says.
    """
    return latents + s * level * normals


def solver_steps(
    levels: np.ndarray, *, order: int, correct: bool, eta: float = 0.0
) -> tuple[Coefficients, Corrector]:
    """Coefficients of a whole run, worked out in float64.

    The first step and the last are of order 1. With eta the steps follow an SDE of the same
    marginals, as SDE-DPM-Solver++ does (arXiv 2211.01095): the state forgets `exp(-eta h)` of
    itself over a step of log-SNR h and gets fresh noise in its place, and the integrals over the
    clean estimate have the weight of that decay.

    Args:
      levels: noise levels of all states, [N + 1], falling from at most 1 to 0; below 1 for a
        corrector or an order above 1.
      order: 1 or 2.
      correct: whether each step but the last is corrected; the corrector has the order of its step.
      eta: amount of fresh noise in [0, 1]: 0 is the ODE.

    Returns:
      Coefficients of every step, [N] each.

    Raises:
      ValueError: another order, or levels that the solver cannot start from.
    """
    if order not in (1, 2):
        raise ValueError(f"order {order}; solvers of order 1 and 2 are there")
    levels = np.asarray(levels, np.float64)
    if levels[0] >= 1 and (correct or order > 1):
        raise ValueError("a solver of order 2, or with a corrector, starts below noise level 1")
    here, there = levels[:-1], levels[1:]
    with np.errstate(divide="ignore"):
        log_snr = np.log1p(-levels) - np.log(levels)
    width = np.diff(log_snr)
    count = len(width)
    shrink = np.exp(-width) ** eta
    decay = np.exp(-width) * shrink  # of the weight over the step
    gain = (1 - there) * (1 - decay)
    second = np.zeros(count, bool)
    second[1 : count - 1] = order == 2
    # where the clean estimate before lies, in units of the step; negative
    place = np.full(count, -1.0)
    place[second] = -width[:-1][second[1:]] / width[second]
    slope = np.where(second, 0.5 / place, 0.0)
    predictor = Coefficients(
        there / here * shrink,
        gain * (1 - slope),
        gain * slope,
        there * np.sqrt(1 - shrink**2),
    )
    zeros = np.zeros(count)
    if not correct:
        return predictor, Corrector(zeros, zeros, zeros)
    before, ahead = zeros.copy(), np.where(np.arange(count) < count - 1, 0.5, 0.0)
    for i in np.flatnonzero(second):
        before[i], ahead[i] = _corrector_weights(-(1 + eta) * width[i], place[i])
    change = np.where(second, before / place, 0.0) - slope
    return predictor, Corrector(gain * (-change - ahead), gain * change, gain * ahead)


def _corrector_weights(h: float, place: float) -> np.ndarray:
    """Weights of the two differences in a corrector of order 2 whose B is expm1(h)."""
    scale = np.expm1(h)
    first = scale / h - 1
    wanted = np.array([first, 2 * (first / h - 0.5)]) / scale
    return np.linalg.solve([[1.0, 1.0], [place, 1.0]], wanted)
