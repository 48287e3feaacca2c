"""Noise levels and solver steps of CogVideoX (arXiv 2408.06072): DDIM (2B) and SDE-DPM++ 2M (5B).

A state at level a is `x = sqrt(a) z + sqrt(1 - a) n`, z clean and n white noise. The first state is
pure noise, a = 0 (zero terminal SNR, arXiv 2305.08891), where the log-SNR of the solvers is
infinite: their coefficients are therefore worked out on the host, in float64, once for all steps.
Every step of both is then one linear combination.

N steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tts_jax.solvers.diffusion import ddim
from tts_jax.solvers.steps import Coefficients, check_eta, check_steps

SOLVERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpm"}
PUBLISHED_ETA = {"ddim": 0.0, "dpm": 1.0}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The published tables and the solver; tables are numpy float64.

    Attributes:
      solver: "ddim" (arXiv 2010.02502) or "dpm" (SDE-DPM-Solver++ 2M, arXiv 2211.01095).
      steps: N asked for.
      eta: amount of fresh noise in each step, in [0, 1]: 0 follows the ODE, 1 is the whole SDE;
        None takes what is published, 0 for "ddim" and 1 for "dpm".
      snr_shift: by which the signal-to-noise ratio is divided.
      beta_start, beta_end: ends of the training schedule, linear in the square root.
      num_train_timesteps: its length.
    """

    solver: str
    steps: int = 50
    eta: float | None = None
    snr_shift: float
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000

    def __post_init__(self):
        if self.solver not in PUBLISHED_ETA:
            raise ValueError(f"solver {self.solver!r}; there are {', '.join(PUBLISHED_ETA)}")
        check_steps(self.steps, self.num_train_timesteps)
        check_eta(self.noise_share)

    @property
    def noise_share(self) -> float:
        """Eta, or the published one."""
        return PUBLISHED_ETA[self.solver] if self.eta is None else self.eta

    @staticmethod
    def read_reference(config: Mapping) -> dict:
        """Fields of a published `scheduler_config.json`, already parsed.

        Args:
          config: the parsed file.

        Returns:
          Those of our fields that the file sets.

        Raises:
          ValueError: the file asks for something that neither checkpoint has.
        """
        fixed = {
            "beta_schedule": "scaled_linear",
            "trained_betas": None,
            "set_alpha_to_one": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
        }
        odd = [f"{k}={config[k]!r}" for k, v in fixed.items() if config[k] != v]
        if config["_class_name"] not in SOLVERS:
            odd.append(f"_class_name={config['_class_name']!r}")
        if odd:
            raise ValueError(f"unsupported CogVideoX scheduler settings: {', '.join(odd)}")
        return {
            "solver": SOLVERS[config["_class_name"]],
            "snr_shift": config["snr_shift_scale"],
            "beta_start": config["beta_start"],
            "beta_end": config["beta_end"],
            "num_train_timesteps": config["num_train_timesteps"],
        }

    @cached_property
    def table(self) -> np.ndarray:
        """Level of every training timestep, [num_train_timesteps]; the last is 0."""
        ends = self.beta_start**0.5, self.beta_end**0.5
        levels = np.cumprod(1 - np.linspace(*ends, self.num_train_timesteps) ** 2)
        levels = levels / (self.snr_shift + (1 - self.snr_shift) * levels)
        signal = np.sqrt(levels)
        return ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2

    @cached_property
    def timesteps(self) -> np.ndarray:
        """Given to the denoiser, descending, int [N]; spaced evenly, the first is the noisiest."""
        stride = self.num_train_timesteps / self.steps
        times = np.round(np.arange(self.num_train_timesteps, 0, -stride)).astype(np.int64) - 1
        return times[: self.steps]  # rounding may have made one more

    @cached_property
    def levels(self) -> np.ndarray:
        """Level of the state before each step, and of the last state, [N + 1]."""
        return np.append(self.table[self.timesteps], self._after[-1])

    @cached_property
    def _after(self) -> np.ndarray:
        """Level after each step, [N]; unlike the timesteps it moves in whole strides."""
        following = self.timesteps - self.num_train_timesteps // self.steps
        return np.where(following >= 0, self.table[following], 1.0)

    @cached_property
    def coefficients(self) -> Coefficients:
        """Of every step, [N] each."""
        levels = self.levels[:-1], self._after
        if self.solver == "dpm":
            return self._dpm(*levels)
        return ddim(*levels, self.noise_share)

    def _dpm(self, level: np.ndarray, after: np.ndarray) -> Coefficients:
        with np.errstate(divide="ignore"):
            log_snr, log_snr_after = (0.5 * np.log(a / (1 - a)) for a in (level, after))
        shrink = np.ones_like(level)
        width = log_snr_after - log_snr
        if self.noise_share:
            shrink = np.exp(-width * self.noise_share)
        gain = np.sqrt(after) * (1 - np.exp(-width) * shrink)
        # a second-order step extrapolates from the two last clean estimates
        second = 1 + np.flatnonzero(after[1:] < 1)
        slope = np.zeros_like(level)
        slope[second] = 0.5 * width[second] / np.diff(log_snr)[second - 1]
        return Coefficients(
            np.sqrt((1 - after) / (1 - level)) * shrink,
            gain * (1 + slope),
            -gain * slope,
            np.sqrt((1 - after) * (1 - shrink**2)),
        )

    def guidance(self, scale: float, *, dynamic: bool) -> np.ndarray:
        """Guidance scale of each step, [N].

        Args:
          scale: as asked for.
          dynamic: whether it changes from step to step as in the published pipeline, whose formula
            takes the training timestep for the number of the step: the scale jumps between 1 and
            1 + `scale`.
        """
        if not dynamic:
            return np.full(len(self.timesteps), float(scale))

        def at(timestep: int) -> float:
            part = ((self.steps - timestep) / self.steps) ** 5.0
            return 1 + scale * (1 - math.cos(math.pi * part)) / 2

        return np.array([at(timestep) for timestep in self.timesteps.tolist()])
