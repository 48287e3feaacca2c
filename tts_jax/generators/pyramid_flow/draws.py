"""The noise of Pyramid-Flow's units and blocks, each part from a key of its own.

T latent frames  H W latent size, h w that of a stage  C latent channels. Channels last.
"""

from typing import NamedTuple

from jax import Array

from tts_jax.generators.pyramid_flow.sampler_config import Block, SamplerConfig
from tts_jax.solvers.flow_matching import draw_block_noise
from tts_jax.solvers.noise import Key, fold_in, normal


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
