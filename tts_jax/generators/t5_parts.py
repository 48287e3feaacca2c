"""What text-to-video models that read their prompts with one T5 have in common.

B texts  T latent frames  H W latent size  C channels  L tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.networks import GeneratorNetworks, read_parts
from tts_jax.generators.protocol import Params
from tts_jax.language.published import open_published
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.language.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """The parts of a generator, of whose types a family has its own.

    The transformer's config has latent_channels, patch and text_width; the VAE's has
    latent_channels, spatial_factor and temporal_factor; the sampler's frames, height, width and
    text_length.
    """

    tokenizer_folder: ClassVar[str] = "tokenizer"

    t5: T5Config
    transformer: Any
    vae: Any
    sampler: Any

    def __post_init__(self):
        vae, transformer = self.vae, self.transformer
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
        self.check_size()

    def check_size(self) -> None:
        """Refuses videos of sizes that the networks cannot take.

        Raises:
          ValueError: they are no multiples of what they must be.
        """
        vae, sampler = self.vae, self.sampler
        side, clip = vae.spatial_factor * self.transformer.patch, self.clip
        if sampler.height % side or sampler.width % side or (sampler.frames - 1) % clip:
            raise ValueError(
                f"a video of {sampler.frames} frames of {sampler.height} x {sampler.width}: "
                f"sides are multiples of {side}, frames 1 + a multiple of {clip}"
            )

    @property
    def text_length(self) -> int:
        """Tokens of a prompt."""
        return self.sampler.text_length

    @property
    def clip(self) -> int:
        """Frames that come together, after the first."""
        return self.vae.temporal_factor

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
        return {"t5": open_published(folder / self.tokenizer_folder, self.text_length)}

    @classmethod
    def from_json(cls, fields: Mapping) -> Self:
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        parts = {field.name: field.type for field in dataclasses.fields(cls)}
        return cls(**read_parts(fields, parts))


class T5Parts(GeneratorNetworks):
    """The networks; a family names its own two.

    Attributes:
      denoiser, autoencoder: modules of the configs "transformer" and "vae".
    """

    denoiser: ClassVar[Callable]
    autoencoder: ClassVar[Callable]

    def __init__(self, config: PartsConfig, tokenizers: Mapping[str, Tokenizer]):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes and settings.
          tokenizers: of "t5", which gives rows of `config.text_length` tokens.
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
            "transformer": (self.denoiser, config.transformer),
            "vae": (self.autoencoder, config.vae),
        }

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return self.config.sampler.height, self.config.sampler.width

    @cached_property
    def _encode_tokens(self):
        return jax.jit(lambda params, *inputs: self.network(params, "t5")(*inputs))

    def text_states(
        self, params: Params, tokens: np.ndarray, mask: np.ndarray | None = None
    ) -> Array:
        """States of tokens, [B, L] ints -> [B, L, D_text].

        Args:
          params: the model's parameters.
          tokens: rows of the tokenizer.
          mask: tokens that others may see, bool [B, L]; all if None.
        """
        inputs = [jnp.asarray(x) for x in (tokens, mask) if x is not None]
        return self._encode_tokens({"t5": params["t5"]}, *inputs)
