"""The autoencoder of Latte-1, Stable Diffusion's (arXiv 2112.10752) on every frame by itself.

B batch  T frames  H W size  h w latent size  C latent channels. Channels last, pixels in [-1, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.image_autoencoder import ImageDecoder, ImageEncoder, by_frames
from tts_jax.reference import refuse_others


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the autoencoder, for which a frame is a latent frame.

    Attributes:
      image_channels: of a frame.
      latent_channels: C.
      channels: of each level, from the image side in both halves.
      layers: residual blocks of a level of the encoder; the decoder's have one more.
      groups: of the group norms.
      scale: the denoiser's latents are those of the autoencoder times this.
      batch: frames that are worked on at a time; of no influence on the result.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...]
    layers: int
    groups: int = 32
    scale: float = 0.18215
    batch: int = 4

    temporal_factor: ClassVar[int] = 1

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batches of {self.batch} frames; at least 1 is needed")

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along H and W."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def stable_diffusion(cls) -> "VAEConfig":
        """That of Stable Diffusion 1 and 2, whose fine-tuned decoders differ in weights alone."""
        return cls(channels=(128, 256, 512, 512), layers=2)

    @classmethod
    def from_reference(cls, config: Mapping) -> "VAEConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file.

        Raises:
          ValueError: the file asks for something that the published autoencoder has not.
        """
        fixed = {
            "out_channels": config["in_channels"],
            "act_fn": "silu",
            "mid_block_add_attention": True,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
            "shift_factor": None,
            "latents_mean": None,
            "latents_std": None,
        }
        refuse_others("settings of Latte's VAE", config, fixed)
        return cls(
            image_channels=config["in_channels"],
            latent_channels=config["latent_channels"],
            channels=tuple(config["block_out_channels"]),
            layers=config["layers_per_block"],
            groups=config.get("norm_num_groups", 32),
            scale=config.get("scaling_factor", 0.18215),
        )


class FrameVAE(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ImageEncoder(config, rngs=rngs)
        self.decoder = ImageDecoder(config, rngs=rngs)

    def encode(self, pixels: Array) -> Array:
        """Posterior moments.

        Args:
          pixels: [B, T, H, W, 3] in [-1, 1].

        Returns:
          Mean and log-variance (not clamped) on channels, [B, T, H/8, W/8, 2C], float32.
        """
        return self._by_frames(self.encoder, pixels)

    def decode(self, latents: Array) -> Array:
        """Pixels.

        Args:
          latents: [B, T, h, w, C], in the autoencoder's own scale.

        Returns:
          [B, T, 8h, 8w, 3], nominally in [-1, 1] but not clipped, float32.
        """
        return self._by_frames(self.decoder, latents)

    def _by_frames(self, run: Callable[[Array], Array], x: Array) -> Array:
        dtype = self.decoder.conv_in.kernel.dtype

        def some(frames: Array) -> Array:
            return run(frames.astype(dtype)).astype(jnp.float32)

        return by_frames(some, x, self.config.batch)
