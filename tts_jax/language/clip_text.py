"""The text transformer of CLIP (arXiv 2103.00020): a causal pre-norm encoder read at the end token.

Used as the text encoder of generators and as the text tower of `clip` and `viclip`.

B batch  L tokens  D width  P projection size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.encoder import ACTIVATIONS, EncoderConfig, run, stack


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of the text tower.

    Attributes:
      length: longest token sequence.
      projection: size of the joint embedding, or None for a tower without a projection.
      eos_id: the first token with this id is pooled; None pools the largest id, which is what the
        first published CLIP configurations do.
    """

    vocabulary: int
    length: int
    width: int
    heads: int
    layers: int
    mlp: int
    activation: str = "quick_gelu"
    projection: int | None = None
    eos_id: int | None = None
    epsilon: float = 1e-5

    @classmethod
    def clip_vit_base_patch32(cls) -> "TextConfig":
        """Text tower of openai/clip-vit-base-patch32."""
        return cls(
            vocabulary=49408,
            length=77,
            width=512,
            heads=8,
            layers=12,
            mlp=2048,
            projection=512,
            eos_id=49407,
        )

    @classmethod
    def clip_vit_large_patch14(cls) -> "TextConfig":
        """Text tower of openai/clip-vit-large-patch14."""
        return cls(
            vocabulary=49408,
            length=77,
            width=768,
            heads=12,
            layers=12,
            mlp=3072,
            projection=768,
            eos_id=49407,
        )

    @classmethod
    def open_clip_bigg(cls) -> "TextConfig":
        """Text tower of laion/CLIP-ViT-bigG-14-laion2B-39B-b160k, as SD3 publishes it."""
        return cls(
            vocabulary=49408,
            length=77,
            width=1280,
            heads=20,
            layers=32,
            mlp=5120,
            activation="gelu",
            projection=1280,
            eos_id=49407,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "TextConfig":
        """The sizes in the published `config.json` of a text tower by itself, already parsed.

        Raises:
          ValueError: an activation that no published tower has.
        """
        activation = config["hidden_act"]
        if activation not in ACTIVATIONS:
            raise ValueError(f"unsupported CLIP text settings: hidden_act={activation!r}")
        projected = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
        eos = config["eos_token_id"]
        return cls(
            vocabulary=config["vocab_size"],
            length=config["max_position_embeddings"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            mlp=config["intermediate_size"],
            activation=activation,
            projection=config["projection_dim"] if projected else None,
            eos_id=None if eos == 2 else eos,
            epsilon=config.get("layer_norm_eps", 1e-5),
        )

    @property
    def encoder(self) -> EncoderConfig:
        """The part that concerns the blocks."""
        return EncoderConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            mlp=self.mlp,
            activation=self.activation,
            epsilon=self.epsilon,
        )


class TextTower(nnx.Module):
    """Token and position embeddings, causal blocks, a last norm, an optional projection."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal
        self.token = nnx.Embed(
            config.vocabulary, config.width, embedding_init=normal(0.02), rngs=rngs
        )
        self.position = nnx.Param(normal(0.01)(rngs.params(), (config.length, config.width)))
        self.blocks = stack(config.encoder, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        if config.projection is not None:
            self.projection = nnx.Linear(
                config.width,
                config.projection,
                use_bias=False,
                kernel_init=normal(config.width**-0.5),
                rngs=rngs,
            )

    def __call__(self, tokens: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Encodes token sequences.

        Args:
          tokens: token ids, [B, L] int32, L at most `config.length`, padded after the end token.
          mask: tokens that others may see, [B, L] bool; the end token's state does not depend on
            it, the states of the padding do.

        Returns:
          Normed states of all tokens, [B, L, D], and that of the end token, [B, D].
        """
        x = self.token.embedding[tokens] + self.position[: tokens.shape[1]]
        hidden = self.norm(run(self.blocks, x, mask, causal=True))
        eos = self.config.eos_id
        end = jnp.argmax(tokens if eos is None else tokens == eos, axis=1)
        return hidden, jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0]

    def embed(self, tokens: Array) -> Array:
        """Joint embedding of token sequences, not normalised.

        Args:
          tokens: token ids, [B, L] int32.

        Returns:
          Embeddings, [B, P].
        """
        return self.projection(self(tokens)[1])
