"""CogVideoX as a chain of segments: a segment is a block of denoising steps of the whole video.

B texts  T latent frames  H W latent size  C channels  L tokens  N steps  P prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.cogvideox.scheduler import Schedule
from tts_jax.generators.cogvideox.transformer import Transformer, TransformerConfig
from tts_jax.generators.cogvideox.vae import DECODER_WINDOW, CausalVideoVAE, VAEConfig
from tts_jax.generators.diffusion import Diffusion
from tts_jax.generators.full_sequence import Segments, guide
from tts_jax.generators.protocol import Params
from tts_jax.generators.t5_parts import PartsConfig, T5Parts
from tts_jax.language.t5 import T5Config
from tts_jax.solvers import diffusion


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Segments):
    """How a video is sampled.

    Attributes:
      frames: of the video, 1 + a multiple of 8.
      height, width: of the video in pixels.
      text_length: tokens of a prompt, padding included; the denoiser sees them all.
      steps: denoising steps, N.
      steps_per_segment: of every segment but the last, which may be shorter.
      draft_steps_per_segment: of the draft, a generator of as many segments.
      guidance: guidance scale; guidance is on when it is above 1.
      dynamic_guidance: see `Schedule.guidance`.
      negative_prompt: what guidance leads away from.
      tiled: whether frames are decoded in overlapping tiles, which takes less memory and gives
        slightly other pixels.
      solver, eta, snr_shift, beta_start, beta_end, num_train_timesteps: see `Schedule`.
    """

    schedule_type: ClassVar[type] = Schedule

    frames: int = 49
    height: int = 480
    width: int = 720
    text_length: int = 226
    steps: int = 50
    steps_per_segment: int = 5
    draft_steps_per_segment: int = 1
    guidance: float = 6.0
    dynamic_guidance: bool = False
    negative_prompt: str = ""
    tiled: bool = False
    solver: str
    eta: float | None = None
    snr_shift: float
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000

    @classmethod
    def cogvideox_2b(cls) -> "SamplerConfig":
        """As published for THUDM/CogVideoX-2b."""
        return cls(solver="ddim", snr_shift=3.0)

    @classmethod
    def cogvideox_5b(cls) -> "SamplerConfig":
        """As published for THUDM/CogVideoX-5b."""
        return cls(solver="dpm", snr_shift=1.0, dynamic_guidance=True)

    @classmethod
    def from_reference(cls, scheduler: Mapping) -> "SamplerConfig":
        """The published defaults with the tables of a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for something that neither checkpoint has.
        """
        fields = Schedule.read_reference(scheduler)
        return cls(**fields, dynamic_guidance=fields["solver"] == "dpm")


@dataclass(frozen=True, kw_only=True)
class CogVideoXConfig(PartsConfig):
    """The parts of a generator."""

    transformer: TransformerConfig
    vae: VAEConfig
    sampler: SamplerConfig

    @property
    def clip(self) -> int:
        """Frames that come together, after the first."""
        return self.vae.temporal_factor * DECODER_WINDOW

    @classmethod
    def cogvideox_2b(cls) -> "CogVideoXConfig":
        """THUDM/CogVideoX-2b."""
        return cls(
            t5=T5Config.t5_v1_1_xxl(),
            transformer=TransformerConfig.cogvideox_2b(),
            vae=VAEConfig.cogvideox_2b(),
            sampler=SamplerConfig.cogvideox_2b(),
        )

    @classmethod
    def cogvideox_5b(cls) -> "CogVideoXConfig":
        """THUDM/CogVideoX-5b."""
        return cls(
            t5=T5Config.t5_v1_1_xxl(),
            transformer=TransformerConfig.cogvideox_5b(),
            vae=VAEConfig.cogvideox_5b(),
            sampler=SamplerConfig.cogvideox_5b(),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds to the denoiser's inputs.

    Attributes:
      text: states of the negative prompt, if guided, and of the prompt, [B, L, D_text].
      guidance: scale of each step, [N] float32.
    """

    text: Array
    guidance: Array


class CogVideoX(T5Parts, Diffusion):
    """The generator protocol over CogVideoX; see `tts_jax.generators.protocol.Generator`."""

    name = "cogvideox"
    denoiser = Transformer
    autoencoder = CausalVideoVAE

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt, and the guidance of each step."""
        sampler = self.config.sampler
        scales = self._schedule.guidance(sampler.guidance, dynamic=sampler.dynamic_guidance)
        texts = [sampler.negative_prompt, prompt] if sampler.guided else [prompt]
        tokens, _ = self.tokenizer.tokenize(texts)
        return Condition(self.text_states(params, tokens), jnp.asarray(scales, jnp.float32))

    def _estimate_clean(
        self, params: Params, condition: Condition, latents: Array, index: int | Array
    ) -> Array:
        """The guided clean estimate at the state before step `index`, [T, H, W, C]."""
        schedule, texts = self._schedule, condition.text.shape[0]
        index = jnp.asarray(index)
        velocities = self.network(params, "transformer")(
            jnp.broadcast_to(latents, (texts, *latents.shape)),
            condition.text,
            jnp.full(texts, jnp.asarray(schedule.timesteps, jnp.float32)[index]),
        )
        velocity = guide(velocities, condition.guidance[index])
        return diffusion.split(latents, velocity, self._levels[index], "velocity").clean

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + 4(T-1), 8H, 8W, 3], float32 in [0, 1]."""
        vae = self.network(params, "vae")
        run = vae.decode_tiled if self.config.sampler.tiled else vae.decode
        return jnp.clip(run(latents[None] / self.config.vae.scale)[0] * 0.5 + 0.5, 0.0, 1.0)
