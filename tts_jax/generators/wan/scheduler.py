"""Noise levels and solvers of Wan 2.1 (arXiv 2503.20314): UniPC, as published, or Euler's steps.

A state at level s is `x = (1 - s) z + s n`, z clean and n white noise.

N steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tts_jax.solvers.rectified_flow import Corrector, shift_levels, solver_steps
from tts_jax.solvers.steps import Coefficients, check_eta, check_steps

SOLVERS = {"UniPCMultistepScheduler": "unipc", "FlowMatchEulerDiscreteScheduler": "euler"}
BELOW_ONE = 1e-6  # of the first level, whose log-SNR UniPC needs


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The levels and the solver; tables are numpy float64.

    Attributes:
      solver: "unipc" (order 2 with its corrector, arXiv 2302.04867) or "euler".
      steps: N.
      eta: amount of fresh noise in each step, in [0, 1]: 0 follows the ODE, 1 is the whole SDE.
      shift: of the levels towards noise, see `shift_levels`.
      num_train_timesteps: timestep at level 1.
    """

    solver: str = "unipc"
    steps: int = 50
    eta: float = 0.0
    shift: float = 3.0
    num_train_timesteps: int = 1000

    def __post_init__(self):
        if self.solver not in SOLVERS.values():
            raise ValueError(f"solver {self.solver!r}; there are {', '.join(SOLVERS.values())}")
        check_steps(self.steps, self.num_train_timesteps)
        check_eta(self.eta)
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; it is above 0")

    @staticmethod
    def read_reference(config: Mapping) -> dict:
        """Fields of a published `scheduler_config.json`, already parsed.

        Args:
          config: the parsed file.

        Returns:
          Those of our fields that the file sets.

        Raises:
          ValueError: the file asks for something that no checkpoint of Wan 2.1 has.
        """
        kind = config["_class_name"]
        fixed = {
            "use_karras_sigmas": (False,),
            "use_exponential_sigmas": (False,),
            "use_beta_sigmas": (False,),
            "use_dynamic_shifting": (False,),
            "shift_terminal": (None,),
        }
        if kind == "UniPCMultistepScheduler":
            fixed |= {
                "prediction_type": ("flow_prediction",),
                "use_flow_sigmas": (True,),
                "solver_order": (2,),
                "solver_type": ("bh2",),
                "solver_p": (None,),
                "predict_x0": (True,),
                "lower_order_final": (True,),
                "disable_corrector": ([], ()),
                "thresholding": (False,),
                "final_sigmas_type": ("zero",),
            }
        else:
            fixed |= {"invert_sigmas": (False,), "stochastic_sampling": (False,)}
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if k in config and config[k] not in v]
        if kind not in SOLVERS:
            odd.append(f"_class_name={kind!r}")
        if odd:
            raise ValueError(f"unsupported Wan scheduler settings: {', '.join(odd)}")
        solver = SOLVERS[kind]
        return {
            "solver": solver,
            "shift": float(config["flow_shift" if solver == "unipc" else "shift"]),
            "num_train_timesteps": config["num_train_timesteps"],
        }

    @cached_property
    def _unrounded(self) -> np.ndarray:
        last = 1 / self.num_train_timesteps
        if self.solver == "euler":  # published so: the last level is shifted twice
            last = shift_levels(np.float64(last), self.shift)
            return shift_levels(np.linspace(1, last, self.steps), self.shift)
        levels = shift_levels(np.linspace(1, last, self.steps + 1)[:-1], self.shift)
        levels[0] -= BELOW_ONE
        return levels

    @cached_property
    def levels(self) -> np.ndarray:
        """Level of the state before each step, and of the last state, [N + 1]; float32 values."""
        return np.append(self._unrounded, 0.0).astype(np.float32).astype(np.float64)

    @cached_property
    def timesteps(self) -> np.ndarray:
        """Given to the denoiser, [N]; UniPC's are whole numbers."""
        times = self._unrounded * self.num_train_timesteps
        return np.floor(times) if self.solver == "unipc" else times

    @cached_property
    def coefficients(self) -> tuple[Coefficients, Corrector]:
        """Of every step, [N] each."""
        second = self.solver == "unipc"
        return solver_steps(self.levels, order=2 if second else 1, correct=second, eta=self.eta)
