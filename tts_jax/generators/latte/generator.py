"""Latte-1 as a chain of segments: a segment is a block of denoising steps of the whole video.

B texts  T frames  H W latent size  C channels  L tokens  N steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.diffusion import Diffusion
from tts_jax.generators.full_sequence import Segments, guide
from tts_jax.generators.latte.scheduler import Schedule
from tts_jax.generators.latte.transformer import Transformer, TransformerConfig
from tts_jax.generators.latte.vae import FrameVAE, VAEConfig
from tts_jax.generators.protocol import Params
from tts_jax.generators.t5_parts import PartsConfig, T5Parts
from tts_jax.language.captions import clean_caption
from tts_jax.language.t5 import T5Config
from tts_jax.solvers import diffusion


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Segments):
    """How a video is sampled.

    Attributes:
      frames: of the video: as many as the denoiser has positions for, or 1.
      height, width: of the video in pixels.
      text_length: tokens of a prompt, padding included.
      clean: whether prompts are cleaned as the captions of the training videos were; without, they
        are put into lower case.
      steps: denoising steps, N.
      steps_per_segment: of every segment but the last, which may be shorter.
      draft_steps_per_segment: of the draft, a generator of as many segments.
      guidance: guidance scale; guidance is on when it is above 1.
      negative_prompt: what guidance leads away from.
      eta, beta_start, beta_end, num_train_timesteps, offset, clean_end: see `Schedule`.
    """

    schedule_type: ClassVar[type] = Schedule

    frames: int = 16
    height: int = 512
    width: int = 512
    text_length: int = 120
    clean: bool = True
    steps: int = 50
    steps_per_segment: int = 5
    draft_steps_per_segment: int = 1
    guidance: float = 7.5
    negative_prompt: str = ""
    eta: float = 0.0
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    offset: int = 0
    clean_end: bool = True

    @classmethod
    def from_reference(cls, scheduler: Mapping) -> "SamplerConfig":
        """The published defaults with the tables of a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for something that the published checkpoint has not.
        """
        return cls(**Schedule.read_reference(scheduler))


@dataclass(frozen=True, kw_only=True)
class LatteConfig(PartsConfig):
    """The parts of a generator."""

    transformer: TransformerConfig
    vae: VAEConfig
    sampler: SamplerConfig

    def __post_init__(self):
        super().__post_init__()
        frames, most = self.sampler.frames, self.transformer.frames
        if frames not in (1, most):
            raise ValueError(f"a video of {frames} frames: the denoiser makes {most}, or 1")

    @classmethod
    def latte_1(cls) -> "LatteConfig":
        """maxin-cn/Latte-1."""
        return cls(
            t5=T5Config.t5_v1_1_xxl(),
            transformer=TransformerConfig.latte_1(),
            vae=VAEConfig.stable_diffusion(),
            sampler=SamplerConfig(),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds to the denoiser's inputs.

    Attributes:
      text: states of the negative prompt, if guided, and of the prompt, [B, L, D_text].
      seen: which of them the denoiser sees, bool [L]: as many as the prompt has tokens, of the
        negative prompt too, whose padding then counts.
      guidance: scale of all steps, [] float32.
    """

    text: Array
    seen: Array
    guidance: Array


class Latte(T5Parts, Diffusion):
    """The generator protocol over Latte-1; see `tts_jax.generators.protocol.Generator`."""

    name = "latte"
    denoiser = Transformer
    autoencoder = FrameVAE

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt, which of them count, and the guidance scale."""
        sampler = self.config.sampler
        texts = [sampler.negative_prompt, prompt] if sampler.guided else [prompt]
        tokens, mask = self.tokenizer.tokenize([self._prepare(text) for text in texts])
        states = self.text_states(params, tokens, mask)
        return Condition(states, jnp.asarray(mask[-1], bool), jnp.float32(sampler.guidance))

    def _prepare(self, text: str) -> str:
        if self.config.sampler.clean:
            return clean_caption(text, trim=False)
        return text.lower().strip()

    def _estimate_clean(
        self, params: Params, condition: Condition, latents: Array, index: int | Array
    ) -> Array:
        """The guided clean estimate at the state before step `index`, [T, H, W, C]."""
        schedule, texts = self._schedule, condition.text.shape[0]
        index = jnp.asarray(index)
        predictions, _ = self.network(params, "transformer")(
            jnp.broadcast_to(latents, (texts, *latents.shape)),
            condition.text,
            jnp.full(texts, jnp.asarray(schedule.timesteps, jnp.float32)[index]),
            jnp.broadcast_to(condition.seen, (texts, *condition.seen.shape)),
        )
        prediction = guide(predictions, condition.guidance)
        return diffusion.split(latents, prediction, self._levels[index], "noise").clean

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [T, 8H, 8W, 3], float32 in [0, 1]."""
        pixels = self.network(params, "vae").decode(latents[None] / self.config.vae.scale)[0]
        return jnp.clip(pixels * 0.5 + 0.5, 0.0, 1.0)
