"""CLIP (arXiv 2103.00020): image-text alignment of the first frame.

B branches  P prompts  T frames  H W frame size  E size of the joint embedding.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.tokenizer import Tokenizer
from tts_jax.nn.encoder import normalise
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD, clip_input
from tts_jax.vision.vit import VisionConfig, VisionTower


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """The two towers and the input's normalisation.

    Attributes:
      quantise: round resized frames to 8 bits (see `vision.preprocess.clip_input`).
    """

    vision: VisionConfig
    text: TextConfig
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    quantise: bool = False

    @classmethod
    def clip_vit_base_patch32(cls) -> "CLIPConfig":
        """openai/clip-vit-base-patch32, as used by VBench's background and style."""
        return cls(
            vision=VisionConfig.clip_vit_base_patch32(),
            text=TextConfig.clip_vit_base_patch32(),
        )

    @classmethod
    def clip_vit_large_patch14(cls) -> "CLIPConfig":
        """openai/clip-vit-large-patch14, as used by CLIP score and the LAION heads."""
        return cls(
            vision=VisionConfig.clip_vit_large_patch14(),
            text=TextConfig.clip_vit_large_patch14(),
        )


class CLIP(nnx.Module):
    """A vision tower and a text tower with one joint embedding."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config.vision, rngs=rngs)
        self.text = TextTower(config.text, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.asarray(1 / 0.07)))

    def embed_vision(self, frames: Array) -> Array:
        """Unit embeddings of frames in [0, 1], [B, (T,) H, W, 3] -> [B, E] float32."""
        config = self.config
        pixels = clip_input(
            frames,
            config.vision.size,
            mean=config.mean,
            std=config.std,
            quantise=config.quantise,
        )
        return normalise(self.vision.embed(pixels))

    def embed_text(self, tokens: Array) -> Array:
        """Unit embeddings of token ids, [B, L] -> [B, E] float32."""
        return normalise(self.text.embed(tokens))


class ClipVerifier:
    """Cosine of the first frame and the prompt, times the learned scale: CLIP's logit."""

    name = "clip"
    needs = "image"

    def __init__(self, config: CLIPConfig, tokenizer: Tokenizer):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          tokenizer: turns prompts into the text tower's tokens.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.graph, self.abstract_params = abstract_params(CLIP, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """Unit text embeddings.

        Args:
          params: nested dictionary as in `abstract_params`.
          prompts: P texts.

        Returns:
          [P, E] float32.

        Raises:
          PromptError: a prompt with an unknown word or too many words.
        """
        tokens, _ = self.tokenizer.tokenize(prompts)
        return self._embed_text(params, tokens)

    @functools.cached_property
    def _embed_text(self):
        return jax.jit(lambda params, tokens: nnx.merge(self.graph, params).embed_text(tokens))

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """exp(logit_scale) times the cosine of frames and prompt.

        Args:
          params: nested dictionary as in `abstract_params`.
          frames: [B, T, H, W, 3] float32 in [0, 1]; the first frame is judged.
          query: unit text embedding of one prompt, [E].

        Returns:
          Scores, [B] float32.
        """
        model = nnx.merge(self.graph, params)
        scale = jnp.exp(params["logit_scale"].astype(jnp.float32))
        return scale * (model.embed_vision(self._select(frames)) @ query)

    def _select(self, frames: Array) -> Array:
        return frames[:, 0]
