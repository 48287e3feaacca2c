"""Pyramid-Flow as a chain of segments: segment u adds latent unit u.

B branch  T frames  H W size  C channels  L tokens  P prompts.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params, init_params
from tts_jax.generators.protocol import Params
from tts_jax.generators.pyramid_flow.sampler import (
    Condition,
    SamplerConfig,
    draw_block_noises,
    draw_noise,
    sample_unit,
)
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, LatentFactors, VAEConfig
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.tokenizer import Tokenizer

# Children are fold_in(key, index); no child has this index.
NOISE_TAG = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class PyramidFlowConfig:
    """The parts of a generator whose text encoder is one CLIP text tower.

    Attributes:
      vae: the decoder of latents.
      latent_factors: from the VAE's latents to the denoiser's.
      transformer: the denoiser.
      text: gives both the token states and the pooled vector.
      sampler: how a video is sampled.
    """

    vae: VAEConfig
    latent_factors: LatentFactors
    transformer: TransformerConfig
    text: TextConfig
    sampler: SamplerConfig

    def __post_init__(self):
        channels = {
            "vae": self.vae.latent_channels,
            "transformer": self.transformer.latent_channels,
            "sampler": self.sampler.channels,
        }
        if len(set(channels.values())) > 1:
            raise ValueError(f"latent channels differ: {channels}")
        widths = self.transformer.text_width, self.transformer.pooled_width
        if widths != (self.text.width, self.text.width):
            raise ValueError(
                f"the text tower is {self.text.width} wide, the denoiser wants {widths}"
            )

    @classmethod
    def from_json(cls, fields: Mapping) -> "PyramidFlowConfig":
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        parts = {field.name: field.type for field in dataclasses.fields(cls)}
        unknown = set(fields) - set(parts) - {"name"}
        missing = set(parts) - set(fields)
        if unknown or missing:
            raise TypeError(f"unknown fields {sorted(unknown)}, missing fields {sorted(missing)}")

        def build(part, values):
            return part(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

        return cls(**{name: build(part, fields[name]) for name, part in parts.items()})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch:
    """A partial video.

    Attributes:
      latents: finished units in the denoiser's space, zeros after them, [frames, H, W, C].
      noise: the first unit's draw for all frames when siblings share it, [frames, H, W, C];
        else [0, H, W, C].
    """

    latents: Array
    noise: Array


class PyramidFlow:
    """The generator protocol over Pyramid-Flow; see `tts_jax.generators.protocol.Generator`."""

    name = "pyramid_flow"

    def __init__(self, config: PyramidFlowConfig, tokenizer: Tokenizer):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes and settings.
          tokenizer: gives rows of `config.text.length` tokens.
        """
        self.config = config
        self.tokenizer = tokenizer
        abstract = {name: abstract_params(build) for name, build in self._builders().items()}
        self._graphs = {name: graph for name, (graph, _) in abstract.items()}
        self.abstract_params = {name: params for name, (_, params) in abstract.items()}

    def _builders(self):
        config = self.config
        return {
            "text": lambda: TextTower(config.text, rngs=nnx.Rngs(0)),
            "transformer": lambda: Transformer(config.transformer, rngs=nnx.Rngs(1)),
            "vae": lambda: CausalVideoVAE(config.vae, rngs=nnx.Rngs(2)),
        }

    def init_params(self) -> dict:
        """Untrained parameters, always the same."""
        return {name: init_params(build)[1] for name, build in self._builders().items()}

    @property
    def num_segments(self) -> int:
        """Units of a video."""
        return self.config.sampler.num_units

    @cached_property
    def _encode_texts(self):
        return jax.jit(lambda params, tokens: nnx.merge(self._graphs["text"], params)(tokens))

    def encode(self, params: Params, prompts: Sequence[str]) -> Condition:
        """Text conditions of prompts, each encoded by itself so that none depends on the others.

        Args:
          params: the model's parameters.
          prompts: P texts.

        Returns:
          Condition with a leading prompt axis.

        Raises:
          ValueError: a prompt is empty, too long or has an unknown word.
        """
        sampler = self.config.sampler
        conditions = []
        for prompt in prompts:
            if not prompt.strip():
                raise ValueError("the prompt is empty")
            texts = [prompt + sampler.prompt_suffix]
            if sampler.guided:
                texts.insert(0, sampler.negative_prompt)
            tokens, mask = self.tokenizer.tokenize(texts)
            states, pooled = self._encode_texts(params["text"], jnp.asarray(tokens))
            scales = jnp.asarray([sampler.guidance_first, sampler.guidance], jnp.float32)
            conditions.append(Condition(states, jnp.asarray(mask), pooled, scales))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)

    def init(self, params: Params, condition: Condition, key: Array) -> Branch:
        """A branch with no unit; see the protocol."""
        sampler = self.config.sampler
        shape = sampler.height, sampler.width, sampler.channels
        held = sampler.frames if sampler.share_root_noise else 0
        return Branch(jnp.zeros((sampler.frames, *shape)), jnp.zeros((held, *shape)))

    def advance(
        self, params: Params, condition: Condition, branch: Branch, key: Array, segment: int | Array
    ) -> Branch:
        """Adds unit `segment`; see the protocol. Unit 0 wants a Python int."""
        sampler = self.config.sampler
        first = isinstance(segment, int | np.integer) and segment == 0
        start = sampler.unit_start(0 if first else segment)
        frames = sampler.unit_frames(first)
        key = jax.random.fold_in(key, NOISE_TAG)
        held = branch.noise
        if not sampler.share_root_noise:
            noise = draw_noise(key, sampler, frames)
        else:
            if first:
                held = draw_noise(key, sampler, sampler.frames)
            noise = jax.lax.dynamic_slice_in_dim(held, start, frames)
        *_, unit = sample_unit(
            nnx.merge(self._graphs["transformer"], params["transformer"]),
            sampler,
            branch.latents,
            segment,
            condition,
            noise,
            draw_block_noises(key, sampler, frames),
            first,
        )
        return Branch(jax.lax.dynamic_update_slice_in_dim(branch.latents, unit, start, 0), held)

    def estimate(self, params: Params, condition: Condition, branch: Branch, segment: int) -> Array:
        """Latents of the units up to and with `segment`, [1 + segment*f, H, W, C]."""
        sampler = self.config.sampler
        return branch.latents[: 1 + segment * sampler.frames_per_unit]

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + a(T-1), s*H, s*W, 3], float32 in [0, 1]."""
        vae = nnx.merge(self._graphs["vae"], params["vae"])
        pixels = vae.decode(self.config.latent_factors.to_vae(latents)[None])[0]
        return jnp.clip(pixels.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0)

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one unit; a guided pair counts as 2."""
        sampler = self.config.sampler
        steps = sampler.steps_first if segment == 0 else sampler.steps
        return sum(steps) * (2 if sampler.guided else 1)

    def program(self, segment: int) -> Hashable:
        """One program for unit 0, one for all others."""
        return "first" if segment == 0 else "next"
