"""What a unit sees of the frames before it: fewer pixels the further back they lie.

The history of a traced unit has static shapes: every clip is gathered at its largest size, and
frames before the start of the video are marked invalid.

B batch  H W latent size  C latent channels. Channels last.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.solvers.flow_matching import pyramid


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
    """The history clips of a stage, oldest first, of `config.longest_history` frames in all."""
    longest = config.longest_history
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
      unit: unit index, at least 1; may be traced. No more than `config.longest_history` frames are
        before it.
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
