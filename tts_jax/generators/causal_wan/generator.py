"""Causal Wan as a chain of segments: a unit is a chunk of latent frames.

A branch holds latents and no keys or values: what a chunk sees of those before it is computed from
their latents by the `advance` that adds it, once for all children of a parent. So it is computed
for survivors only, neither saved nor moved, and a search that goes on finds the same. The price:
of j chunks all j are read again, in one call that takes the operations of about j steps; with many
children of a parent this is little beside their own steps, for chains of single children it is not.

T latent frames  H W latent size  C channels  L tokens  N steps of a chunk  P prompts.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.causal_wan.sampler import (
    SamplerConfig,
    denoise,
    read_past,
    split,
    start_past,
)
from tts_jax.generators.finished import Finished
from tts_jax.generators.protocol import Look, Params
from tts_jax.generators.wan.parts import WanParts, WanPartsConfig
from tts_jax.generators.wan.transformer import TransformerConfig
from tts_jax.generators.wan.vae import VAEConfig
from tts_jax.language.t5 import T5Config
from tts_jax.nn.autoencoder import posterior_mode
from tts_jax.solvers import noise
from tts_jax.solvers.noise import NOISE_TAG, Key


@dataclass(frozen=True, kw_only=True)
class CausalWanConfig(WanPartsConfig):
    """The parts of a generator."""

    sampler: SamplerConfig

    def __post_init__(self):
        super().__post_init__()
        _ = self.chunks  # refuses frames that are no chunks

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Latent frames of every chunk."""
        sampler = self.sampler
        return split(self.latent_shape[0], sampler.chunk, first_alone=sampler.first_alone)

    @classmethod
    def self_forcing(cls) -> "CausalWanConfig":
        """Self-Forcing's Wan2.1-T2V-1.3B."""
        return cls(
            t5=T5Config.umt5_xxl(),
            transformer=TransformerConfig.wan_1_3b(),
            vae=VAEConfig.published(),
            sampler=SamplerConfig(),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds: its text states, [1, L, D_text], zero where there is padding."""

    text: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch:
    """The chunks so far, [T, H, W, C], zero where there are none.

    Of the one in progress it holds the clean estimate, from which its next step starts.
    """

    latents: Array


class CausalWan(WanParts, Finished):
    """The generator protocol over causal Wan; see `tts_jax.generators.protocol.Generator`."""

    name = "causal_wan"
    not_noisy = "segments end in clean estimates, which have no noise to go back to"

    @property
    def _parts(self) -> int:
        return len(self.config.sampler.steps) if self.config.sampler.segment == "step" else 1

    @property
    def units(self) -> tuple[int, ...]:
        """Segments of each chunk."""
        return (self._parts,) * len(self.config.chunks)

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt."""
        return Condition(self.read_texts(params, [prompt]))

    def init(self, params: Params, condition: Condition, key: Key) -> Branch:
        """A branch without a chunk; see the protocol."""
        return Branch(jnp.zeros(self.config.latent_shape))

    @property
    def refuses_image(self) -> str:
        """Why videos cannot start from an image; empty if they can."""
        first = self.config.chunks[0]
        if first == 1:
            return ""
        return (
            f"the first chunk has {first} latent frames, and an image is one: set first_alone, or "
            "chunks of 1"
        )

    def begin_with_image(
        self, params: Params, condition: Condition, branch: Branch, moments: Array, key: Key
    ) -> Branch:
        """A branch whose first chunk is an image: the mean of its latents, without a draw.

        Args:
          params: the model's parameters.
          condition: of the prompt.
          branch: of `init`.
          moments: of `encode_frames` for the image, [1, H, W, 2C].
          key: not used.
        """
        mean, std = jnp.asarray(self.config.vae.mean), jnp.asarray(self.config.vae.std)
        first = (posterior_mode(moments) - mean) / std
        return Branch(branch.latents.at[:1].set(first))

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int,
        program: Hashable = None,
    ) -> Branch:
        """Adds a chunk, or takes a step of one; see the protocol.

        Every chunk is a program of its own, with a past of the exact size.
        """
        config, sampler = self.config, self.config.sampler
        place, part = divmod(int(segment if program is None else program), self._parts)
        begin = sum(config.chunks[:place])
        end = begin + config.chunks[place]
        steps = range(part, part + 1) if self._parts > 1 else range(len(sampler.steps))
        key = noise.fold_in(key, NOISE_TAG)
        shape = 1, end - begin, *config.latent_shape[1:]

        def draw(step: int | Array) -> Array:
            return noise.normal(noise.fold_in(key, step), shape)

        model = self.network(params, "transformer")
        text = model.read(condition.text)
        past = start_past(model, 1)
        if place:
            before = branch.latents[None, :begin]
            past = read_past(model, before, text, config.chunks[: place + 1], sampler)
        start = draw(0) if part == 0 else branch.latents[None, begin:end]
        clean = denoise(model, start, text, past, begin, steps, sampler, draw)
        return Branch(branch.latents.at[begin:end].set(clean[0]))

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Array:
        """Latents of the chunks so far; see the protocol.

        Raises:
          ValueError: no chunk is finished, or a look ahead, which a chunk with fresh noise in every
            step has not.
        """
        if look not in ("committed", "clean"):
            raise ValueError(f"causal Wan has no look ahead, and estimates cannot be {look!r}")
        done, part = divmod(segment + 1, self._parts)
        chunks = done + (part > 0 and look == "clean")
        if not chunks:
            raise ValueError(f"no chunk is finished after segment {segment}")
        return branch.latents[: sum(self.config.chunks[:chunks])]

    def draft(self) -> None:
        """There is none: all steps are few."""
        return None

    def nfe(self, segment: int) -> int:
        """Denoiser calls of a segment: its steps, and one that reads the chunks before."""
        steps = 1 if self._parts > 1 else len(self.config.sampler.steps)
        return steps + self.parent_nfe(segment)

    def parent_nfe(self, segment: int) -> int:
        """Of these, the one that reads: it is the parent's, made once for all of its children."""
        return int(segment >= self._parts)

    def program(self, segment: int) -> int:
        """Every segment is a program of its own."""
        return segment
