"""Flow matching over a pyramid of resolutions (Pyramid-Flow, arXiv 2410.05954).

A sample grows in stages of rising resolution. Along stage s a local ratio u falls from 1 to 0
and `x_u = u x_start + (1 - u) x_end`, with `x_start = start n + (1 - start) up(z_{s-1})` and
`x_end = end n + (1 - end) z_s`: n is white noise, z_s the clean latents at the stage's resolution.
Stage 0 is the coarsest; with one stage this is linear flow matching. Constants are those of
jy0205/Pyramid-Flow.

T frames  H W latent size  C channels. Channels last; leading axes are free.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.solvers.noise import Key, normal


@dataclass(frozen=True, kw_only=True)
class PyramidSchedule:
    """Noise levels and timesteps of every stage; tables are numpy float64.

    Attributes:
      stages: number of resolutions.
      stage_range: boundaries of the stages on the time axis, stages + 1 values from 0 to 1.
      gamma: negative correlation of the noise inside a 2x2 block at a stage jump.
      shift: timestep shift of the global noise levels.
      num_train_timesteps: resolution of the tables.
    """

    stages: int = 3
    stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    gamma: float = 1 / 3
    shift: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self):
        if len(self.stage_range) != self.stages + 1:
            raise ValueError(f"stage_range needs {self.stages + 1} boundaries: {self.stage_range}")

    @cached_property
    def _global(self) -> np.ndarray:
        count = self.num_train_timesteps
        sigmas = (count - np.arange(count, dtype=np.float64)) / count
        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        return sigmas.astype(np.float32).astype(np.float64)

    @cached_property
    def ori_start_sigmas(self) -> np.ndarray:
        """Noise level at which stage s takes over, before the jump's correction, [stages]."""
        count = self.num_train_timesteps
        return np.array([self._global[int(r * count)] for r in self.stage_range[:-1]])

    @cached_property
    def start_sigmas(self) -> np.ndarray:
        """Noise level of `x_start`, [stages]."""
        signal = 1 - self.ori_start_sigmas
        starts = 1 - signal * self._jump_scale(signal)
        starts[0] = self.ori_start_sigmas[0]
        return starts

    @cached_property
    def end_sigmas(self) -> np.ndarray:
        """Noise level of `x_end`, [stages]."""
        count = self.num_train_timesteps
        indices = [int(r * count) for r in self.stage_range[1:]]
        return np.array([self._global[i] if i < count else 0.0 for i in indices])

    @cached_property
    def timestep_ratios(self) -> np.ndarray:
        """Part of the timestep axis that each stage covers, by its length in noise, [stages, 2]."""
        lengths = np.cumsum(self.start_sigmas - self.end_sigmas)
        edges = np.concatenate([[0.0], lengths[:-1] / lengths[-1], [1.0]])
        return np.stack([edges[:-1], edges[1:]], axis=1)

    @cached_property
    def timesteps_per_stage(self) -> np.ndarray:
        """Timesteps given to the denoiser, [stages, num_train_timesteps], in [0, 1000]."""
        count = self.num_train_timesteps
        timesteps = (self._global * count).astype(np.float32).astype(np.float64)
        ends = np.minimum((self.timestep_ratios * count).astype(int), count - 1)
        return np.stack([np.linspace(timesteps[a], timesteps[b], count + 1)[:-1] for a, b in ends])

    @cached_property
    def sigmas_per_stage(self) -> np.ndarray:
        """Local ratios u belonging to `timesteps_per_stage`, the same for every stage."""
        ratios = np.linspace(1, 0, self.num_train_timesteps + 1)[:-1]
        return np.tile(ratios, (self.stages, 1))

    def _jump_scale(self, signal):
        return 1 / (math.sqrt(1 + 1 / self.gamma) * (1 - signal) + signal)

    @cached_property
    def jump(self) -> np.ndarray:
        """Factors (alpha, beta) of the jump into each stage, [stages, 2]; row 0 is (1, 0)."""
        signal = 1 - self.ori_start_sigmas
        alpha = self._jump_scale(signal)
        beta = alpha * (1 - signal) / math.sqrt(self.gamma)
        table = np.stack([alpha, beta], axis=1)
        table[0] = (1, 0)
        return table

    def set_timesteps(self, steps: int, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """The steps of one stage.

        Args:
          steps: number of denoiser calls.
          stage: stage index.

        Returns:
          Timesteps [steps] and local ratios [steps + 1] ending at 0, float64.
        """
        table = self.timesteps_per_stage[stage]
        ratios = self.sigmas_per_stage[stage]
        return (
            np.linspace(table[0], table[-1], steps),
            np.append(np.linspace(ratios[0], ratios[-1], steps), 0.0),
        )

    def noise_level(self, stage: int, ratio: Array) -> Array:
        """Standard deviation of the noise in `x_u` at local ratio u of a stage."""
        return ratio * self.start_sigmas[stage] + (1 - ratio) * self.end_sigmas[stage]


def downsample(latents: Array) -> Array:
    """Halves H and W by 2x2 means, [..., H, W, C] -> [..., H/2, W/2, C]."""
    *lead, height, width, channels = latents.shape
    blocks = latents.reshape(*lead, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(-4, -2))


def upsample(latents: Array) -> Array:
    """Doubles H and W by repetition, [..., H, W, C] -> [..., 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(latents, 2, axis=-3), 2, axis=-2)


def pyramid(latents: Array, levels: int) -> tuple[Array, ...]:
    """Repeated 2x2 means, coarsest first; the last entry is `latents` itself.

    Args:
      latents: [..., H, W, C].
      levels: number of resolutions.
    """
    entries = [latents]
    for _ in range(levels - 1):
        entries.append(downsample(entries[-1]))
    return tuple(reversed(entries))


def coarse_noise(noise: Array, halvings: int) -> Array:
    """White noise at a lower resolution: 2x2 means, times 2 each to keep unit variance.

    Args:
      noise: white noise, [..., H, W, C].
      halvings: how often H and W are halved.
    """
    for _ in range(halvings):
        noise = 2 * downsample(noise)
    return noise


def block_noise(normals: Array, gamma: float) -> Array:
    """Noise of variance 1 whose 2x2 blocks have pairwise correlation -gamma.

    Exact for every gamma up to 1/3, where the covariance is singular and a Cholesky factor fails.

    Args:
      normals: independent standard normal values, [..., H, W, C], H and W even.
      gamma: correlation inside a block.

    Returns:
      [..., H, W, C], blocks aligned to even coordinates.
    """
    mean = upsample(downsample(normals))
    return math.sqrt(1 + gamma) * (normals - mean) + math.sqrt(max(1 - 3 * gamma, 0.0)) * mean


def stage_jump(schedule: PyramidSchedule, stage: int, latents: Array, noise: Array) -> Array:
    """Carries the end of stage - 1 to the start of `stage`.

    Args:
      schedule: the tables.
      stage: the stage that is entered, at least 1.
      latents: end of the stage before, [..., H, W, C].
      noise: `block_noise` at the new resolution, [..., 2H, 2W, C].

    Returns:
      Start of the stage, [..., 2H, 2W, C]; its noise is white again.
    """
    alpha, beta = schedule.jump[stage]
    return float(alpha) * upsample(latents) + float(beta) * noise


def ode_step(latents: Array, velocity: Array, ratio: Array, next_ratio: Array) -> Array:
    """Euler step along a stage, in float32.

    Args:
      latents: x_u, any shape.
      velocity: predicted x_start - x_end, same shape.
      ratio: local ratio u.
      next_ratio: local ratio after the step.
    """
    return latents + (next_ratio - ratio) * velocity.astype(jnp.float32)


def predicted_noise(
    schedule: PyramidSchedule, stage: int, latents: Array, velocity: Array, ratio: Array
) -> Array:
    """The white noise n in `x_u` that the velocity implies.

    The two ends of a stage hold different data, up(z_{s-1}) and z_s, which agree on the 2x2 means;
    means and remainders are therefore solved for apart. Stage 0 starts from pure noise.

    Args:
      schedule: the tables.
      stage: stage index.
      latents: x_u, [..., H, W, C], H and W even for stage > 0.
      velocity: predicted x_start - x_end, same shape.
      ratio: local ratio u.

    Returns:
      Expected noise given x_u, same shape.
    """
    start, end = schedule.start_sigmas[stage], schedule.end_sigmas[stage]
    sigma = schedule.noise_level(stage, ratio)
    shared = latents + (1 - sigma) / (start - end) * velocity
    if stage == 0:
        return shared
    remainder = (latents + (1 - ratio) * velocity) / start
    return remainder + upsample(downsample(shared - remainder))


def sde_step(
    schedule: PyramidSchedule,
    stage: int,
    latents: Array,
    velocity: Array,
    ratio: Array,
    next_ratio: Array,
    normals: Array,
    eta: Array,
) -> Array:
    """Stochastic step along a stage with the marginals of `ode_step`.

    Part of the predicted noise is exchanged for fresh noise of the same variance, as in DDIM
    (arXiv 2010.02502, eq. 16) with signal 1 - sigma; eta 0 is `ode_step`, eta 1 the ancestral step.

    Args:
      schedule: the tables.
      stage: stage index.
      latents: x_u, [..., H, W, C].
      velocity: predicted x_start - x_end, same shape.
      ratio: local ratio u.
      next_ratio: local ratio after the step.
      normals: fresh standard normal values, same shape.
      eta: amount of exchange, in [0, 1].
    """
    sigma = schedule.noise_level(stage, ratio)
    after = schedule.noise_level(stage, next_ratio)
    kept = (1 - sigma) * after / ((1 - after) * sigma)
    fresh = eta * after * jnp.sqrt(jnp.maximum(1 - kept**2, 0.0))
    carried = jnp.sqrt(jnp.maximum(after**2 - fresh**2, 0.0))
    noise = predicted_noise(schedule, stage, latents, velocity, ratio)
    step = ode_step(latents, velocity, ratio, next_ratio)
    return step + (carried - after) * noise + fresh * normals


def clean_estimate(
    schedule: PyramidSchedule, stage: int, latents: Array, velocity: Array, ratio: Array
) -> Array:
    """The clean latents z_s in `x_u` that the velocity implies, at the stage's resolution.

    Args:
      schedule: the tables.
      stage: stage index.
      latents: x_u, [..., H, W, C], H and W even for stage > 0.
      velocity: predicted x_start - x_end, same shape.
      ratio: local ratio u.

    Returns:
      Expected clean latents given x_u, same shape.
    """
    end = float(schedule.end_sigmas[stage])
    noise = predicted_noise(schedule, stage, latents, velocity, ratio) if end else 0.0
    return (latents - ratio * velocity - end * noise) / (1 - end)


def noise_again(
    schedule: PyramidSchedule,
    latents: Array,
    place: tuple[int, float],
    earlier: tuple[int, float],
    normals: Array,
) -> Array:
    """Goes back to an earlier, noisier place of the schedule, in one draw from the forward process.

    A later stage is first brought to the earlier one's resolution by 2x2 means, which divides its
    noise by 2 each time. Then signal is scaled down and noise added, apart for 2x2 means and
    remainders, of which the start of a stage has none.

    Args:
      schedule: the tables.
      latents: x_u, [..., H, W, C].
      place: its stage and local ratio u.
      earlier: stage and ratio to go back to; a higher ratio, or a lower stage.
      normals: standard normal values at the earlier stage's resolution.

    Returns:
      A sample at the earlier place, of the shape of `normals`.

    Raises:
      ValueError: `earlier` is not earlier.
    """
    (stage, ratio), (to, to_ratio) = place, earlier
    if to > stage or (to == stage and to_ratio <= ratio):
        raise ValueError(f"stage {to} at ratio {to_ratio} is no earlier than {stage} at {ratio}")
    for _ in range(stage - to):
        latents = downsample(latents)
    sigma = schedule.noise_level(stage, ratio)
    signals = _signals(schedule, stage, ratio) if to == stage else (1 - sigma,) * 2
    sigma = sigma / 2 ** (stage - to)
    wanted = schedule.noise_level(to, to_ratio)

    def blend(part, fresh, signal, wanted_signal):
        scale = wanted_signal / signal
        return scale * part + math.sqrt(max(wanted**2 - (scale * sigma) ** 2, 0.0)) * fresh

    if to == 0:
        return blend(latents, normals, signals[0], 1 - wanted)
    means, fresh = upsample(downsample(latents)), upsample(downsample(normals))
    mean_signal, rest_signal = _signals(schedule, to, to_ratio)
    return blend(means, fresh, signals[0], mean_signal) + blend(
        latents - means, normals - fresh, signals[1], rest_signal
    )


def _signals(schedule, stage, ratio):
    """Factors of the clean 2x2 means and remainders in `x_u`."""
    shared = 1 - schedule.noise_level(stage, ratio)
    return shared, (1 - ratio) * (1 - schedule.end_sigmas[stage]) if stage else shared


def add_noise(
    schedule: PyramidSchedule, stage: int, latents: Array, ratio: Array, normals: Array, s: Array
) -> Array:
    """x + s * sigma * normals, with sigma the noise level of `x_u` (EvoSearch, arXiv 2505.17618).

    The result holds more noise than its place in the schedule says.
    """
    return latents + s * schedule.noise_level(stage, ratio) * normals


def draw_block_noise(key: Key, shape: tuple[int, ...], gamma: float) -> Array:
    """Draws `block_noise` of a shape [..., H, W, C], float32."""
    return block_noise(normal(key, shape), gamma)
