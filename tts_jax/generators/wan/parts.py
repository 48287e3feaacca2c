"""What Wan and its causal form have in common: networks, prompts, and the shape of a video.

B texts  T latent frames  H W latent size  C channels  L tokens.
"""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.networks import GeneratorNetworks, read_parts
from tts_jax.generators.protocol import Params
from tts_jax.generators.wan.transformer import POSITIONS, Transformer, TransformerConfig
from tts_jax.generators.wan.vae import CausalVideoVAE, VAEConfig
from tts_jax.language.published import open_published
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.language.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """The parts of a generator; `sampler` has frames, height, width, text_length and tiled."""

    t5: T5Config
    transformer: TransformerConfig
    vae: VAEConfig
    sampler: Any

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
        side, clip = vae.spatial_factor * transformer.patch, vae.temporal_factor
        if sampler.height % side or sampler.width % side or (sampler.frames - 1) % clip:
            raise ValueError(
                f"a video of {sampler.frames} frames of {sampler.height} x {sampler.width}: "
                f"sides are multiples of {side}, frames 1 + a multiple of {clip}"
            )
        if self.latent_shape[0] > POSITIONS:
            raise ValueError(
                f"{sampler.frames} frames are {self.latent_shape[0]} latent frames, of which the "
                f"denoiser can tell {POSITIONS} apart"
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
    def from_json(cls, fields: Mapping) -> Self:
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        parts = {field.name: field.type for field in dataclasses.fields(cls)}
        return cls(**read_parts(fields, parts))


def clean_prompt(text: str) -> str:
    """A prompt as the published pipeline reads it: HTML entities resolved, single spaces."""
    return " ".join(html.unescape(html.unescape(text)).split())


class Parts(GeneratorNetworks):
    """The networks, and what they do before and after denoising."""

    def __init__(self, config: PartsConfig, tokenizers: Mapping[str, Tokenizer]):
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

    @cached_property
    def _encode_tokens(self):
        def encode(params: Params, tokens: Array, mask: Array) -> Array:
            return jnp.where(mask[..., None], self.network(params, "t5")(tokens, mask), 0)

        return jax.jit(encode)

    def read_texts(self, params: Params, texts: Sequence[str]) -> Array:
        """States of texts, [B, L, D_text], zero where there is padding."""
        tokens, mask = self.tokenizer.tokenize([clean_prompt(text) for text in texts])
        return self._encode_tokens({"t5": params["t5"]}, jnp.asarray(tokens), jnp.asarray(mask))

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return self.config.sampler.height, self.config.sampler.width

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
