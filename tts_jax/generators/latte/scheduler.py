"""Noise levels and steps of Latte-1 (arXiv 2401.03048): DDIM (arXiv 2010.02502).

A state at level a is `x = sqrt(a) z + sqrt(1 - a) n`, z clean and n white noise. Timesteps are
multiples of a stride, so that the first state is not quite the noisiest of the table; it is drawn
as white noise all the same.

N steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tts_jax.reference import refuse_others
from tts_jax.solvers.diffusion import ddim
from tts_jax.solvers.steps import Coefficients, check_eta, check_steps


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The published tables; tables are numpy float64.

    Attributes:
      steps: N.
      eta: amount of fresh noise in each step, in [0, 1]: 0 follows the ODE, 1 is the whole SDE.
      beta_start, beta_end: ends of the training schedule, which is linear.
      num_train_timesteps: its length.
      offset: added to every timestep.
      clean_end: whether the last step ends with a clean video, not at the least noise of training.
    """

    steps: int = 50
    eta: float = 0.0
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    offset: int = 0
    clean_end: bool = True

    def __post_init__(self):
        check_steps(self.steps, self.num_train_timesteps)
        check_eta(self.eta)
        if not 0 <= self.timesteps[-1] <= self.timesteps[0] < self.num_train_timesteps:
            raise ValueError(
                f"{self.steps} steps from timestep {self.timesteps[0]} on; "
                f"there are {self.num_train_timesteps}"
            )

    @staticmethod
    def read_reference(config: Mapping) -> dict:
        """Fields of a published `scheduler_config.json`, already parsed.

        Args:
          config: the parsed file.

        Returns:
          Those of our fields that the file sets.

        Raises:
          ValueError: the file asks for something that the published checkpoint has not.
        """
        fixed = {
            "_class_name": "DDIMScheduler",
            "beta_schedule": "linear",
            "trained_betas": None,
            "clip_sample": False,
            "thresholding": False,
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "rescale_betas_zero_snr": False,
        }
        refuse_others("Latte scheduler settings", config, fixed)
        return {
            "beta_start": config["beta_start"],
            "beta_end": config["beta_end"],
            "num_train_timesteps": config["num_train_timesteps"],
            "offset": config.get("steps_offset", 0),
            "clean_end": config.get("set_alpha_to_one", True),
        }

    @cached_property
    def table(self) -> np.ndarray:
        """Level of every training timestep, [num_train_timesteps]."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        return np.cumprod(1 - betas)

    @property
    def _stride(self) -> int:
        return self.num_train_timesteps // self.steps

    @cached_property
    def timesteps(self) -> np.ndarray:
        """Given to the denoiser, descending, int [N]."""
        return np.arange(self.steps)[::-1] * self._stride + self.offset

    @cached_property
    def levels(self) -> np.ndarray:
        """Level of the state before each step, and of the last state, [N + 1]."""
        return np.append(self.table[self.timesteps], self._after[-1])

    @cached_property
    def _after(self) -> np.ndarray:
        """Level after each step, [N]."""
        following = self.timesteps - self._stride
        end = 1.0 if self.clean_end else self.table[0]
        return np.where(following >= 0, self.table[following], end)

    @cached_property
    def coefficients(self) -> Coefficients:
        """Of every step, [N] each."""
        return ddim(self.levels[:-1], self._after, self.eta)
