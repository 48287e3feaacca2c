"""Temporal stability without a network: VBench's temporal flickering (arXiv 2311.17982).

B branches  T frames  H W frame size.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array


def temporal_flickering(frames: Array) -> Array:
    """One minus the mean absolute difference of neighbouring frames, in 8-bit levels over 255.

    Args:
      frames: [B, T, H, W, 3] float in [0, 1]; rounded to 8 bits first.

    Returns:
      [B] float32 in [0, 1]; 1 for a still or single-frame video.
    """
    levels = jnp.round(jnp.clip(frames.astype(jnp.float32), 0.0, 1.0) * 255)
    if frames.shape[1] < 2:
        return 1.0 + 0.0 * levels.mean(axis=(1, 2, 3, 4))
    difference = jnp.abs(levels[:, 1:] - levels[:, :-1]).mean(axis=(2, 3, 4))
    return (255.0 - difference.mean(axis=1)) / 255.0


class FlickerVerifier:
    """`temporal_flickering` as a verifier; the prompt does not matter."""

    name = "flicker"
    needs = "video"

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """An empty query per prompt, [P, 0] float32."""
        return jnp.zeros((len(prompts), 0))

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """`temporal_flickering` of the frames, [B, T, H, W, 3] -> [B] float32."""
        return temporal_flickering(frames)
