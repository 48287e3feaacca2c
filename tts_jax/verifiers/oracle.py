"""The embedded world's own grader as a verifier, for upper bounds only.

B branches  P prompts  T frames  H W frame size.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.worlds import moving_shapes

_LONGEST = 128


class OracleVerifier:
    """Fraction of right facts, plus one for a full success: between 0 and 2.

    It sees what no real verifier sees, and runs on the host inside the jitted program.
    """

    name = "oracle"
    needs = "video"

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """The captions as bytes, since a query holds arrays only.

        Args:
          params: unused.
          prompts: P captions of the world.

        Returns:
          [P, 128] uint8, padded with zeros.

        Raises:
          CaptionError: a caption outside the world's grammar.
        """
        rows = np.zeros((len(prompts), _LONGEST), np.uint8)
        for row, prompt in zip(rows, prompts, strict=True):
            moving_shapes.parse(prompt)
            text = np.frombuffer(prompt.encode(), np.uint8)
            row[: len(text)] = text
        return jnp.asarray(rows)

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """Facts plus success of complete videos, [B, T, H, W, 3] -> [B] float32."""
        shape = jax.ShapeDtypeStruct(frames.shape[:1], jnp.float32)
        return jax.pure_callback(_grade, shape, frames, query, vmap_method="sequential")


def _grade(frames, query) -> np.ndarray:
    caption = np.asarray(query).tobytes().rstrip(b"\0").decode()
    grades = [moving_shapes.grade(video, caption) for video in np.asarray(frames)]
    return np.array([grade.facts + grade.success for grade in grades], np.float32)
