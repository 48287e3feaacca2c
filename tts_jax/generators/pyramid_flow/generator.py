"""Pyramid-Flow as a chain of segments: latent units, stages of units, or steps of stages.

B branch  T frames  H W size  C channels  L tokens  P prompts.
"""

import copy
import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.networks import GeneratorNetworks, read_parts
from tts_jax.generators.protocol import Params
from tts_jax.generators.pyramid_flow.draws import (
    draw_block,
    draw_block_noises,
    draw_noise,
    draw_unit_steps,
)
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.sampler import (
    Condition,
    State,
    clean_unit,
    last_ratio,
    look_ahead,
    sample_block,
    sample_unit,
    stage_denoiser,
)
from tts_jax.generators.pyramid_flow.sampler_config import Block, SamplerConfig, block_start
from tts_jax.generators.pyramid_flow.text import T5, TEXT, TextEncoders, TextEncodersConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import (
    CausalVideoVAE,
    LatentFactors,
    VAEConfig,
)
from tts_jax.language.clip_text import TextConfig
from tts_jax.language.t5 import T5Config
from tts_jax.language.tokenizer import Tokenizer
from tts_jax.nn.autoencoder import posterior_sample
from tts_jax.solvers import flow_matching
from tts_jax.solvers.noise import Key, fold_in, normal

# Children are fold_in(key, index); no child has this index.
NOISE_TAG = 0xFFFFFFFF


class Program(NamedTuple):
    """What is static of a segment: equal ones share an executable.

    Attributes:
      first: whether it belongs to the first unit.
      history: latent frames that the history is padded to.
      block: its denoiser steps; None where a segment is a unit.
    """

    first: bool
    history: int
    block: Block | None


@dataclass(frozen=True, kw_only=True)
class PyramidFlowConfig:
    """The parts of a generator.

    Attributes:
      vae: the decoder of latents.
      latent_factors: from the VAE's latents to the denoiser's.
      transformer: the denoiser, miniFLUX or SD3.
      sampler: how a video is sampled.
      text, clip, clip_g, t5: the text encoders, see `TextEncodersConfig`.
    """

    vae: VAEConfig
    latent_factors: LatentFactors
    transformer: TransformerConfig | MMDiTConfig
    sampler: SamplerConfig
    text: TextConfig | None = None
    clip: TextConfig | None = None
    clip_g: TextConfig | None = None
    t5: T5Config | None = None

    def __post_init__(self):
        channels = {
            "vae": self.vae.latent_channels,
            "transformer": self.transformer.latent_channels,
            "sampler": self.sampler.channels,
        }
        if len(set(channels.values())) > 1:
            raise ValueError(f"latent channels differ: {channels}")
        given = self.encoders.width, self.encoders.pooled_width
        wanted = self.transformer.text_width, self.transformer.pooled_width
        if given != wanted:
            raise ValueError(f"the texts are {given} wide, the denoiser wants {wanted}")

    @property
    def encoders(self) -> TextEncodersConfig:
        """The text encoders together."""
        return TextEncodersConfig(text=self.text, clip=self.clip, clip_g=self.clip_g, t5=self.t5)

    def open_tokenizers(self, folder: Path) -> dict[str, Tokenizer]:
        """The tokenizers of a checkpoint folder; see `TextEncodersConfig.open_tokenizers`."""
        return self.encoders.open_tokenizers(folder)

    @classmethod
    def from_json(cls, fields: Mapping) -> "PyramidFlowConfig":
        """Reads the "generator" entry of a checkpoint's `config.json`.

        Raises:
          TypeError: an unknown or a missing field.
        """
        flux = "double_blocks" in (fields.get("transformer") or {})
        needed = {
            "vae": VAEConfig,
            "latent_factors": LatentFactors,
            "transformer": TransformerConfig if flux else MMDiTConfig,
            "sampler": SamplerConfig,
        }
        towers = dict.fromkeys(("text", "clip", "clip_g"), TextConfig)
        return cls(**read_parts(fields, needed, towers | {"t5": T5Config}))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch:
    """A partial video.

    Attributes:
      latents: finished units in the denoiser's space, zeros after them, [frames, H, W, C].
      noise: the first unit's draw for all frames when siblings share it, [frames, H, W, C];
        else [0, H, W, C].
      state, velocity: of the unit in progress, in the corner of zeros, [T, H, W, C] with the T of
        later units; [0, H, W, C] if segments are units.
    """

    latents: Array
    noise: Array
    state: Array
    velocity: Array


