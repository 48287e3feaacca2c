"""Wan 2.1 as a chain of segments: a segment is a block of denoising steps of the whole video.

B texts  T latent frames  H W latent size  C channels  L tokens  N steps  P prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.full_sequence import Branch, Segments, guide
from tts_jax.generators.protocol import Params
from tts_jax.generators.rectified_flow import RectifiedFlow
from tts_jax.generators.wan.parts import WanParts, WanPartsConfig
from tts_jax.generators.wan.scheduler import Schedule
from tts_jax.generators.wan.transformer import TransformerConfig
from tts_jax.generators.wan.vae import VAEConfig
from tts_jax.language.t5 import T5Config
from tts_jax.solvers import rectified_flow
from tts_jax.solvers.rectified_flow import Corrector
from tts_jax.solvers.steps import Coefficients, between_stops, row


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Segments):
    """How a video is sampled.

    Attributes:
      frames: of the video, 1 + a multiple of 4.
      height, width: of the video in pixels.
      text_length: tokens of a prompt, padding included, whose states are zero.
      steps: denoising steps, N.
      steps_per_segment: of every segment but the last, which may be shorter.
      draft_steps_per_segment: of the draft, a generator of as many segments.
      guidance: guidance scale; guidance is on when it is above 1.
      negative_prompt: what guidance leads away from.
      tiled: whether frames are decoded in overlapping tiles, which takes less memory and gives
        slightly other pixels.
      solver, eta, shift, num_train_timesteps: see `Schedule`.
    """

    schedule_type: ClassVar[type] = Schedule

    frames: int = 81
    height: int = 480
    width: int = 832
    text_length: int = 512
    steps: int = 50
    steps_per_segment: int = 5
    draft_steps_per_segment: int = 1
    guidance: float = 5.0
    negative_prompt: str = ""
    tiled: bool = False
    solver: str = "unipc"
    eta: float = 0.0
    shift: float = 3.0
    num_train_timesteps: int = 1000

    @classmethod
    def wan2_1_1_3b(cls) -> "SamplerConfig":
        """As published for Wan2.1-T2V-1.3B, 480p."""
        return cls()

    @classmethod
    def wan2_1_14b(cls) -> "SamplerConfig":
        """As published for Wan2.1-T2V-14B, 720p."""
        return cls(height=720, width=1280, shift=5.0)

    @classmethod
    def from_reference(cls, scheduler: Mapping) -> "SamplerConfig":
        """The published defaults with the tables of a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for something that no checkpoint of Wan 2.1 has.
        """
        return cls(**Schedule.read_reference(scheduler))


@dataclass(frozen=True, kw_only=True)
class WanConfig(WanPartsConfig):
    """The parts of a generator."""

    sampler: SamplerConfig

    @classmethod
    def wan2_1_1_3b(cls) -> "WanConfig":
        """Wan-AI/Wan2.1-T2V-1.3B."""
        return cls(
            t5=T5Config.umt5_xxl(),
            transformer=TransformerConfig.wan_1_3b(),
            vae=VAEConfig.published(),
            sampler=SamplerConfig.wan2_1_1_3b(),
        )

    @classmethod
    def wan2_1_14b(cls) -> "WanConfig":
        """Wan-AI/Wan2.1-T2V-14B."""
        return cls(
            t5=T5Config.umt5_xxl(),
            transformer=TransformerConfig.wan_14b(),
            vae=VAEConfig.published(),
            sampler=SamplerConfig.wan2_1_14b(),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds to the denoiser's inputs.

    Attributes:
      text: states of the negative prompt, if guided, and of the prompt, [B, L, D_text]; zero where
        there is padding.
      guidance: scale of all steps, [] float32.
    """

    text: Array
    guidance: Array


class Wan(WanParts, RectifiedFlow):
    """The generator protocol over Wan 2.1; see `tts_jax.generators.protocol.Generator`.

    A branch's latents are those that UniPC's corrector has gone over, once their clean estimate was
    known; the estimate is that at the latents before.
    """

    name = "wan"

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt, and the guidance scale."""
        sampler = self.config.sampler
        texts = [sampler.negative_prompt, prompt] if sampler.guided else [prompt]
        return Condition(self.read_texts(params, texts), jnp.float32(sampler.guidance))

    def _estimate_clean(
        self, params: Params, condition: Condition, latents: Array, index: int | Array
    ) -> Array:
        """The guided clean estimate at the state before step `index`, [T, H, W, C]."""
        texts = condition.text.shape[0]
        times = jnp.asarray(self._schedule.timesteps, jnp.float32)
        velocities = self.network(params, "transformer")(
            jnp.broadcast_to(latents, (texts, *latents.shape)),
            condition.text,
            jnp.full(texts, times[jnp.asarray(index)]),
        )
        velocity = guide(velocities, condition.guidance)
        return rectified_flow.clean_estimate(latents, velocity, self._levels[index])

    @property
    def _coefficients(self) -> Coefficients:
        return self._schedule.coefficients[0]

    @cached_property
    def _corrections(self) -> Corrector:
        """Those of all steps, between stops as of `_steps`."""
        still, after = Corrector(0.0, 0.0, 0.0), self.config.sampler.steps_per_segment
        return between_stops(self._schedule.coefficients[1], still, 1, after)

    def _correct(self, branch: Branch, latents: Array, clean: Array, index: Array) -> Array:
        step = row(self._corrections, index + 1)
        latents = latents + step.clean * branch.clean + step.previous * branch.previous
        return latents + step.ahead * clean
