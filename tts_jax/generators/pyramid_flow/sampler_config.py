"""Settings of Pyramid-Flow's sampler, and the blocks of steps that its units are cut into.

H W latent size.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jax import Array

from tts_jax.solvers.flow_matching import PyramidSchedule

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
      history_programs: the most programs that the units after the first frame share. Each serves
        units that follow one another, their histories padded to that of the last: more of them
        take longer to compile and waste fewer operations on padding.
      history: latent frames that the history is padded to; 0 for those before the last unit.
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
    history_programs: int = 1
    history: int = 0
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
        if self.history_programs < 1:
            raise ValueError(f"{self.history_programs} history_programs; there is at least one")
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
            history_programs=3,
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
            history_programs=3,
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

    @property
    def longest_history(self) -> int:
        """Latent frames that the history is padded to."""
        return self.history or self.unit_start(self.num_units - 1)

    def history_of(self, unit: int) -> int:
        """Latent frames that the history of a unit is padded to by the program that makes it."""
        later = self.num_units - 1
        count = min(self.history_programs, later)
        ends = (block_start(group + 1, later, count) for group in range(count))
        return self.unit_start(next(end for end in ends if end >= unit)) if unit else 0

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
