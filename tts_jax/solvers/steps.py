"""Solver steps that are linear, worked out on the host for a whole run.

N steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Coefficients(NamedTuple):
    """A step: next state = sum of these times what they are named after.

    Worked out in float64 for all steps of a run, [N] each: near pure noise the parts of a state are
    large, and cancel.

    Attributes:
      latents: the state.
      clean: the clean estimate at the state.
      previous: the clean estimate at the state before.
      noise: standard normal values.
    """

    latents: np.ndarray
    clean: np.ndarray
    previous: np.ndarray
    noise: np.ndarray


STILL = Coefficients(1.0, 0.0, 0.0, 0.0)  # of a step that changes nothing


def between_stops(columns: NamedTuple, still: NamedTuple, before: int, after: int) -> NamedTuple:
    """Coefficients of steps that change nothing, the solver's N, and more that change nothing.

    Args:
      columns: the solver's, [N] each.
      still: those of a step that changes nothing.
      before, after: how many such steps.

    Returns:
      [before + N + after] each.
    """
    pairs = zip(columns, still, strict=True)
    return type(columns)(*(np.pad(x, (before, after), constant_values=v) for x, v in pairs))


def row(columns: NamedTuple, index: int | Array) -> NamedTuple:
    """Coefficients of one step, float32; its number may be traced."""
    return type(columns)(*(jnp.asarray(x, jnp.float32)[index] for x in columns))


def check_steps(steps: int, most: int) -> None:
    """Refuses a number of steps that a table has not.

    Raises:
      ValueError: it is below 1 or above `most`.
    """
    if not 1 <= steps <= most:
        raise ValueError(f"{steps} steps; from 1 to {most} are possible")


def check_eta(eta: float) -> None:
    """Refuses an impossible share of fresh noise.

    Raises:
      ValueError: it is outside of [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it lies between 0 and 1")