@dataclass(frozen=True)
class Place:
    """Where a segment begins, or the one before it ends.

    Attributes:
      unit: index of the unit.
      segment: index of the segment in its unit; 0 at the unit's start.
    """

    unit: int | Array
    segment: int | Array


class PyramidFlow(GeneratorNetworks):
    """The generator protocol over Pyramid-Flow; see `tts_jax.generators.protocol.Generator`."""

    name = "pyramid_flow"

    def __init__(self, config: PyramidFlowConfig, tokenizer: Tokenizer | Mapping[str, Tokenizer]):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes and settings.
          tokenizer: of every text encoder, by part; or of the only one.
        """
        self.config = config
        self.tokenizers = tokenizer if isinstance(tokenizer, Mapping) else {TEXT: tokenizer}
        self._encoders = TextEncoders(config.encoders, self.tokenizers)

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Parts that `encode` alone uses."""
        return tuple(self.config.encoders.networks)

    @property
    def networks(self) -> dict:
        """The module and the config of every part."""
        config = self.config
        denoiser = Transformer if isinstance(config.transformer, TransformerConfig) else MMDiT
        return {
            **config.encoders.networks,
            "transformer": (denoiser, config.transformer),
            "vae": (CausalVideoVAE, config.vae),
        }

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the encoder that gives the states."""
        return self.tokenizers[TEXT if TEXT in self.tokenizers else T5]

    @property
    def num_segments(self) -> int:
        """Segments of a video."""
        return sum(self.units)

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Segments of each unit."""
        sampler = self.config.sampler
        first, later = (sampler.segments_per_unit(first) for first in (True, False))
        return first, *[later] * (sampler.num_units - 1)

    @property
    def stochastic(self) -> bool:
        """Whether every segment after the first of a unit draws noise."""
        if not self.renoises:
            return False
        later = {b for first in (True, False) for b in self.config.sampler.blocks(first)[1:]}
        return bool(later) and all(self.config.sampler.eta or block.enters for block in later)

    @property
    def renoises(self) -> bool:
        """Whether a unit in progress can be noised again."""
        return self.config.sampler.segment != "unit"

    @property
    def looks_ahead(self) -> bool:
        """Whether an estimate after some segment can look ahead."""
        return self.config.sampler.segment == "step"

    def draft(self) -> "PyramidFlow | None":
        """The generator with fewer steps in its segments; None if there are no fewer."""
        sampler = dataclasses.replace(self.config.sampler, draft=True)
        draft = copy.copy(self)  # the same networks, cut into the same segments
        draft.config = dataclasses.replace(self.config, sampler=sampler)
        segments = range(self.num_segments)
        cheaper = sum(map(draft.nfe, segments)) < sum(map(self.nfe, segments))
        return draft if cheaper else None

    def _place(self, segment: int | Array, first: bool) -> Place:
        if first:
            return Place(0, segment)
        later = segment - self.units[0]
        return Place(1 + later // self.units[-1], later % self.units[-1])

    def _static_place(self, segment: int) -> Place:
        return self._place(segment, segment < self.units[0])

    def _block(self, segment: int) -> Block:
        place = self._static_place(segment)
        return self.config.sampler.blocks(place.unit == 0)[place.segment]

    def _start(self, place: Place, block: Block) -> int | Array:
        """Steps of the stage before a block."""
        sampler = self.config.sampler
        before = sum(sampler.segments_of_stage(s, block.first) for s in range(block.stage))
        return block_start(
            place.segment - before,
            sampler.stage_steps(block.stage, block.first),
            sampler.segments_of_stage(block.stage, block.first),
        )

    def _level(self, depth: int) -> tuple[int, float]:
        """Stage and local ratio of the unit that is in progress after so many segments."""
        block = self._block(depth - 1)
        start = self._start(self._static_place(depth - 1), block)
        return block.stage, last_ratio(self.config.sampler, block, start)

    def _sampler(self, history: int) -> SamplerConfig:
        """The sampler with its history padded to so many frames."""
        return dataclasses.replace(self.config.sampler, history=history)

    def _model(self, params: Params):
        return self.network(params, "transformer")

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt, the pooled vector, and the guidance of first and later units."""
        sampler = self.config.sampler
        texts = [prompt + sampler.prompt_suffix]
        if sampler.guided:
            texts.insert(0, sampler.negative_prompt)
        states, mask, pooled = self._encoders.encode(params, texts)
        scales = jnp.asarray([sampler.guidance_first, sampler.guidance], jnp.float32)
        return Condition(states, mask, pooled, scales)

    def init(self, params: Params, condition: Condition, key: Array) -> Branch:
        """A branch with no unit; see the protocol."""
        sampler = self.config.sampler
        shape = sampler.height, sampler.width, sampler.channels
        held = sampler.frames if sampler.share_root_noise else 0
        pending = 0 if sampler.segment == "unit" else sampler.frames_per_unit
        frames = sampler.frames, held, pending, pending
        return Branch(*(jnp.zeros((count, *shape)) for count in frames))

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        factor, sampler = self.config.vae.spatial_factor, self.config.sampler
        return sampler.height * factor, sampler.width * factor

    def begin_with_image(
        self, params: Params, condition: Condition, branch: Branch, moments: Array, key: Key
    ) -> Branch:
        """A branch whose unit 0 is a draw from an image's latents instead of a sample.

        The published pipeline then takes the steps of a first frame for all units, and a guidance
        of 4.

        Args:
          params: the model's parameters.
          condition: of the prompt.
          branch: of `init`.
          moments: of `encode_frames` for the image, [1, h, w, 2C].
          key: of the draw, and of the noise that units share.
        """
        noise = normal(fold_in(key, 0), (1, *branch.latents.shape[1:]))
        first = self.config.latent_factors.to_model(posterior_sample(moments, noise))
        held = normal(fold_in(key, 1), branch.noise.shape)
        return dataclasses.replace(branch, latents=branch.latents.at[:1].set(first), noise=held)

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Adds a segment; see the protocol.

        Raises:
          ValueError: a traced segment whose program is not given and not the only one.
        """
        if isinstance(segment, int | np.integer):
            segment, program = int(segment), self.program(int(segment))
        if program is None:
            programs = {self.program(s) for s in range(self.units[0], self.num_segments)}
            if len(programs) > 1:
                raise ValueError(f"a traced segment may be of {len(programs)} programs; name one")
            (program,) = programs
        key = fold_in(key, NOISE_TAG)
        advance = self._advance_block if program.block else self._advance_unit
        return advance(params, condition, branch, key, segment, program)

    def _advance_unit(self, params, condition, branch, key, unit, program: Program):
        sampler, first = self._sampler(program.history), program.first
        noise, held = self._initial_noise(branch, key, unit, first)
        frames = sampler.unit_frames(first)
        *_, made = sample_unit(
            self._model(params),
            sampler,
            branch.latents,
            unit,
            condition,
            noise,
            draw_block_noises(key, sampler, frames),
            first,
            draw_unit_steps(key, sampler, frames, first),
        )
        return dataclasses.replace(self._commit(branch, made, unit), noise=held)

    def _advance_block(self, params, condition, branch, key, segment, program: Program):
        sampler, block = self._sampler(program.history), program.block
        place = self._place(segment, block.first)
        unit = place.unit
        start = 0 if block.enters else self._start(place, block)
        draws, state = draw_block(key, sampler, block), None
        if block.enters and not block.stage:
            initial, held = self._initial_noise(branch, key, unit, block.first)
            draws = draws._replace(initial=initial)
            branch = dataclasses.replace(branch, noise=held)
        else:
            state = self._state(branch, block.stage - block.enters, block.first)
        made, state = sample_block(
            self._model(params),
            sampler,
            block,
            branch.latents,
            unit,
            start,
            condition,
            state,
            draws,
        )
        if block.ends:
            return self._commit(branch, made, unit)
        return self._hold(branch, state)

    def _initial_noise(self, branch: Branch, key: Key, unit, first: bool) -> tuple[Array, Array]:
        """White noise that a unit starts from, and what the branch holds of it."""
        sampler, held = self.config.sampler, branch.noise
        if not sampler.share_root_noise:
            return draw_noise(key, sampler, sampler.unit_frames(first)), held
        if first:
            held = draw_noise(key, sampler, sampler.frames)
        start, frames = sampler.unit_start(0 if first else unit), sampler.unit_frames(first)
        return jax.lax.dynamic_slice_in_dim(held, start, frames), held

    def _state(self, branch: Branch, stage: int, first: bool) -> State:
        height, width = self.config.sampler.stage_shape(stage)
        frames = self.config.sampler.unit_frames(first)
        return State(*(x[:frames, :height, :width] for x in (branch.state, branch.velocity)))

    def _hold(self, branch: Branch, state: State) -> Branch:
        padding = [(0, a - b) for a, b in zip(branch.state.shape, state[0].shape, strict=True)]
        latents, velocity = (jnp.pad(x, padding) for x in state)
        return dataclasses.replace(branch, state=latents, velocity=velocity)

    def _commit(self, branch: Branch, made: Array, unit) -> Branch:
        start = self.config.sampler.unit_start(unit)
        return dataclasses.replace(
            branch,
            latents=jax.lax.dynamic_update_slice_in_dim(branch.latents, made, start, 0),
            state=jnp.zeros_like(branch.state),
            velocity=jnp.zeros_like(branch.velocity),
        )

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: str | int = "committed",
    ) -> Array:
        """Latents of the units up to and with `segment`'s; see the protocol.

        A unit in progress is left out of what is committed; its clean estimate has the detail of
        its stage. Steps that look ahead go to the end of the stage at most.

        Returns:
          [1 + u*f, H, W, C], u the last unit of them.

        Raises:
          ValueError: nothing is committed yet.
        """
        sampler = self.config.sampler
        place = self._static_place(segment)
        units = place.unit + 1
        if self._in_progress(segment + 1):
            if look != "committed":
                made = self._estimate_unit(params, condition, branch, segment, look)
                done = branch.latents[: sampler.unit_start(place.unit)]
                return jnp.concatenate([done, made])
            if not place.unit:
                raise ValueError(f"no unit is committed after segment {segment}")
            units -= 1
        return branch.latents[: sampler.unit_start(units)]

    def _estimate_unit(self, params, condition, branch, segment, look):
        unit = self._static_place(segment).unit
        sampler = self._sampler(self.config.sampler.history_of(unit))
        stage, ratio = self._level(segment + 1)
        first = unit == 0
        state = self._state(branch, stage, first)
        if steps := self._steps_ahead(segment, look):
            denoiser = stage_denoiser(
                self._model(params), sampler, branch.latents, unit, condition, stage, first
            )
            state, ratio = look_ahead(denoiser, sampler, stage, first, state, ratio, steps)
        return clean_unit(sampler, stage, state, ratio)

    def _in_progress(self, depth: int) -> bool:
        """Whether a unit is in progress after so many segments."""
        return depth < self.num_segments and self._static_place(depth).segment > 0

    def _steps_ahead(self, segment: int, look: str | int) -> int:
        if isinstance(look, str) or not self._in_progress(segment + 1):
            return 0
        block, sampler = self._block(segment), self.config.sampler
        start = self._start(self._static_place(segment), block)
        return min(look, sampler.stage_steps(block.stage, block.first) - start - block.steps)

    def estimate_nfe(self, segment: int, look: str | int) -> int:
        """Denoiser calls of an estimate: those of looking ahead, in the stage in progress."""
        return self._steps_ahead(segment, look) * self._calls_per_step

    def renoise(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int,
        to: int,
        strength: Array,
    ) -> Branch:
        """Noises a unit again, in progress or just finished; see the protocol.

        `strength` multiplies the fresh noise: 1 is what the earlier level lacks.

        Raises:
          ValueError: segments are units, `to` is in another unit or later, or nothing is noisy.
        """
        self._check_renoise(segment, to)
        unit = self._static_place(to).unit
        sampler = self._sampler(self.config.sampler.history_of(unit))
        first, begin = unit == 0, sampler.unit_start(unit)
        frames = sampler.unit_frames(first)
        committed = branch.latents[begin : begin + frames]
        before, branch = branch, self._commit(branch, jnp.zeros_like(committed), unit)
        if not self._static_place(to).segment:
            return branch
        stage, ratio = level = self._level(to)
        if self._in_progress(segment):
            here = self._level(segment)
            x = self._state(before, here[0], first).latents
        else:
            here, x = (sampler.stages - 1, 0.0), committed
        shape = frames, *sampler.stage_shape(stage), sampler.channels
        fresh = strength * normal(fold_in(key, NOISE_TAG), shape)
        if to == segment:
            x = flow_matching.add_noise(sampler.schedule, stage, x, ratio, fresh, 1.0)
        else:
            x = flow_matching.noise_again(sampler.schedule, x, here, level, fresh)
        denoiser = stage_denoiser(
            self._model(params), sampler, branch.latents, unit, condition, stage, first
        )
        block = self._block(to - 1)
        place = self._start(self._static_place(to - 1), block) + block.steps - 1
        timestep = sampler.timeline(stage, first)[0][place]
        return self._hold(branch, State(x, denoiser(x, jnp.float32(timestep))))

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Denoiser calls of `renoise`: one step's, but none at the start of a unit."""
        self._check_renoise(segment, to)
        return self._calls_per_step if self._static_place(to).segment else 0

    def _check_renoise(self, segment: int, to: int) -> None:
        if not self.renoises:
            raise ValueError("segments are whole units, which have nothing noisy to go on from")
        if not 0 <= to <= segment <= self.num_segments:
            raise ValueError(f"depth {to} is not before depth {segment}")
        unit = self._static_place(segment - 1).unit if segment else 0
        if to == segment and not self._in_progress(segment):
            raise ValueError(f"no unit is in progress at depth {segment}")
        if self._static_place(to).unit != unit:
            raise ValueError(f"depth {to} is not in unit {unit}, where depth {segment} is")

    @property
    def _calls_per_step(self) -> int:
        return 2 if self.config.sampler.guided else 1

    def decode(self, params: Params, latents: Array) -> Array:
        """Frames of latents, [T, H, W, C] -> [1 + a(T-1), s*H, s*W, 3], float32 in [0, 1]."""
        vae, sampler = self.network(params, "vae"), self.config.sampler
        latents = self.config.latent_factors.to_vae(latents)[None]
        if sampler.tile:
            pixels = vae.decode_tiled(latents, sampler.tile, sampler.window or None)[0]
        elif sampler.window:
            pixels = vae.decode_chunked(latents, sampler.window)[0]
        else:
            pixels = vae.decode(latents)[0]
        return jnp.clip(pixels.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0)

    def encode_frames(self, params: Params, frames: Array) -> Array:
        """Posterior moments of frames, [1 + a*k, H, W, 3] in [0, 1] -> [1 + k, h, w, 2C]."""
        vae, sampler = self.network(params, "vae"), self.config.sampler
        pixels = 2 * frames[None] - 1
        if sampler.tile:
            window = sampler.window * vae.temporal_factor
            return vae.encode_tiled(pixels, sampler.tile, window or None)[0]
        return vae.encode(pixels)[0]

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one segment; a guided pair counts as 2."""
        if self.config.sampler.segment == "unit":
            return self.config.sampler.unit_steps(segment == 0) * self._calls_per_step
        return self._block(segment).steps * self._calls_per_step

    def program(self, segment: int) -> Program:
        """What is static of a segment; see the protocol."""
        unit, sampler = self._static_place(segment).unit, self.config.sampler
        block = None if sampler.segment == "unit" else self._block(segment)
        return Program(unit == 0, sampler.history_of(unit), block)
