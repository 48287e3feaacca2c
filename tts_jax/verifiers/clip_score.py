"""CLIP score: the cosine of frames and prompt (arXiv 2104.08718), without CLIP's learned scale.

B branches  T frames  H W frame size  S tower size.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.clip import ClipVerifier
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD
from tts_jax.vision.resize import normalise_levels, resize, to_levels


def clip_pixels(
    frames: Array,
    size: int,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Array:
    """Frames as CLIP's own image processor gives them: 8 bits, antialiased, cut to the middle.

    Args:
      frames: [..., H, W, 3] float in [0, 1].
      size: S; the shorter side becomes so long.
      mean, std: per channel.

    Returns:
      [..., S, S, 3] float32.
    """
    height, width = frames.shape[-3:-1]
    short = min(height, width)
    scaled = tuple(size if n == short else int(size * n / short) for n in (height, width))
    x = resize(to_levels(frames), scaled, "bicubic", quantise=True)
    top, left = ((n - size) // 2 for n in scaled)
    x = x[..., top : top + size, left : left + size, :]
    return normalise_levels(x, mean, std)


class ClipScoreVerifier(ClipVerifier):
    """The mean of all frames' cosines with the prompt, in [-1, 1]."""

    name = "clip_score"
    needs = "video"

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """The mean cosine.

        Args:
          params: nested dictionary as in `abstract_params`.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: unit text embedding of one prompt, [E].

        Returns:
          Scores, [B] float32.
        """
        config, model = self.config, nnx.merge(self.graph, params)
        pixels = clip_pixels(frames, config.vision.size, config.mean, config.std)
        images = model.vision.embed(pixels.reshape(-1, *pixels.shape[2:]))
        return jnp.mean((normalise(images) @ query).reshape(frames.shape[:2]), axis=1)
