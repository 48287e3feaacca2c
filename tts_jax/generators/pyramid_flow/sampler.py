"""Autoregressive sampling of Pyramid-Flow (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

A video is a first latent frame and then units of f frames. A unit is denoised through the stages of
a pyramid, coarsest first, looking at the frames before it: the last unit at the stage's resolution,
each unit further back one resolution lower, all the rest at the lowest.

The history of a traced unit has static shapes: every clip is gathered at its largest size, and
frames before the start of the video are marked invalid.

A unit may be made in blocks of denoiser steps. Between two of them it is kept as the noisy latents
and their velocity: a block ends with a denoiser call and begins with the step that this call
allows, so that blocks of any size make as many calls as one piece, and the clean estimate is free.

B batch  T latent frames  H W latent size  C latent channels. Channels last.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.solvers.flow_matching import (
    PyramidSchedule,
    clean_estimate,
    coarse_noise,
    draw_block_noise,
    ode_step,
    pyramid,
    sde_step,
    stage_jump,
    upsample,
)
from tts_jax.solvers.noise import Key, fold_in, normal

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
      segment: what a segment of the search is: a "unit", a "stage" of one, or some "step"s of a
        stage.
      steps_per_segment: the most denoiser steps of a segment of steps.
      eta: noise of the solver's steps, in [0, 1]; 0 is the published ODE.
      draft: whether the draft's steps are taken instead.
      draft_steps: denoiser steps of each stage of a draft; 0 for a third of the full ones. A draft
        has the segments of the full sampler, with a step in each.
      tile: side in pixels of the overlapping squares that are decoded one after the other and
        blended, which gives slightly other pixels; 0 for whole frames.
      window: latent frames that are decoded at a time, which changes memory alone; 0 for all.
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
    segment: Literal["unit", "stage", "step"] = "unit"
    steps_per_segment: int = 5
    eta: float = 0.0
    draft: bool = False
    draft_steps: int = 0
    tile: int = 0
    window: int = 0
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
        if self.segment not in ("unit", "stage", "step"):
            raise ValueError(f"segment is a unit, a stage or a step, not {self.segment!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}, but it lies in [0, 1]")
        if self.steps_per_segment < 1 or self.draft_steps < 0:
            raise ValueError(
                f"{self.steps_per_segment} steps_per_segment and {self.draft_steps} draft_steps"
            )
        if self.tile < 0 or self.window < 0:
            raise ValueError(f"tile {self.tile} and window {self.window} must not be negative")
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
            tile=256,
            window=1,
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
            tile=256,
            window=1,
            negative_prompt=PUBLISHED_NEGATIVE,
            prompt_suffix=", hyper quality, Ultra HD, 8K",
        )

    @classmethod
    def video_t1(cls) -> "SamplerConfig":
        """5 s of 384x640 as Video-T1 makes them (arXiv 2503.18942, `liuff19/Video-T1`)."""
        return dataclasses.replace(cls.published_384p(), steps=(20, 20, 20), share_root_noise=True)

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

    def segments_of_stage(self, stage: int, first: bool) -> int:
        """Segments that a stage is divided into, where it is at all."""
        if self.segment != "step":
            return 1
        return -(-(self.steps_first if first else self.steps)[stage] // self.steps_per_segment)

    def stage_steps(self, stage: int, first: bool) -> int:
        """Denoiser steps of a stage, of the draft if this is one."""
        full = (self.steps_first if first else self.steps)[stage]
        if not self.draft:
            return full
        least = self.segments_of_stage(stage, first)
        return min(full, max(least, self.draft_steps or full // 3))

    def unit_steps(self, first: bool) -> int:
        """Denoiser steps of a unit."""
        return sum(self.stage_steps(stage, first) for stage in range(self.stages))

    def blocks(self, first: bool) -> tuple["Block", ...]:
        """The segments of a unit that is not one segment, in order."""
        blocks = []
        for stage in range(self.stages):
            steps, count = self.stage_steps(stage, first), self.segments_of_stage(stage, first)
            edges = [block_start(place, steps, count) for place in range(count + 1)]
            for place, (start, end) in enumerate(itertools.pairwise(edges)):
                ends = stage == self.stages - 1 and end == steps
                blocks.append(Block(first, stage, end - start, place == 0, ends))
        return tuple(blocks)

    def segments_per_unit(self, first: bool) -> int:
        """Segments of a unit."""
        return 1 if self.segment == "unit" else len(self.blocks(first))

    def timeline(self, stage: int, first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps [steps] and local ratios [steps + 1] of a stage; see `set_timesteps`."""
        return self.schedule.set_timesteps(self.stage_steps(stage, first), stage)

    def stage_shape(self, stage: int) -> tuple[int, int]:
        """Latent height and width of a stage."""
        halvings = self.stages - 1 - stage
        return self.height >> halvings, self.width >> halvings


