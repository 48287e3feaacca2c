"""Autoregressive sampling of Pyramid-Flow (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

A video is a first latent frame and then units of f frames. A unit is denoised through the stages of
a pyramid, coarsest first, looking at the frames before it: the last unit at the stage's resolution,
each unit further back one resolution lower, all the rest at the lowest.

The history of a traced unit has static shapes: every clip is gathered at its largest size, and
frames before the start of the video are marked invalid.

B batch  T latent frames  H W latent size  C latent channels. Channels last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.pyramid_flow.transformer import Clip
from tts_jax.solvers.flow_matching import (
    PyramidSchedule,
    coarse_noise,
    draw_block_noise,
    ode_step,
    pyramid,
    stage_jump,
)

Model = Callable[..., Array]

PUBLISHED_NEGATIVE = (
    "cartoon style, worst quality, low quality, blurry, absolute black, absolute white, low res, "
    "extra limbs, extra digits, misplaced objects, mutated anatomy, monochrome, horror"
)


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a video is sampled.

    Attributes:
      frames: latent frames of a video, 1 + a multiple of `frames_per_unit`.
      height, width: latent size at full resolution.
      channels: latent channels.
      frames_per_unit: latent frames of every unit after the first frame.
      steps_first: denoiser steps of each stage, first frame.
      steps: denoiser steps of each stage, later units.
      guidance_first: guidance scale of the first frame; guidance is on when it is positive.
      guidance: guidance scale of later units.
      share_root_noise: whether all descendants of a first frame start from its initial noise, so
        that siblings differ by the noise of the stage jumps alone.
      negative_prompt: what guidance leads away from.
      prompt_suffix: appended to every prompt.
      stages, stage_range, gamma, shift, num_train_timesteps: see `PyramidSchedule`.
    """

    frames: int
    height: int
    width: int
    channels: int
    frames_per_unit: int = 1
    steps_first: tuple[int, ...]
    steps: tuple[int, ...]
    guidance_first: float
    guidance: float
    share_root_noise: bool = False
    negative_prompt: str = ""
    prompt_suffix: str = ""
    stages: int = 3
    stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    gamma: float = 1 / 3
    shift: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self):
        for name in ("steps_first", "steps", "stage_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if (self.frames - 1) % self.frames_per_unit:
            raise ValueError(
                f"{self.frames} latent frames are not 1 + a multiple of {self.frames_per_unit}"
            )
        for name in ("steps_first", "steps"):
            steps = getattr(self, name)
            if len(steps) != self.stages or min(steps) < 1:
                raise ValueError(f"{name} needs {self.stages} positive counts: {steps}")
        coarsest = 2**self.stages
        if self.height % coarsest or self.width % coarsest:
            raise ValueError(
                f"latent size {self.height}x{self.width} is not a multiple of {coarsest}"
            )

    @classmethod
    def published_384p(cls) -> "SamplerConfig":
        """5 s of 384x640 at 24 frames a second, with the published settings."""
        return cls(
            frames=16,
            height=48,
            width=80,
            channels=16,
            steps_first=(20, 20, 20),
            steps=(10, 10, 10),
            guidance_first=7.0,
            guidance=5.0,
            negative_prompt=PUBLISHED_NEGATIVE,
            prompt_suffix=", hyper quality, Ultra HD, 8K",
        )

    @classmethod
    def published_768p(cls) -> "SamplerConfig":
        """10 s of 768x1280 at 24 frames a second, with the published settings."""
        return cls(
            frames=31,
            height=96,
            width=160,
            channels=16,
            steps_first=(20, 20, 20),
            steps=(10, 10, 10),
            guidance_first=7.0,
            guidance=5.0,
            negative_prompt=PUBLISHED_NEGATIVE,
            prompt_suffix=", hyper quality, Ultra HD, 8K",
        )

    @cached_property
    def schedule(self) -> PyramidSchedule:
        """Tables of the flow-matching schedule."""
        return PyramidSchedule(
            stages=self.stages,
            stage_range=self.stage_range,
            gamma=self.gamma,
            shift=self.shift,
            num_train_timesteps=self.num_train_timesteps,
        )

    @property
    def num_units(self) -> int:
        """Units of a video, the first frame included."""
        return 1 + (self.frames - 1) // self.frames_per_unit

    @property
    def guided(self) -> bool:
        """Whether the denoiser runs on [negative, positive] pairs."""
        return self.guidance_first > 0

    def unit_frames(self, first: bool) -> int:
        """Latent frames of one unit."""
        return 1 if first else self.frames_per_unit

    def unit_start(self, unit: int | Array) -> int | Array:
        """First latent frame of a unit after the first; of unit 0 when `unit` is the int 0."""
        if isinstance(unit, int) and unit == 0:
            return 0
        return 1 + (unit - 1) * self.frames_per_unit

    def stage_shape(self, stage: int) -> tuple[int, int]:
        """Latent height and width of a stage."""
        halvings = self.stages - 1 - stage
        return self.height >> halvings, self.width >> halvings


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """Text condition of one prompt; with a leading prompt axis as `encode` returns it.

    B is 2, [negative, positive], or 1 without guidance.

    Attributes:
      text: text states, [B, L, D_text].
      mask: 1 for a real token, [B, L].
      pooled: pooled text vector, [B, D_pooled].
      guidance: scales of the first frame and of later units, [2] float32.
    """

    text: Array
    mask: Array
    pooled: Array
    guidance: Array


@dataclass(frozen=True)
class Slot:
    """Static shape of one history clip.

    Attributes:
      level: pyramid level it is taken from; that of a stage is the stage's index.
      back: frames between its end and the end of the history.
      frames: its largest number of frames.
    """

    level: int
    back: int
    frames: int


def history_slots(config: SamplerConfig, stage: int) -> tuple[Slot, ...]:
    """The history clips of a stage, oldest first, large enough for the last unit of a video."""
    longest = config.unit_start(config.num_units - 1)
    slots, level, back = [], stage, 0
    while back < longest:
        frames = min(config.frames_per_unit, longest - back)
        if back and level == 0:
            frames = longest - back
        slots.append(Slot(level, back, frames))
        level, back = max(level - 1, 0), back + frames
    return tuple(reversed(slots))


def gather_history(
    config: SamplerConfig, latents: Array, unit: int | Array, stage: int
) -> tuple[Clip, ...]:
    """What a unit sees of the frames before it.

    Args:
      config: the sampler's settings.
      latents: all frames of the video at full resolution, [B, frames, H, W, C]; frames from the
        unit on may hold anything.
      unit: unit index, at least 1; may be traced.
      stage: stage index.

    Returns:
      Clips, oldest and coarsest first, of the sizes of `history_slots`.
    """
    end = config.unit_start(unit)
    levels = pyramid(latents, config.stages)
    clips = []
    for slot in history_slots(config, stage):
        times = end - slot.back - slot.frames + jnp.arange(slot.frames)
        valid = times >= 0
        times = jnp.maximum(times, 0)
        clips.append(Clip(jnp.take(levels[slot.level], times, axis=1), times, valid))
    return tuple(clips)


def unit_times(config: SamplerConfig, unit: int | Array, first: bool) -> Array:
    """Indices of a unit's frames in the video, [T] int32."""
    start = 0 if first else config.unit_start(unit)
    return start + jnp.arange(config.unit_frames(first))


def predict(
    model: Model,
    latents: Array,
    times: Array,
    history: Sequence[Clip],
    condition: Condition,
    timestep: Array,
) -> Array:
    """Velocities of one noisy clip under every text of the condition.

    Args:
      model: the denoiser.
      latents: the noisy clip, [T, H, W, C].
      times: indices of its frames, [T].
      history: clips with a batch axis of 1.
      condition: texts of one prompt, B of them.
      timestep: diffusion time, a scalar.

    Returns:
      [B, T, H, W, C] float32.
    """
    batch = condition.text.shape[0]

    def repeat(x):
        return jnp.broadcast_to(x, (batch, *x.shape[1:]))

    return model(
        repeat(latents[None]),
        times,
        tuple(clip._replace(latents=repeat(clip.latents)) for clip in history),
        condition.text,
        condition.mask,
        condition.pooled,
        jnp.full(batch, timestep, jnp.float32),
    ).astype(jnp.float32)


def guide(velocities: Array, guidance: Array) -> Array:
    """Classifier-free guidance over [negative, positive]; a lone velocity passes unchanged."""
    if velocities.shape[0] == 1:
        return velocities[0]
    negative, positive = velocities
    return negative + guidance * (positive - negative)


def denoise_stage(
    model: Model,
    config: SamplerConfig,
    latents: Array,
    times: Array,
    history: Sequence[Clip],
    condition: Condition,
    stage: int,
    first: bool,
) -> Array:
    """Runs all steps of one stage.

    Args:
      model: the denoiser.
      config: the sampler's settings.
      latents: start of the stage, [T, h, w, C] at its resolution.
      times: indices of the frames, [T].
      history: clips for this stage.
      condition: texts of one prompt.
      stage: stage index.
      first: whether this is the first frame of the video.

    Returns:
      End of the stage, same shape, float32.
    """
    steps = config.steps_first if first else config.steps
    timesteps, ratios = config.schedule.set_timesteps(steps[stage], stage)
    guidance = condition.guidance[0 if first else 1]

    def step(x, inputs):
        timestep, ratio, after = inputs
        velocities = predict(model, x, times, history, condition, timestep)
        return ode_step(x, guide(velocities, guidance), ratio, after), None

    inputs = tuple(jnp.asarray(v, jnp.float32) for v in (timesteps, ratios[:-1], ratios[1:]))
    return jax.lax.scan(step, latents, inputs)[0]


def sample_unit(
    model: Model,
    config: SamplerConfig,
    latents: Array,
    unit: int | Array,
    condition: Condition,
    noise: Array,
    block_noises: Sequence[Array],
    first: bool,
) -> tuple[Array, ...]:
    """Generates one unit from given noise.

    Args:
      model: the denoiser.
      config: the sampler's settings.
      latents: the video so far, [frames, H, W, C].
      unit: unit index; may be traced unless `first`.
      condition: texts of one prompt.
      noise: white noise at full resolution, [T, H, W, C].
      block_noises: correlated noise of the jump into each stage after stage 0, [T, h, w, C] each.
      first: whether this is unit 0.

    Returns:
      End of every stage, [T, h, w, C] float32; the last is the unit.
    """
    times = unit_times(config, unit, first)
    x, ends = coarse_noise(noise, config.stages - 1), []
    for stage in range(config.stages):
        if stage:
            x = stage_jump(config.schedule, stage, x, block_noises[stage - 1])
        history = () if first else gather_history(config, latents[None], unit, stage)
        x = denoise_stage(model, config, x, times, history, condition, stage, first)
        ends.append(x)
    return tuple(ends)


def draw_noise(key: Array, config: SamplerConfig, frames: int) -> Array:
    """White initial noise at full resolution, [frames, H, W, C] float32."""
    shape = (frames, config.height, config.width, config.channels)
    return jax.random.normal(jax.random.fold_in(key, 0), shape, jnp.float32)


def draw_block_noises(key: Array, config: SamplerConfig, frames: int) -> tuple[Array, ...]:
    """Noise of the jumps into stages 1, 2, ..., [frames, h, w, C] each."""
    return tuple(
        draw_block_noise(
            jax.random.fold_in(key, stage),
            (frames, *config.stage_shape(stage), config.channels),
            config.gamma,
        )
        for stage in range(1, config.stages)
    )
