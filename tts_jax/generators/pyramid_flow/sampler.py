"""Autoregressive sampling of Pyramid-Flow (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

A video is a first latent frame and then units of f frames. A unit is denoised through the stages of
a pyramid, coarsest first, looking at the frames before it: the last unit at the stage's resolution,
each unit further back one resolution lower, all the rest at the lowest.

A unit may be made in blocks of denoiser steps. Between two of them it is kept as the noisy latents
and their velocity: a block ends with a denoiser call and begins with the step that this call
allows, so that blocks of any size make as many calls as one piece, and the clean estimate is free.

B batch  T latent frames  H W latent size  C latent channels. Channels last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.generators.pyramid_flow.draws import Draws
from tts_jax.generators.pyramid_flow.history import gather_history, unit_times
from tts_jax.generators.pyramid_flow.sampler_config import Block, SamplerConfig
from tts_jax.solvers.flow_matching import (
    clean_estimate,
    coarse_noise,
    ode_step,
    sde_step,
    stage_jump,
    upsample,
)

Model = Callable[..., Array]


class State(NamedTuple):
    """A unit between two denoiser steps.

    Attributes:
      latents: x_u, [T, h, w, C].
      velocity: that the denoiser predicts for it, same shape.
    """

    latents: Array
    velocity: Array


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
