"""ViCLIP (arXiv 2307.06942): video-text alignment, motion included.

The towers and the read-out are CLIP's; the vision tower sees all chosen frames in one sequence.
B branches  T frames.
"""

from dataclasses import dataclass

import numpy as np
from jax import Array

from tts_jax.language.clip_text import TextConfig
from tts_jax.verifiers.clip import CLIPConfig, ClipVerifier
from tts_jax.vision.vit import VisionConfig


@dataclass(frozen=True, kw_only=True)
class ViCLIPConfig(CLIPConfig):
    """CLIP's configuration and the choice of frames.

    Attributes:
      stride: take every stride-th frame from the first on, so that the beginning of a video is
        judged with the times it has in the whole; None takes the middles of equal intervals.
    """

    stride: int | None = None

    @classmethod
    def viclip_l14(cls) -> "ViCLIPConfig":
        """ViCLIP-L/14 of InternVid (ViClip-InternVid-10M-FLT), as used by VBench."""
        vision = VisionConfig(
            size=224,
            patch=14,
            width=1024,
            heads=16,
            layers=24,
            mlp=4096,
            projection=768,
            frames=8,
        )
        text = TextConfig(
            vocabulary=49408,
            length=32,
            width=768,
            heads=12,
            layers=12,
            mlp=3072,
            projection=768,
            eos_id=49407,
        )
        return cls(vision=vision, text=text, quantise=True)


def middle_frames(total: int, count: int) -> np.ndarray:
    """Frame indices by VBench's middle sampling.

    The video is cut into `count` intervals and the middle of each is taken; a shorter video repeats
    its last frame.

    Args:
      total: frames of the video.
      count: frames wanted.

    Returns:
      Indices, [count] int.
    """
    intervals = min(total, count)
    edges = np.linspace(0, total, intervals + 1).astype(int)
    indices = (edges[:-1] + edges[1:] - 1) // 2
    return np.pad(indices, (0, count - intervals), constant_values=indices[-1])


class ViClipVerifier(ClipVerifier):
    """exp(logit_scale) times the cosine of the video and the prompt."""

    name = "viclip"
    needs = "video"

    def _select(self, frames: Array) -> Array:
        total, count = frames.shape[1], self.config.vision.frames
        if self.config.stride is None:
            return frames[:, middle_frames(total, count)]
        return frames[:, : count * self.config.stride : self.config.stride]