class Block(NamedTuple):
    """What is static of a segment smaller than a unit: equal blocks share a program.

    Attributes:
      first: whether it belongs to the first unit.
      stage: its stage.
      steps: denoiser calls.
      enters: whether the stage begins with it.
      ends: whether the unit ends with it.
    """

    first: bool
    stage: int
    steps: int
    enters: bool
    ends: bool


def block_start(place: int | Array, steps: int, count: int) -> int | Array:
    """Steps of a stage before its segment `place`, of `count` that are as equal as can be."""
    return place * steps // count


class State(NamedTuple):
    """A unit between two denoiser steps.

    Attributes:
      latents: x_u, [T, h, w, C].
      velocity: that the denoiser predicts for it, same shape.
    """

    latents: Array
    velocity: Array


class Draws(NamedTuple):
    """The noise of a block; what it does not need is None.

    Attributes:
      initial: white noise at full resolution, of the block that begins a unit, [T, H, W, C].
      jump: correlated noise of the jump into the stage, [T, h, w, C].
      entry: standard normal values of the step before the block's first denoiser call, at the
        resolution of the stage where this step is made.
      steps: the same of the step after each call, [steps, T, h, w, C]; the last one counts only
        where the unit ends.
    """

    initial: Array | None = None
    jump: Array | None = None
    entry: Array | None = None
    steps: Array | None = None


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


class StageDenoiser(NamedTuple):
    """The velocity of one unit at one stage, as a function of latents and timestep.

    Attributes:
      model: the denoiser.
      times: indices of the unit's frames, [T].
      history: clips for this stage.
      condition: texts of one prompt.
      guidance: scale, scalar.
    """

    model: Model
    times: Array
    history: Sequence[Clip]
    condition: Condition
    guidance: Array

    def __call__(self, latents: Array, timestep: Array) -> Array:
        """Guided velocity of [T, h, w, C], float32; one call, or two with guidance."""
        return guide(
            predict(self.model, latents, self.times, self.history, self.condition, timestep),
            self.guidance,
        )


def stage_denoiser(
    model: Model,
    config: SamplerConfig,
    video: Array,
    unit: int | Array,
    condition: Condition,
    stage: int,
    first: bool,
) -> StageDenoiser:
    """What predicts the velocities of a unit at a stage.

    Args:
      model: the denoiser.
      config: the sampler's settings.
      video: the video so far, [frames, H, W, C].
      unit: unit index; may be traced unless `first`.
      condition: texts of one prompt.
      stage: stage index.
      first: whether this is unit 0.
    """
    history = () if first else gather_history(config, video[None], unit, stage)
    times = unit_times(config, unit, first)
    return StageDenoiser(model, times, history, condition, condition.guidance[0 if first else 1])


def solver_step(
    config: SamplerConfig,
    stage: int,
    state: State,
    ratio: Array,
    after: Array,
    normals: Array | None,
) -> Array:
    """One solver step from a state to local ratio `after`; without normal values the ODE's."""
    if normals is None:
        return ode_step(state.latents, state.velocity, ratio, after)
    return sde_step(config.schedule, stage, *state, ratio, after, normals, config.eta)


