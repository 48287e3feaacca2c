"""How Open-Sora 1.2 samples: settings, and frames that are given from the start.

A given frame is clean as long as its edit ratio is below the noise level: the denoiser sees it with
time 0 and no step moves it. Then it is noised to that level, once, and denoised with the others. A
ratio of 0 keeps a frame to the end.

T latent frames  H W latent size  C channels  N steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.full_sequence import Segments
from tts_jax.generators.open_sora.scheduler import NUM_TIMESTEPS, Schedule

IMAGE_RATE = 120.0  # frames per second that stand for an image


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Segments):
    """How a video is sampled; segments and steps are those of a clip.

    Attributes:
      frames: of a clip, 1 or at least 17.
      height, width: of the video in pixels; decoded sides are multiples of 8.
      rate: frames per second that the denoiser is told.
      clips: how many in a row; each goes on from the end of the one before.
      overlap: latent frames of this end.
      aesthetic, motion, camera: said of the video at the end of a prompt, see
        `tts_jax.generators.open_sora.text.Scores`; 0 and "" say nothing.
      steps: denoising steps of a clip, N.
      steps_per_segment: of every segment but the last of a clip, which may be shorter.
      draft_steps_per_segment: of the draft, a generator of as many segments.
      guidance: guidance scale; guidance is on when it is above 1.
      eta: see `Schedule`.
    """

    schedule_type: ClassVar[type] = Schedule

    frames: int = 51
    height: int = 240
    width: int = 426
    rate: float = 24.0
    clips: int = 1
    overlap: int = 5
    aesthetic: float = 6.5
    motion: float = 0.0
    camera: str = ""
    steps: int = 30
    steps_per_segment: int = 5
    draft_steps_per_segment: int = 1
    guidance: float = 7.0
    eta: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.clips < 1:
            raise ValueError(f"clips is {self.clips}; at least 1 is needed")

    @property
    def told_rate(self) -> float:
        """Frames per second that the denoiser is told, another for images."""
        return IMAGE_RATE if self.frames == 1 else self.rate


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Given:
    """Frames that are given.

    Attributes:
      latents: where they are, [T, H, W, C]; of no meaning elsewhere.
      ratio: edit ratio of each frame, [T] float32; 1 where none is given.
    """

    latents: Array
    ratio: Array

    def noisy(self, time: Array) -> Array:
        """The frames that are noisy at a time in [0, 1000], bool [T]."""
        return self.ratio * NUM_TIMESTEPS >= time

    def place(self, latents: Array, time: Array) -> Array:
        """Latents [T, H, W, C] with the frames that are given at a time."""
        return jnp.where(_frames(self.noisy(time)), latents, self.latents)

    def after_step(
        self, latents: Array, before: Array, after: Array, level: Array, normals: Array
    ) -> Array:
        """A state after a step, with given frames as they are by then.

        Args:
          latents: what the step makes of all frames, [T, H, W, C].
          before, after: times of the states that the step goes from and to.
          level: noise level of the latter.
          normals: standard normal values, for the frames that become noisy, [T, H, W, C].
        """
        noised = (1 - level) * self.latents + level * normals
        return self.place(jnp.where(_frames(self.noisy(before)), latents, noised), after)


def _frames(x: Array) -> Array:
    return x[:, None, None, None]


class Group(NamedTuple):
    """Frames of a reference and where they go.

    Attributes:
      loop: of which clip this is said.
      reference: number of the reference.
      start: first frame in it; negative from its end.
      target: first frame in the clip; negative from its end.
      length: frames.
      ratio: edit ratio.
    """

    loop: int = 0
    reference: int = 0
    start: int = 0
    target: int = 0
    length: int = 1
    ratio: float = 0.0


def parse_strategy(text: str) -> tuple[Group, ...]:
    """Groups of a published mask strategy, such as "0,0,0,-5,5,0.4;0,1".

    Raises:
      ValueError: it is none, or a ratio is not in [0, 1].
    """
    groups = []
    for entry in filter(None, text.split(";")):
        fields = entry.split(",")
        if len(fields) > len(Group._fields):
            raise ValueError(f"{entry!r} in a mask strategy has more than {len(Group._fields)}")
        try:
            numbers = [*map(int, fields[:5]), *map(float, fields[5:])]
        except ValueError:
            raise ValueError(f"{entry!r} in a mask strategy is not made of numbers") from None
        groups.append(Group(*numbers))
        if not 0 <= groups[-1].ratio <= 1:
            raise ValueError(f"{entry!r} in a mask strategy has a ratio outside of [0, 1]")
    return tuple(groups)


def nearest_start(value: int, every: int, size: int) -> int:
    """The multiple of `every` that a start goes to, as published, of those below `size`."""
    quotient, rest = divmod(value, every)
    return every * (quotient + (rest > every / 2 and quotient < size // every - 1))


def give_frames(
    groups: Sequence[Group],
    references: Sequence[Array],
    shape: tuple[int, int, int, int],
    *,
    loop: int = 0,
    align: int | None = None,
) -> Given:
    """The frames of a clip that a strategy gives.

    Args:
      groups: of the strategy.
      references: latents, [T', H, W, C] each.
      shape: T, H, W, C of the clip.
      loop: number of the clip.
      align: starts are moved to multiples of this; the published 5 are the latents of a chunk.
    """
    latents, ratio = jnp.zeros(shape), np.ones(shape[0], np.float32)

    def start(value: int, size: int) -> int:
        value = value + size if value < 0 else value
        return value if align is None else nearest_start(value, align, size)

    for group in groups:
        if group.loop != loop:
            continue
        reference = references[group.reference]
        source, target = start(group.start, len(reference)), start(group.target, shape[0])
        length = min(group.length, len(reference) - source, shape[0] - target)
        there = slice(target, target + length)
        latents = latents.at[there].set(reference[source : source + length])
        ratio[there] = group.ratio
    return Given(latents, jnp.asarray(ratio))
