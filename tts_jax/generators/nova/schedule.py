"""Schedules of NOVA: token sets of a frame, guidance, and the diffusion of a set's tokens.

A diffusion step is linear in the state y, the prediction and fresh noise; a table of coefficients
stands for the solver, DDPM (arXiv 2006.11239) or Euler steps of flow matching (arXiv 2210.02747).

I steps of a diffusion  B samples  n passes of guidance.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.reference import refuse_others

MAX_BETA = 0.999
OFFSET = 0.008  # of the cosine schedule, arXiv 2102.09672


class Coefficients(NamedTuple):
    """y <- state * y + prediction * prediction + noise * noise, of every step, float64 [I] each."""

    state: np.ndarray
    prediction: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Ancestral steps from noise predictions.

    Attributes:
      betas: "linear", "scaled_linear" or "squaredcos_cap_v2".
      beta_start, beta_end: ends of the first two.
      offset: added to all timesteps; with 0 the last step draws no noise.
      num_train_timesteps: of the training.
    """

    betas: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    offset: int = 0
    num_train_timesteps: int = 1000

    @classmethod
    def from_reference(cls, config: Mapping) -> "DDPM":
        """Reads a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for something that no checkpoint has.
        """
        fixed = {
            "prediction_type": "epsilon",
            "variance_type": "fixed_small",
            "timestep_spacing": "leading",
            "thresholding": False,
            "rescale_betas_zero_snr": False,
            "trained_betas": None,
        }
        refuse_others("DDPM settings", config, fixed)
        names = {"betas": "beta_schedule", "offset": "steps_offset"}
        fields = {field.name: names.get(field.name, field.name) for field in _fields(cls)}
        return cls(**{ours: config[name] for ours, name in fields.items() if name in config})

    def table(self) -> np.ndarray:
        """Betas of the training, float32 [num_train_timesteps]."""
        count = self.num_train_timesteps
        if self.betas == "linear":
            return np.linspace(self.beta_start, self.beta_end, count, dtype=np.float32)
        if self.betas == "scaled_linear":
            ends = self.beta_start**0.5, self.beta_end**0.5
            return np.linspace(*ends, count, dtype=np.float32) ** 2
        if self.betas != "squaredcos_cap_v2":
            raise ValueError(f"unknown betas {self.betas!r}")
        places = np.arange(count + 1) / count
        level = np.cos((places + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
        return np.minimum(1 - level[1:] / level[:-1], MAX_BETA).astype(np.float32)

    @cached_property
    def levels(self) -> np.ndarray:
        """Cumulated products of 1 - beta, float32 [num_train_timesteps]."""
        return np.cumprod(1 - self.table(), dtype=np.float32)

    def timesteps(self, steps: int) -> np.ndarray:
        """What the network is told, int [I], falling."""
        ratio = self.num_train_timesteps // steps
        return np.arange(steps)[::-1] * ratio + self.offset

    def coefficients(self, steps: int) -> Coefficients:
        """Of a whole diffusion."""
        times = self.timesteps(steps)
        before = times - self.num_train_timesteps // steps
        levels = self.levels.astype(np.float64)
        here = levels[times]
        there = np.where(before < 0, 1.0, levels[np.maximum(before, 0)])
        beta = 1 - here / there
        to_clean = np.sqrt(there) * beta / (1 - here)
        kept = np.sqrt(here / there) * (1 - there) / (1 - here)
        variance = np.maximum((1 - there) / (1 - here) * beta, 1e-20)
        return Coefficients(
            to_clean / np.sqrt(here) + kept,
            -to_clean * np.sqrt(1 - here) / np.sqrt(here),
            np.where(times > 0, np.sqrt(variance), 0.0),
        )

    def add_noise(self, clean: Array, noise: Array, timesteps: Array) -> Array:
        """The forward process.

        Args:
          clean: [B, ..., P].
          noise: same shape.
          timesteps: int [B, ...].
        """
        level = jnp.asarray(self.levels)[timesteps][..., None]
        return jnp.sqrt(level) * clean + jnp.sqrt(1 - level) * noise

    def target(self, clean: Array, noise: Array) -> Array:
        """What the network is trained to predict: the noise."""
        return noise

    def times(self, timesteps: Array) -> Array:
        """What the network is told of timesteps, [B, ...]."""
        return timesteps


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Euler steps from velocities, noise minus data, between noise levels sigma in [0, 1].

    Attributes:
      shift: of the levels of the training: s becomes shift * s / (1 + (shift - 1) * s).
      set_shift: of the levels of a diffusion, whose ends are shifted already; `shift` if None.
      num_train_timesteps: of the training.
    """

    shift: float = 1.0
    set_shift: float | None = None
    num_train_timesteps: int = 1000

    @classmethod
    def from_reference(cls, config: Mapping) -> "FlowMatching":
        """Reads a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for a shift that depends on the length.
        """
        if config.get("use_dynamic_shifting"):
            raise ValueError("use_dynamic_shifting is on; the port supports a fixed shift only")
        names = [field.name for field in _fields(cls)]
        return cls(**{name: config[name] for name in names if name in config})

    @cached_property
    def levels(self) -> np.ndarray:
        """Sigmas of the training, falling, float32 [num_train_timesteps]."""
        count = self.num_train_timesteps
        return _shift(np.arange(count, 0, -1) / count, self.shift).astype(np.float32)

    def sigmas(self, steps: int) -> np.ndarray:
        """Levels of a diffusion and a last 0, float64 [I + 1]."""
        ends = self.levels[[0, -1]].astype(np.float64)
        shift = self.shift if self.set_shift is None else self.set_shift
        return np.append(_shift(np.linspace(*ends, steps), shift), 0.0)

    def timesteps(self, steps: int) -> np.ndarray:
        """What the network is told, float32 [I], falling."""
        return (self.sigmas(steps)[:-1] * self.num_train_timesteps).astype(np.float32)

    def coefficients(self, steps: int) -> Coefficients:
        """Of a whole diffusion."""
        ones, zeros = np.ones(steps), np.zeros(steps)
        return Coefficients(ones, np.diff(self.sigmas(steps)), zeros)

    def add_noise(self, clean: Array, noise: Array, timesteps: Array) -> Array:
        """The forward process.

        Args:
          clean: [B, ..., P].
          noise: same shape.
          timesteps: places among the levels of the training, int [B, ...].
        """
        sigma = jnp.asarray(self.levels)[timesteps][..., None]
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Array, noise: Array) -> Array:
        """What the network is trained to predict: the velocity."""
        return noise - clean

    def times(self, timesteps: Array) -> Array:
        """What the network is told of places among the levels of the training, [B, ...]."""
        return jnp.asarray(self.levels)[timesteps] * self.num_train_timesteps


Diffusion = DDPM | FlowMatching


def _shift(sigma: np.ndarray, shift: float) -> np.ndarray:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _fields(cls):
    return dataclasses.fields(cls)


def set_sizes(tokens: int, steps: int) -> np.ndarray:
    """Tokens generated in every autoregressive step, int [steps]; those of 0 are left out.

    As many tokens are missing before step j as the cosine of j/steps of a quarter turn says.
    """
    missing = np.round(tokens * np.cos(np.pi / 2 * np.arange(steps + 1) / steps))
    return -np.diff(missing.astype(np.int64))


def guidance_scales(scale: float, least: float | None, steps: int) -> np.ndarray:
    """Scale in every autoregressive step, float64 [steps]; it grows from `least` unless None."""
    if least is None:
        return np.full(steps, scale)
    return (scale - least) * (np.arange(steps) + 1) / steps + least


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The passes of a guided prediction; the first is always the prompt's.

    Attributes:
      prompts: of each pass, whether it is told the prompt rather than the negative one.
      bare: of each pass, whether it sees no frame before.
    """

    prompts: tuple[bool, ...]
    bare: tuple[bool, ...]

    @classmethod
    def of(cls, kind: str) -> "Passes":
        """Those of "none", "text", "image" or "spatiotemporal" guidance."""
        prompts = {
            "none": (True,),
            "text": (True, False),
            "image": (True, False, False),
            "spatiotemporal": (True, False, True),
        }[kind]
        bare = tuple(kind == "image" and i == 1 for i in range(len(prompts)))
        return cls(prompts=prompts, bare=bare)

    @property
    def count(self) -> int:
        """n."""
        return len(self.prompts)

    def expand(self, texts: Array) -> Array:
        """Texts [2, ...], the prompt's and the negative one, for every pass, [n, ...]."""
        return jnp.stack([texts[0 if prompt else -1] for prompt in self.prompts])


def guide(
    passes: Array,
    scale: Array,
    *,
    least_norm: float | None = None,
    image_scale: Array | None = None,
    spatiotemporal_scale: Array | None = None,
) -> Array:
    """Joins the predictions of the passes of one sample.

    Args:
      passes: [n, N, P], n from 1 to 3; the pass-through tokens included.
      scale: guidance scale.
      least_norm: the guided prediction is scaled to the norm of the first pass, but by no factor
        below this one and by none above 1; None leaves it as it is.
      image_scale, spatiotemporal_scale: of the third pass, one of them.

    Returns:
      [N, P].
    """
    if len(passes) == 1:
        return passes[0]
    first, second = passes[:2]
    toward = passes[2] if image_scale is not None else second
    guided = second + scale * (first - toward)
    if least_norm is not None:
        ratio = jnp.linalg.norm(first) / jnp.linalg.norm(guided)
        guided = guided * jnp.clip(ratio, least_norm, 1.0)
    if image_scale is not None:
        guided = guided + image_scale * (passes[2] - second)
    elif spatiotemporal_scale is not None:
        guided = guided + spatiotemporal_scale * (first - passes[2])
    return guided
