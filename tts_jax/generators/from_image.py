"""Image to video: the first frame is given, what follows it is searched.

P prompts  H W frame size  h w latent size  C latent channels.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.protocol import (
    Branch,
    Condition,
    Generator,
    Look,
    Params,
    parent_nfe,
)
from tts_jax.solvers.noise import Key, fold_in

IMAGE_TAG = 0xFFFFFFFE  # no child has this index


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageCondition:
    """A text condition and the posterior moments of the first frame, [1, h, w, 2C]."""

    text: Condition
    moments: Array


class FromImage:
    """A generator whose unit 0 is done: a draw from the posterior of the image's latents.

    The draw is the root's, so that all branches share it. Of the generator it needs, beside the
    protocol, `frame_size`, `encode_frames` and `begin_with_image`; and, if its settings may allow
    no image, `refuses_image`, a sentence that says why, or nothing. Where its `units_of_an_image`
    is 0 the image is but the first frame of unit 0, the rest of which is searched.
    """

    def __init__(self, generator: Generator, image: np.ndarray):
        """Computes nothing yet.

        Args:
          generator: the model, of more than one unit.
          image: the first frame, [H, W, 3] of the generator's size, uint8 or float in [0, 1].

        Raises:
          ValueError: another size or type, there is no unit after the first, or the generator's
            first unit is more than an image.
        """
        if reason := getattr(generator, "refuses_image", ""):
            raise ValueError(reason)
        shape = *generator.frame_size, 3
        image = np.asarray(image)
        done = getattr(generator, "units_of_an_image", 1)
        if len(generator.units) <= done:
            raise ValueError("the generator makes one latent frame, which the image is already")
        if image.shape != shape:
            raise ValueError(f"the image is {image.shape}, the generator's frames are {shape}")
        if image.dtype == np.uint8:
            image = image / np.float32(255)
        if not np.issubdtype(image.dtype, np.floating) or image.min() < 0 or image.max() > 1:
            raise ValueError("the image is neither 8-bit nor in [0, 1]")
        self.generator = generator
        self.image = image.astype(np.float32)
        self.units = generator.units[done:]
        self._done = sum(generator.units[:done])
        self.num_segments = sum(self.units)

    def __getattr__(self, name: str):
        """What does not depend on the segment is the generator's."""
        return getattr(self.generator, name)

    @cached_property
    def _encode_image(self):
        return jax.jit(self.generator.encode_frames)

    def encode(self, params: Params, prompts: Sequence[str]) -> ImageCondition:
        """Text conditions of prompts, each with the image; see the protocol."""
        text = self.generator.encode(params, prompts)
        moments = self._encode_image(params, jnp.asarray(self.image)[None])
        return ImageCondition(text, jnp.broadcast_to(moments, (len(prompts), *moments.shape)))

    def init(self, params: Params, condition: ImageCondition, key: Key) -> Branch:
        """A branch with the image as its unit 0; see the protocol."""
        branch = self.generator.init(params, condition.text, key)
        return self.generator.begin_with_image(
            params, condition.text, branch, condition.moments, fold_in(key, IMAGE_TAG)
        )

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
        """Latents of the image and the units so far; see the protocol."""
        place = segment + self._done
        return self.generator.estimate(params, condition.text, branch, place, look)

    def estimate_nfe(self, segment: int, look: Look) -> int:
        """Denoiser calls of one `estimate`."""
        return self.generator.estimate_nfe(segment + self._done, look)

    def renoise(
        self,
        params: Params,
        condition: ImageCondition,
        branch: Branch,
        key: Key,
        segment: int,
        to: int,
        strength: Array,
    ) -> Branch:
        """Takes a branch back to an earlier noise level of its last unit; see the protocol."""
        depths = segment + self._done, to + self._done
        return self.generator.renoise(params, condition.text, branch, key, *depths, strength)

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Denoiser calls of one `renoise`."""
        return self.generator.renoise_nfe(segment + self._done, to + self._done)

    def draft(self) -> "FromImage | None":
        """The same with fewer denoising steps, if there are fewer."""
        draft = self.generator.draft()
        return None if draft is None else FromImage(draft, self.image)

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one segment."""
        return self.generator.nfe(segment + self._done)

    def parent_nfe(self, segment: int) -> int:
        """Of these, those that siblings share."""
        return parent_nfe(self.generator, segment + self._done)

    def program(self, segment: int) -> Hashable:
        """Segments of an equal value share one executable."""
        return self.generator.program(segment + self._done)