def denoise(
    denoiser: StageDenoiser,
    config: SamplerConfig,
    stage: int,
    latents: Array,
    timesteps: Array,
    ratios: Array,
    normals: Array | None = None,
) -> tuple[Array, State]:
    """Denoiser calls with a step after each.

    Args:
      denoiser: predicts velocities.
      config: the sampler's settings.
      stage: stage index.
      latents: x_u, [T, h, w, C].
      timesteps: of the calls, [M].
      ratios: local ratios of the calls and after the last step, [M + 1].
      normals: of the steps, [M, T, h, w, C]; None for ODE steps.

    Returns:
      The latents after the last step, and the state at the last call.
    """

    def move(carry, inputs):
        timestep, ratio, after, fresh = inputs
        state = State(carry[0], denoiser(carry[0], timestep))
        return (solver_step(config, stage, state, ratio, after, fresh), state), None

    timesteps, ratios = (jnp.asarray(v, jnp.float32) for v in (timesteps, ratios))
    inputs = timesteps, ratios[:-1], ratios[1:], normals
    empty = jnp.zeros_like(latents)
    return jax.lax.scan(move, (latents, State(empty, empty)), inputs)[0]


def sample_unit(
    model: Model,
    config: SamplerConfig,
    latents: Array,
    unit: int | Array,
    condition: Condition,
    noise: Array,
    block_noises: Sequence[Array],
    first: bool,
    normals: Sequence[Array | None] | None = None,
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
      normals: standard normal values of the steps of each stage, [steps, T, h, w, C] each; None
        for ODE steps.

    Returns:
      End of every stage, [T, h, w, C] float32; the last is the unit.
    """
    x, ends = coarse_noise(noise, config.stages - 1), []
    for stage in range(config.stages):
        if stage:
            x = stage_jump(config.schedule, stage, x, block_noises[stage - 1])
        denoiser = stage_denoiser(model, config, latents, unit, condition, stage, first)
        fresh = normals[stage] if normals else None
        x, _ = denoise(denoiser, config, stage, x, *config.timeline(stage, first), fresh)
        ends.append(x)
    return tuple(ends)


def sample_block(
    model: Model,
    config: SamplerConfig,
    block: Block,
    video: Array,
    unit: int | Array,
    start: int | Array,
    condition: Condition,
    state: State | None,
    draws: Draws,
) -> tuple[Array, State]:
    """Runs some denoiser steps of one unit.

    Args:
      model: the denoiser.
      config: the sampler's settings.
      block: which steps.
      video: the video so far, [frames, H, W, C].
      unit: unit index; may be traced unless the block is of the first unit.
      start: steps of the stage before the block; may be traced.
      condition: texts of one prompt.
      state: at the end of the block before; None for the block that begins a unit.
      draws: the block's noise.

    Returns:
      The latents after the step that follows the last denoiser call, which are the unit if the
      block ends it, and the state at that call.
    """
    stage = block.stage
    timesteps, ratios = (jnp.asarray(v, jnp.float32) for v in config.timeline(stage, block.first))
    if not block.enters:
        x = solver_step(config, stage, state, ratios[start - 1], ratios[start], draws.entry)
    elif stage:
        ratio, after = config.timeline(stage - 1, block.first)[1][-2:].tolist()
        x = solver_step(config, stage - 1, state, ratio, after, draws.entry)
        x = stage_jump(config.schedule, stage, x, draws.jump)
    else:
        x = coarse_noise(draws.initial, config.stages - 1)
    timesteps = jax.lax.dynamic_slice_in_dim(timesteps, start, block.steps)
    ratios = jax.lax.dynamic_slice_in_dim(ratios, start, block.steps + 1)
    denoiser = stage_denoiser(model, config, video, unit, condition, stage, block.first)
    return denoise(denoiser, config, stage, x, timesteps, ratios, draws.steps)


def last_ratio(config: SamplerConfig, block: Block, start: int) -> float:
    """Local ratio of a block's last denoiser call, where its state is."""
    return float(config.timeline(block.stage, block.first)[1][start + block.steps - 1])


def look_ahead(
    denoiser: StageDenoiser,
    config: SamplerConfig,
    stage: int,
    first: bool,
    state: State,
    ratio: float,
    steps: int,
) -> tuple[State, float]:
    """ODE steps along the rest of a stage, evenly spaced up to the sampler's own last call.

    Args:
      denoiser: predicts velocities.
      config: the sampler's settings.
      stage: stage index.
      first: whether this is unit 0.
      state: where to begin.
      ratio: its local ratio.
      steps: number of steps, each with a denoiser call.

    Returns:
      The state at the last call and its ratio.
    """
    if not steps:
        return state, ratio
    timesteps, ratios = config.schedule.set_timesteps(2, stage)
    end = config.timeline(stage, first)[1][-2]
    ahead = np.linspace(ratio, end, steps + 1)[1:]
    times = np.interp(ahead, ratios[1::-1], timesteps[::-1])
    x = ode_step(*state, ratio, float(ahead[0]))
    _, state = denoise(denoiser, config, stage, x, times, np.append(ahead, 0.0))
    return state, float(ahead[-1])


def full_size(config: SamplerConfig, stage: int, latents: Array) -> Array:
    """Latents of a stage repeated to full resolution, [T, h, w, C] -> [T, H, W, C]."""
    for _ in range(config.stages - 1 - stage):
        latents = upsample(latents)
    return latents


def clean_unit(config: SamplerConfig, stage: int, state: State, ratio: float) -> Array:
    """The clean estimate of a unit at full resolution, [T, H, W, C]."""
    return full_size(config, stage, clean_estimate(config.schedule, stage, *state, ratio))


def draw_noise(key: Key, config: SamplerConfig, frames: int) -> Array:
    """White initial noise at full resolution, [frames, H, W, C] float32."""
    shape = (frames, config.height, config.width, config.channels)
    return normal(fold_in(key, 0), shape)


def draw_jump(key: Key, config: SamplerConfig, frames: int, stage: int) -> Array:
    """Noise of the jump into a stage after stage 0, [frames, h, w, C]."""
    shape = (frames, *config.stage_shape(stage), config.channels)
    return draw_block_noise(fold_in(key, stage), shape, config.gamma)


def draw_block_noises(key: Key, config: SamplerConfig, frames: int) -> tuple[Array, ...]:
    """Noise of the jumps into stages 1, 2, ..., [frames, h, w, C] each."""
    return tuple(draw_jump(key, config, frames, stage) for stage in range(1, config.stages))


def draw_steps(
    key: Key, config: SamplerConfig, frames: int, stage: int, steps: int
) -> Array | None:
    """Standard normal values of solver steps, [steps, frames, h, w, C]; None if eta is 0."""
    if not config.eta:
        return None
    shape = (steps, frames, *config.stage_shape(stage), config.channels)
    return normal(fold_in(fold_in(key, config.stages), stage), shape)


def draw_unit_steps(
    key: Key, config: SamplerConfig, frames: int, first: bool
) -> tuple[Array | None, ...]:
    """`draw_steps` of every stage of a unit."""
    return tuple(
        draw_steps(key, config, frames, stage, config.stage_steps(stage, first))
        for stage in range(config.stages)
    )


def draw_block(key: Key, config: SamplerConfig, block: Block) -> Draws:
    """The noise of a block, but for the noise that begins a unit."""
    frames, stage = config.unit_frames(block.first), block.stage
    jumps = block.enters and stage > 0
    steps = draw_steps(key, config, frames, stage, block.steps)
    entry = None
    if stage or not block.enters:
        entry = draw_steps(fold_in(key, config.stages + 1), config, frames, stage - jumps, 1)
    return Draws(
        jump=draw_jump(key, config, frames, stage) if jumps else None,
        entry=None if entry is None else entry[0],
        steps=steps,
    )
