"""LAION's aesthetic predictors: linear maps of CLIP's unit image embedding.

Two heads: "linear", one map (github.com/LAION-AI/aesthetic-predictor, used by VBench), and "mlp",
five maps without activations between them (christophschuhmann/improved-aesthetic-predictor).

B branches  T frames  H W frame size  E size of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.clip_score import clip_pixels
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD
from tts_jax.vision.siglip import by_frame
from tts_jax.vision.vit import VisionConfig, VisionTower


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Sizes of a head.

    Attributes:
      inputs: E.
      widths: after each linear map; the last is one.
    """

    inputs: int = 768
    widths: tuple[int, ...] = (1,)

    @classmethod
    def linear(cls) -> "HeadConfig":
        """sa_0_4_vit_l_14_linear."""
        return cls()

    @classmethod
    def mlp(cls) -> "HeadConfig":
        """sac+logos+ava1-l14-linearMSE."""
        return cls(widths=(1024, 128, 64, 16, 1))


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """Tower, head, and the input's normalisation."""

    vision: VisionConfig
    head: HeadConfig
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


class Head(nnx.Module):
    """Linear maps one after the other."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        sizes = (config.inputs, *config.widths)
        self.layers = nnx.List(
            [nnx.Linear(*sizes[i : i + 2], rngs=rngs) for i in range(len(config.widths))]
        )

    def __call__(self, x: Array) -> Array:
        """[..., E] -> [...] float32."""
        for layer in self.layers:
            x = layer(x)
        return x[..., 0].astype(jnp.float32)


class Aesthetic(nnx.Module):
    """CLIP's image tower and a head."""

    def __init__(self, config: AestheticConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config.vision, rngs=rngs)
        self.head = Head(config.head, rngs=rngs)

    def __call__(self, pixels: Array) -> Array:
        """Normalised images, [B, S, S, 3] -> [B] float32."""
        return self.head(normalise(self.vision.embed(pixels)))


class AestheticVerifier:
    """The mean prediction of all frames, about 1 to 10; the prompt does not matter."""

    name = "aesthetic"
    needs = "video"

    def __init__(self, config: AestheticConfig):
        """Builds the graph; allocates no parameters."""
        self.config = config
        self.graph, self.abstract_params = abstract_params(Aesthetic, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """An empty query per prompt, [P, 0] float32."""
        return jnp.zeros((len(prompts), 0))

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """Predictions, [B, T, H, W, 3] float32 in [0, 1] -> [B] float32."""
        config, model = self.config, nnx.merge(self.graph, params)
        pixels = clip_pixels(frames, config.vision.size, config.mean, config.std)
        scores = by_frame(model, pixels.reshape(-1, *pixels.shape[2:]), at_once=32)
        return scores.reshape(frames.shape[:2]).mean(1)
