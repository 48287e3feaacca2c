"""Image to video with NOVA: the first frame is given, frames after it are searched.

P prompts  H W frame size  h w latent size  C latent channels.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.nova.generator import Branch, Nova, NovaConfig
from tts_jax.generators.nova.sampler import Condition
from tts_jax.generators.nova.vae import posterior_sample
from tts_jax.generators.protocol import Look, Params
from tts_jax.media import read_image
from tts_jax.solvers.noise import Key, fold_in, normal

IMAGE_TAG = 0xFFFFFFFE  # no child has this index


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageCondition:
    """A text condition and the moments of the first frame, [h, w, 2C]."""

    text: Condition
    moments: Array


def open_image(path: Path | str, config: NovaConfig) -> np.ndarray:
    """A picture resized to the frames of a generator, [H, W, 3] uint8.

    Raises:
      ValueError: it cannot be read.
    """
    factor, (_, height, width, _) = config.vae.spatial_factor, config.latent_shape
    return read_image(path, height * factor, width * factor)


class FromImage:
    """A `Nova` whose frame 0 is done: a draw from the posterior of the image's latents.

    The draw is the root's, so that all branches share it.
    """

    def __init__(self, generator: Nova, image: np.ndarray):
        """Computes nothing yet.

        Args:
          generator: the model, of more than one latent frame.
          image: the first frame, [H, W, 3] of the generator's size, uint8 or float in [0, 1].

        Raises:
          ValueError: another size or type, or there is no frame after the first.
        """
        config = generator.config
        factor, (frames, height, width, _) = config.vae.spatial_factor, config.latent_shape
        shape = height * factor, width * factor, 3
        image = np.asarray(image)
        if frames < 2:
            raise ValueError("the generator makes one latent frame, which the image is already")
        if image.shape != shape:
            raise ValueError(f"the image is {image.shape}, the generator's frames are {shape}")
        if image.dtype == np.uint8:
            image = image / np.float32(255)
        if not np.issubdtype(image.dtype, np.floating) or image.min() < 0 or image.max() > 1:
            raise ValueError("the image is neither 8-bit nor in [0, 1]")
        self.generator = generator
        self.image = image.astype(np.float32)
        self.units = generator.units[1:]
        self.num_segments = sum(self.units)

    def __getattr__(self, name: str):
        """What does not depend on the segment is the generator's."""
        return getattr(self.generator, name)

    @property
    def _done(self) -> int:
        return self.generator.units[0]

    @cached_property
    def _encode_image(self):
        return jax.jit(self.generator.encode_frames)

    def encode(self, params: Params, prompts: Sequence[str]) -> ImageCondition:
        """Text conditions of prompts, each with the image; see the protocol."""
        text = self.generator.encode(params, prompts)
        moments = self._encode_image(params, jnp.asarray(self.image)[None])[0]
        return ImageCondition(text, jnp.broadcast_to(moments, (len(prompts), *moments.shape)))

    def init(self, params: Params, condition: ImageCondition, key: Key) -> Branch:
        """A branch with the image as its frame 0; see the protocol."""
        branch = self.generator.init(params, condition.text, key)
        noise = normal(fold_in(key, IMAGE_TAG), branch.latents.shape[1:])
        drawn = posterior_sample(condition.moments, noise)[None]
        frame = self.generator.config.factors.to_model(drawn)[0]
        return self.generator.given(params, condition.text, branch, frame)

    def advance(
        self,
        params: Params,
        condition: ImageCondition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Adds a segment; see the protocol."""
        place = segment + self._done
        return self.generator.advance(params, condition.text, branch, key, place, program)

    def estimate(
        self,
        params: Params,
        condition: ImageCondition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Array:
        """Latents of the image and the frames so far; see the protocol."""
        place = segment + self._done
        return self.generator.estimate(params, condition.text, branch, place, look)

    def draft(self) -> "FromImage | None":
        """The same with fewer steps, if there are fewer."""
        draft = self.generator.draft()
        return None if draft is None else FromImage(draft, self.image)

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one segment."""
        return self.generator.nfe(segment + self._done)

    def program(self, segment: int) -> Hashable:
        """Segments of an equal value share one executable."""
        return self.generator.program(segment + self._done)
