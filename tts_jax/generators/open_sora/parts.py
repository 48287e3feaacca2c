"""The networks of Open-Sora 1.2, and what they do before and after denoising.

B texts  T latent frames  H W latent size  C channels  L tokens  K clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.open_sora.sampler import SamplerConfig
from tts_jax.generators.open_sora.text import Scores, prepare
from tts_jax.generators.open_sora.transformer import Transformer, TransformerConfig
from tts_jax.generators.open_sora.vae import SPATIAL_SCALE, OpenSoraVAE, OpenSoraVAEConfig
from tts_jax.generators.protocol import Params
from tts_jax.generators.t5_parts import PartsConfig, T5Parts
from tts_jax.language.t5 import T5Config
from tts_jax.nn.autoencoder import posterior_sample
from tts_jax.solvers import noise
from tts_jax.solvers.noise import Key

TOKENIZER = "t5-v1_1-xxl"  # its folder, that of the text encoder as published


@dataclass(frozen=True, kw_only=True)
class OpenSoraConfig(PartsConfig):
    """The parts of a generator."""

    tokenizer_folder: ClassVar[str] = TOKENIZER

    transformer: TransformerConfig
    vae: OpenSoraVAEConfig
    sampler: SamplerConfig

    def check_size(self) -> None:
        """Refuses videos of sizes, or clips, that the networks cannot take.

        Raises:
          ValueError: a side is too short, or clips share no whole chunks.
        """
        vae, sampler = self.vae, self.sampler
        if min(sampler.height, sampler.width) < vae.spatial_factor:
            raise ValueError(
                f"a video of {sampler.height} x {sampler.width}: "
                f"sides are {vae.spatial_factor} at least"
            )
        if sampler.clips > 1:
            chunks, rest = divmod(sampler.frames, vae.chunk)
            shared, odd = divmod(sampler.overlap, vae.latent_chunk)
            if rest or odd or not 0 < shared < chunks:
                raise ValueError(
                    f"clips of {sampler.frames} frames that share {sampler.overlap} latent frames: "
                    f"such clips are whole chunks of {vae.chunk} frames and share some of these, "
                    f"{vae.latent_chunk} latent frames each, but not all"
                )

    @property
    def text_length(self) -> int:
        """Tokens of a prompt."""
        return self.transformer.text_length

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """T, H, W, C of a clip's latents."""
        sampler = self.sampler
        return self.vae.latent_shape(sampler.frames, sampler.height, sampler.width)

    @property
    def overlap_frames(self) -> int:
        """Frames that a clip shares with the one before."""
        return self.sampler.overlap // self.vae.latent_chunk * self.vae.chunk

    @classmethod
    def open_sora_1_2(cls) -> "OpenSoraConfig":
        """hpcai-tech/OpenSora-STDiT-v3 with OpenSora-VAE-v1.2 and DeepFloyd/t5-v1_1-xxl."""
        return cls(
            t5=T5Config.t5_v1_1_xxl(),
            transformer=TransformerConfig.stdit3_xl_2(),
            vae=OpenSoraVAEConfig.published(),
            sampler=SamplerConfig(),
        )


class Parts(T5Parts):
    """The networks; texts, pictures and latents go through them."""

    denoiser = Transformer
    autoencoder = OpenSoraVAE

    def read_texts(self, params: Params, texts: Sequence[str]) -> tuple[Array, Array]:
        """States of texts, [B, L, D_text], and which tokens are no padding, bool [B, L]."""
        sampler = self.config.sampler
        said = {name: getattr(sampler, name) or None for name in ("aesthetic", "motion", "camera")}
        tokens, mask = self.tokenizer.tokenize(prepare(texts, Scores(**said)))
        mask = jnp.asarray(mask)
        return self.text_states(params, tokens, mask), mask

    def encode_frames(self, params: Params, frames: Array) -> Array:
        """Posterior moments of each frame by itself.

        Args:
          params: the model's parameters.
          frames: [T, H, W, 3] in [0, 1].

        Returns:
          [T, h, w, 2C].
        """
        return self.network(params, "vae").spatial_moments(frames[None] * 2 - 1)[0]

    def draw_latents(self, params: Params, moments: Array, key: Key) -> Array:
        """The denoiser's latents of frames, drawn from both posteriors.

        Args:
          params: the model's parameters.
          moments: of `encode_frames`, [T, h, w, 2C].
          key: of the draws.

        Returns:
          [T', h, w, C].
        """
        vae = self.network(params, "vae")

        def draw(moments: Array, tag: int) -> Array:
            shape = *moments.shape[:-1], moments.shape[-1] // 2
            return posterior_sample(moments, noise.normal(noise.fold_in(key, tag), shape))

        small = SPATIAL_SCALE * draw(moments, 0)
        latents = draw(vae.temporal_moments(small[None])[0], 1)
        return (latents - vae.shift[...]) / vae.scale[...]

    def read_end(self, params: Params, latents: Array) -> Array:
        """The last latents of a clip as the first ones of the next: decoded and encoded again.

        The posterior's mean, not a draw, so that siblings share it.

        Args:
          params: the model's parameters.
          latents: of a clip of whole chunks, [T, H, W, C].

        Returns:
          `config.sampler.overlap` latent frames.
        """
        vae, config = self.network(params, "vae"), self.config
        pixels = vae.decode(latents[None, -config.sampler.overlap :], config.overlap_frames)
        return vae.encode(pixels)[0]

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of one clip or several, without what later ones share with those before.

        Args:
          params: the model's parameters.
          latents: [K * T, H, W, C].

        Returns:
          [frames, 8H, 8W, 3], float32 in [0, 1].
        """
        vae, config = self.network(params, "vae"), self.config
        clips = latents.reshape(-1, *config.latent_shape)
        pixels = jax.lax.map(lambda clip: vae.decode(clip[None], config.sampler.frames)[0], clips)
        first, later = pixels[0], pixels[1:, config.overlap_frames :]
        pixels = jnp.concatenate([first, later.reshape(-1, *first.shape[1:])])
        return jnp.clip(pixels * 0.5 + 0.5, 0.0, 1.0)
