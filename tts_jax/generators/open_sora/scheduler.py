"""Noise levels of Open-Sora 1.2 (arXiv 2412.20404): rectified flow, noisier for larger videos.

A state at level s is `x = (1 - s) z + s n`, z clean and n white noise; the denoiser predicts z - n.

N steps.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tts_jax.solvers.rectified_flow import shift_levels, solver_steps
from tts_jax.solvers.steps import Coefficients, check_eta

NUM_TIMESTEPS = 1000  # timestep at level 1
BASE_SIDE = 512  # of a square image whose levels are not shifted
CLIP_FRAMES, CLIP_LATENTS = 17, 5  # of the autoencoder's chunks


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The levels and the solver, Euler's; tables are numpy float64.

    Attributes:
      steps: N.
      eta: amount of fresh noise in each step, in [0, 1]: 0 follows the ODE, 1 is the whole SDE.
      frames, height, width: of the video in pixels; one frame is an image.
    """

    steps: int = 30
    eta: float = 0.0
    frames: int = 51
    height: float = 240
    width: float = 426

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps; at least 1 is needed")
        check_eta(self.eta)
        if self.frames != 1 and self.frames < CLIP_FRAMES:
            raise ValueError(
                f"a video of {self.frames} frames has no noise levels; "
                f"1 frame or {CLIP_FRAMES} and more have"
            )

    @property
    def shift(self) -> float:
        """Of the levels towards noise, see `shift_levels`; grows with pixels and whole chunks."""
        latents = 1 if self.frames == 1 else self.frames // CLIP_FRAMES * CLIP_LATENTS
        return (self.height * self.width * latents) ** 0.5 / BASE_SIDE

    @cached_property
    def levels(self) -> np.ndarray:
        """Level of the state before each step, and of the last state, [N + 1]."""
        levels = shift_levels(1 - np.arange(self.steps + 1) / self.steps, self.shift)
        return np.minimum(levels, 1.0)  # the first, for all rounding

    @property
    def timesteps(self) -> np.ndarray:
        """Given to the denoiser, [N]."""
        return NUM_TIMESTEPS * self.levels[:-1]

    @cached_property
    def coefficients(self) -> Coefficients:
        """Of every step, [N] each."""
        return solver_steps(self.levels, order=1, correct=False, eta=self.eta)[0]
