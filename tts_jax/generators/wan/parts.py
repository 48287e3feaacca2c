"""What Wan and its causal form have in common: networks, prompts, and the shape of a video.

B texts  T latent frames  H W latent size  C channels  L tokens.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from tts_jax.generators.protocol import Params
from tts_jax.generators.t5_parts import PartsConfig, T5Parts
from tts_jax.generators.wan.transformer import POSITIONS, Transformer, TransformerConfig
from tts_jax.generators.wan.vae import CausalVideoVAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class WanPartsConfig(PartsConfig):
    """The parts of a generator; `sampler` has `tiled` too."""

    transformer: TransformerConfig
    vae: VAEConfig

    def __post_init__(self):
        super().__post_init__()
        if self.latent_shape[0] > POSITIONS:
            raise ValueError(
                f"{self.sampler.frames} frames are {self.latent_shape[0]} latent frames, of which "
                f"the denoiser can tell {POSITIONS} apart"
            )


def clean_prompt(text: str) -> str:
    """A prompt as the published pipeline reads it: HTML entities resolved, single spaces."""
    return " ".join(html.unescape(html.unescape(text)).split())


class WanParts(T5Parts):
    """The networks, and what they do before and after denoising."""

    denoiser = Transformer
    autoencoder = CausalVideoVAE

    def read_texts(self, params: Params, texts: Sequence[str]) -> Array:
        """States of texts, [B, L, D_text], zero where there is padding."""
        tokens, mask = self.tokenizer.tokenize([clean_prompt(text) for text in texts])
        return jnp.where(mask[..., None], self.text_states(params, tokens, mask), 0)

    def encode_frames(self, params: Params, frames: Array) -> Array:
        """Posterior moments of frames, [1 + 4k, 8H, 8W, 3] in [0, 1] -> [1 + k, H, W, 2C]."""
        vae = self.network(params, "vae")
        run = vae.encode_tiled if self.config.sampler.tiled else vae.encode
        return run(2 * frames[None] - 1)[0]

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + 4(T-1), 8H, 8W, 3], float32 in [0, 1]."""
        vae, config = self.network(params, "vae"), self.config.vae
        run = vae.decode_tiled if self.config.sampler.tiled else vae.decode
        pixels = run(latents[None] * jnp.asarray(config.std) + jnp.asarray(config.mean))
        return jnp.clip(pixels[0] * 0.5 + 0.5, 0.0, 1.0)
