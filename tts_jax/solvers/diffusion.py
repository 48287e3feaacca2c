"""Variance-preserving diffusion: steps of DDIM (arXiv 2010.02502) from any kind of prediction.

A sample at level a is `x = sqrt(a) z + sqrt(1 - a) n`: z is clean, n white noise, a the cumulated
product of the published tables, from 1 for clean to 0 for noise. Arrays have any shape.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.solvers.steps import Coefficients

Kind = Literal["noise", "clean", "velocity"]


class Parts(NamedTuple):
    """What a prediction says of a sample.

    Attributes:
      clean: expected z, the clean estimate.
      noise: expected n, same shape.
    """

    clean: Array
    noise: Array


def split(latents: Array, prediction: Array, level: Array, kind: Kind) -> Parts:
    """Clean estimate and noise of a sample, in float32.

    Args:
      latents: x.
      prediction: of the denoiser, same shape.
      level: a of x, in (0, 1).
      kind: what is predicted: n, z, or `sqrt(a) n - sqrt(1 - a) z` (arXiv 2202.00512).

    Raises:
      ValueError: another kind.
    """
    prediction = prediction.astype(jnp.float32)
    signal, sigma = jnp.sqrt(level), jnp.sqrt(1 - level)
    if kind == "noise":
        return Parts((latents - sigma * prediction) / signal, prediction)
    if kind == "clean":
        return Parts(prediction, (latents - signal * prediction) / sigma)
    if kind == "velocity":
        return Parts(signal * latents - sigma * prediction, sigma * latents + signal * prediction)
    raise ValueError(f"a prediction is of noise, clean or velocity, not {kind!r}")


def ode_step(parts: Parts, next_level: Array) -> Array:
    """Deterministic step to a level.

    Args:
      parts: of the sample.
      next_level: a after the step, at most 1.
    """
    return jnp.sqrt(next_level) * parts.clean + jnp.sqrt(1 - next_level) * parts.noise


def sde_step(parts: Parts, level: Array, next_level: Array, normals: Array, eta: Array) -> Array:
    """Stochastic step with the marginals of `ode_step` (arXiv 2010.02502, eq. 12 and 16).

    Args:
      parts: of the sample.
      level: its a.
      next_level: a after the step, above `level`.
      normals: standard normal values, shape of the sample.
      eta: amount of fresh noise in [0, 1]; 0 is `ode_step`, 1 the ancestral step.
    """
    fresh = eta**2 * (1 - next_level) / (1 - level) * (1 - level / next_level)
    carried = jnp.sqrt(jnp.maximum(1 - next_level - fresh, 0.0))
    return jnp.sqrt(next_level) * parts.clean + carried * parts.noise + jnp.sqrt(fresh) * normals


def noise_again(latents: Array, level: Array, earlier: Array, normals: Array) -> Array:
    """Goes back to a noisier level by the forward process.

    Args:
      latents: a sample at `level`.
      level: its a.
      earlier: a to go back to, below `level`.
      normals: standard normal values, same shape.
    """
    kept = earlier / level
    return jnp.sqrt(kept) * latents + jnp.sqrt(1 - kept) * normals


def add_noise(latents: Array, level: Array, normals: Array, s: Array) -> Array:
    """x + s * sigma * normals, with sigma = sqrt(1 - a) (EvoSearch, arXiv 2505.17618).

    The result holds more noise than its level says.
    """
    return latents + s * jnp.sqrt(1 - level) * normals


def ddim(level: np.ndarray, after: np.ndarray, eta: float) -> Coefficients:
    """Those of `sde_step` between levels, [N] each; the first level may be 0."""
    fresh = eta**2 * (1 - after) / (1 - level) * (1 - level / after)
    carried = np.sqrt((1 - after - fresh) / (1 - level))
    clean = np.sqrt(after) - np.sqrt(level) * carried
    return Coefficients(carried, clean, np.zeros_like(clean), np.sqrt(fresh))
