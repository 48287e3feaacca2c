"""CogVideoX as a chain of segments: a segment is a block of denoising steps of the whole video.

B texts  T latent frames  H W latent size  C channels  L tokens  N steps  P prompts.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.cogvideox.scheduler import Coefficients, Schedule
from tts_jax.generators.cogvideox.transformer import Transformer, TransformerConfig
from tts_jax.generators.cogvideox.vae import DECODER_WINDOW, CausalVideoVAE, VAEConfig
from tts_jax.generators.full_sequence import Branch, FullSequence
from tts_jax.generators.networks import read_parts
from tts_jax.generators.protocol import Params
from tts_jax.language.published import open_published
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.language.tokenizer import Tokenizer
from tts_jax.solvers import diffusion, noise
from tts_jax.solvers.noise import Key


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
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

    def __post_init__(self):
        for name in ("steps_per_segment", "draft_steps_per_segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        _ = self.schedule  # refuses impossible settings

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

    @property
    def guided(self) -> bool:
        return self.guidance > 1

    @cached_property
    def schedule(self) -> Schedule:
        """Timesteps, levels and solver."""
        names = [field.name for field in dataclasses.fields(Schedule)]
        return Schedule(**{name: getattr(self, name) for name in names})

    @property
    def num_segments(self) -> int:
        return -(-self.steps // self.steps_per_segment)

    def steps_before(self, segment: int) -> int:
        """Steps done before a segment."""
        return min(segment * self.steps_per_segment, self.steps)


@dataclass(frozen=True, kw_only=True)
class CogVideoXConfig:
    """The parts of a generator."""

    t5: T5Config
    transformer: TransformerConfig
    vae: VAEConfig
    sampler: SamplerConfig

    def __post_init__(self):
        vae, sampler, transformer = self.vae, self.sampler, self.transformer
        if vae.latent_channels != transformer.latent_channels:
            raise ValueError(
                f"the VAE has {vae.latent_channels} latent channels, "
                f"the denoiser {transformer.latent_channels}"
            )
        if transformer.text_width != self.t5.width:
            raise ValueError(
                f"the text encoder is {self.t5.width} wide, "
                f"the denoiser wants {transformer.text_width}"
            )
        side = vae.spatial_factor * transformer.patch
        clip = vae.temporal_factor * DECODER_WINDOW
        if sampler.height % side or sampler.width % side or (sampler.frames - 1) % clip:
            raise ValueError(
                f"a video of {sampler.frames} frames of {sampler.height} x {sampler.width}: "
                f"sides are multiples of {side}, frames 1 + a multiple of {clip}"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """T, H, W, C of a video's latents."""
        vae, sampler = self.vae, self.sampler
        return (
            1 + (sampler.frames - 1) // vae.temporal_factor,
            sampler.height // vae.spatial_factor,
            sampler.width // vae.spatial_factor,
            vae.latent_channels,
        )

    def open_tokenizers(self, folder: Path) -> dict[str, Tokenizer]:
        """The tokenizers of a checkpoint folder, by part.

        Raises:
          Exception: a file is missing or damaged; of any type.
        """
        return {"t5": open_published(folder / "tokenizer", self.sampler.text_length)}

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

    @classmethod
    def from_json(cls, fields: Mapping) -> "CogVideoXConfig":
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        parts = {field.name: field.type for field in dataclasses.fields(cls)}
        return cls(**read_parts(fields, parts))


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


class CogVideoX(FullSequence):
    """The generator protocol over CogVideoX; see `tts_jax.generators.protocol.Generator`."""

    name = "cogvideox"

    def __init__(self, config: CogVideoXConfig, tokenizers: Mapping[str, Tokenizer]):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes and settings.
          tokenizers: of "t5", which gives rows of `config.sampler.text_length` tokens.
        """
        self.config = config
        self.tokenizers = tokenizers
        self.tokenizer = tokenizers["t5"]

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Parts that `encode` alone uses."""
        return ("t5",)

    @property
    def networks(self) -> dict:
        """The module and the config of every part."""
        config = self.config
        return {
            "t5": (T5Encoder, config.t5),
            "transformer": (Transformer, config.transformer),
            "vae": (CausalVideoVAE, config.vae),
        }

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws noise."""
        return bool(self._schedule.coefficients.noise.any())

    @property
    def _schedule(self) -> Schedule:
        return self.config.sampler.schedule

    @cached_property
    def _encode_texts(self):
        return jax.jit(lambda params, tokens: self.network(params, "t5")(tokens))

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt, and the guidance of each step."""
        sampler = self.config.sampler
        scales = self._schedule.guidance(sampler.guidance, dynamic=sampler.dynamic_guidance)
        texts = [sampler.negative_prompt, prompt] if sampler.guided else [prompt]
        tokens, _ = self.tokenizer.tokenize(texts)
        states = self._encode_texts({"t5": params["t5"]}, jnp.asarray(tokens))
        return Condition(states, jnp.asarray(scales, jnp.float32))

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
        velocity = velocities[-1]
        if texts > 1:
            velocity = velocities[0] + condition.guidance[index] * (velocity - velocities[0])
        level = jnp.asarray(schedule.levels, jnp.float32)[index]
        return diffusion.split(latents, velocity, level, "velocity").clean

    @cached_property
    def _steps(self) -> Coefficients:
        return self._schedule.coefficients_between_stops(1, self.config.sampler.steps_per_segment)

    @property
    def _levels(self) -> Array:
        return jnp.asarray(self._schedule.levels, jnp.float32)

    def _predict(self, branch: Branch, index: Array, key: Key) -> Array:
        row = Coefficients(*(jnp.asarray(x, jnp.float32)[index + 1] for x in self._steps))
        latents = (
            row.latents * branch.latents + row.clean * branch.clean + row.previous * branch.previous
        )
        if self.stochastic:
            latents = latents + row.noise * noise.normal(key, latents.shape)
        return latents

    def _follow_ode(self, latents: Array, clean: Array, here: Array, there: Array) -> Array:
        level, after = self._levels[here], self._levels[there]
        parts = diffusion.Parts(clean, (latents - jnp.sqrt(level) * clean) / jnp.sqrt(1 - level))
        return diffusion.ode_step(parts, after)

    def _noise_again(self, latents: Array, here: int, there: int, normals: Array) -> Array:
        return diffusion.noise_again(latents, self._levels[here], self._levels[there], normals)

    def _add_noise(self, latents: Array, here: int, normals: Array, strength: Array) -> Array:
        return diffusion.add_noise(latents, self._levels[here], normals, strength)

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + 4(T-1), 8H, 8W, 3], float32 in [0, 1]."""
        vae = self.network(params, "vae")
        run = vae.decode_tiled if self.config.sampler.tiled else vae.decode
        return jnp.clip(run(latents[None] / self.config.vae.scale)[0] * 0.5 + 0.5, 0.0, 1.0)
