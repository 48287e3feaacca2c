"""Sampling of NOVA: frames one after the other, the tokens of a frame in sets.

A step generates one set: every token of it is sampled by a diffusion of its own from its feature,
and the image encoder then gives the features of those that are still missing. Steps whose shapes
are padded to the same make a *group*, one loop of a program.

n passes of guidance  T frames  H W latent size  C channels  N tokens of a frame  P channels of one
D width  V known tokens that a group has room for  K tokens of a set, likewise  J steps of a frame
I steps of a diffusion
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.nova.schedule import (
    DDPM,
    Diffusion,
    FlowMatching,
    Passes,
    guidance_scales,
    guide,
    set_sizes,
)
from tts_jax.generators.nova.transformer import Cache, Transformer

FORKS = ("both", "order", "tokens")
Draw = Callable[[Array, Array], Array]  # (step of the frame, place in it: 0 and 1 + i) -> [N, P]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a video is sampled.

    Attributes:
      frames: T, latent frames of the video; 1 for an image.
      steps: autoregressive steps of a frame; those without a token are left out.
      diffusion_steps: I.
      draft_steps, draft_diffusion_steps: those of the draft.
      segments_per_frame: 1, or more, which end at token sets.
      rooms: sizes of the room for known tokens; more of them waste less and compile longer.
      fork: what siblings differ by: "order", the order of their tokens; "tokens", the noise that
        these are sampled from; "both".
      cache: whether branches hold keys and values of the frames so far; else the video encoder
        reads all frames again for each one, which takes less memory.
      guidance: guidance scale; guidance is on when it is above 1.
      least_guidance: the scale in a frame grows from it to `guidance`; None: it is the same.
      truncation: no guidance at timesteps below it.
      least_norm: see `schedule.guide`.
      image_guidance: scale of the guidance by the frames before, a third pass; None: off.
      negative_prompt: what guidance leads away from.
      flow, rate: motion, from 1 to 10 or so, and frames a second, that the model is told.
      solver: "ddpm" or "flow".
      betas, beta_start, beta_end, offset, num_train_timesteps: see `schedule.DDPM`.
      shift: see `schedule.FlowMatching`.
    """

    frames: int = 9
    steps: int = 128
    diffusion_steps: int = 100
    draft_steps: int = 32
    draft_diffusion_steps: int = 25
    segments_per_frame: int = 1
    rooms: int = 8
    fork: str = "both"
    cache: bool = True
    guidance: float = 7.0
    least_guidance: float | None = None
    truncation: float = 0.0
    least_norm: float | None = None
    image_guidance: float | None = None
    negative_prompt: str = ""
    flow: float = 5.0
    rate: float = 12.0
    solver: str = "ddpm"
    betas: str = "squaredcos_cap_v2"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    offset: int = 1
    shift: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self):
        counts = ("frames", "steps", "diffusion_steps", "draft_steps", "draft_diffusion_steps")
        for name in (*counts, "segments_per_frame", "rooms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        for name, known in (("fork", FORKS), ("solver", ("ddpm", "flow"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {known}")
        if self.image_guidance is not None and not self.guided:
            raise ValueError("image_guidance needs a guidance above 1")
        if self.diffusion_steps > self.num_train_timesteps:
            raise ValueError(
                f"diffusion_steps is {self.diffusion_steps}, above {self.num_train_timesteps}"
            )
        _ = self.diffusion.timesteps(self.diffusion_steps)

    @classmethod
    def from_reference(cls, scheduler: Mapping) -> "SamplerConfig":
        """The published defaults with the solver of a parsed `scheduler_config.json`.

        Raises:
          ValueError: the file asks for something that no checkpoint has.
        """
        flow = "shift" in scheduler or "FlowMatch" in scheduler.get("_class_name", "")
        solver = (FlowMatching if flow else DDPM).from_reference(scheduler)
        fields = {
            name: value for name, value in dataclasses.asdict(solver).items() if value is not None
        }
        return cls(solver="flow" if flow else "ddpm", **fields)

    @property
    def guided(self) -> bool:
        return self.guidance > 1

    @property
    def passes(self) -> Passes:
        """Of a guided prediction."""
        if not self.guided:
            return Passes.of("none")
        return Passes.of("text" if self.image_guidance is None else "image")

    @cached_property
    def diffusion(self) -> Diffusion:
        """Of a token."""
        count = self.num_train_timesteps
        if self.solver == "flow":
            return FlowMatching(shift=self.shift, num_train_timesteps=count)
        return DDPM(
            betas=self.betas,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            offset=self.offset,
            num_train_timesteps=count,
        )


class Group(NamedTuple):
    """Consecutive steps of a frame with the same room.

    Attributes:
      begin, end: steps begin to end - 1.
      known: V, room for the tokens known after each; None after the last step of a frame, where no
        features are needed.
      most: K, room for the tokens of a set.
    """

    begin: int
    end: int
    known: int | None
    most: int


@dataclass(frozen=True)
class Plan:
    """The steps of a frame.

    Attributes:
      sizes: tokens of each step's set, [J].
      segments: steps at which segments begin, and J.
    """

    sizes: tuple[int, ...]
    segments: tuple[int, ...]
    rooms: int

    @classmethod
    def of(cls, sampler: SamplerConfig, tokens: int) -> "Plan":
        """Of a sampler, for frames of N tokens.

        Raises:
          ValueError: there are more segments than steps.
        """
        sizes = [int(size) for size in set_sizes(tokens, sampler.steps) if size]
        count = sampler.segments_per_frame
        if count > len(sizes):
            raise ValueError(f"{count} segments per frame, but a frame has {len(sizes)} steps")
        segments = tuple(round(len(sizes) * i / count) for i in range(count + 1))
        return cls(tuple(sizes), segments, sampler.rooms)

    @property
    def starts(self) -> np.ndarray:
        """Tokens known before each step, and N, int [J + 1]."""
        return np.append(0, np.cumsum(self.sizes))

    def groups(self, part: int) -> list[Group]:
        """The steps of a segment of the frame, in groups that share a room."""
        groups: list[Group] = []
        for step in range(self.segments[part], self.segments[part + 1]):
            known = self._room(step)
            if groups and groups[-1].known == known:
                last = groups.pop()
                most = max(last.most, self.sizes[step])
                groups.append(Group(last.begin, step + 1, known, most))
            else:
                groups.append(Group(step, step + 1, known, self.sizes[step]))
        return groups

    def _room(self, step: int) -> int | None:
        """Places for the tokens that are known after a step; None after the last.

        Rooms serve equally many steps, each as many tokens as its last step leaves: of 126 steps
        with 8 rooms, 1.16 times the tokens known, where equal differences of size take 1.19.
        """
        encoded = len(self.sizes) - 1
        if step == encoded:
            return None
        count = min(self.rooms, encoded)
        room = ((step + 1) * count - 1) // encoded
        last = ((room + 1) * encoded) // count
        return int(self.starts[last])

    def calls(self, part: int) -> int:
        """Calls of the image encoder in a segment: one before the first step, one after each but
        the last."""
        begin, end = self.segments[part], self.segments[part + 1]
        return end - begin + (begin == 0) - (end == len(self.sizes))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds to the inputs.

    Attributes:
      prompt: prompt tokens of every pass, [n, L + 2, D].
      guidance: scale in every step of a frame, [J] float32.
    """

    prompt: Array
    guidance: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frame:
    """A frame in progress.

    Attributes:
      tokens: its channels, zeros where they are missing, [N, P] float32.
      order: the order in which tokens are generated, a permutation, [N] int32.
      condition: condition tokens, [n, M, D].
      features: of the tokens, at the present state, [n, N, D].
    """

    tokens: Array
    order: Array
    condition: Array
    features: Array


def scales(sampler: SamplerConfig, plan: Plan) -> np.ndarray:
    """Guidance scale in every step of a frame, float32 [J]."""
    count = len(plan.sizes)
    return guidance_scales(sampler.guidance, sampler.least_guidance, count).astype(np.float32)


def first_frame(
    model: Transformer, sampler: SamplerConfig, prompt: Array, places: int
) -> tuple[Array, Cache]:
    """Features of the first frame, [n, M, D], and the cache with room for S places."""
    bare = sampler.passes.bare
    return model.video.start(prompt, model.frame_inputs(None, 0, sampler.frames, bare), places)


def next_frame(
    model: Transformer,
    sampler: SamplerConfig,
    prompt: Array,
    latents: Array,
    frame: int | Array,
    cache: Cache,
) -> tuple[Array, Cache]:
    """Features of a later frame from the one before it and the cache, and the cache.

    Args:
      model: the networks.
      sampler: settings.
      prompt: prompt tokens, [n, L + 2, D].
      latents: the video so far, [T, H, W, C].
      frame: index of the frame, above 0.
      cache: of the frames before.

    Returns:
      [n, M, D], and the cache.
    """
    previous = jax.lax.dynamic_index_in_dim(latents, frame - 1, keepdims=False)
    inputs = model.frame_inputs(previous, frame, sampler.frames, sampler.passes.bare)
    begin = prompt.shape[1] + frame * inputs.shape[1]
    return model.video.go_on(inputs, cache, begin)


def all_frames(model: Transformer, sampler: SamplerConfig, prompt: Array, latents: Array) -> Array:
    """Features of all frames at once, without a cache, [n, T, M, D].

    Those of a frame are right as soon as the frames before it are.
    """
    bare = sampler.passes.bare
    inputs = [
        model.frame_inputs(latents[t - 1] if t else None, t, sampler.frames, bare)
        for t in range(sampler.frames)
    ]
    return model.video.whole(prompt, jnp.stack(inputs, axis=1))


def start_frame(model: Transformer, condition: Array, order: Array) -> Frame:
    """A frame without a token; its features do not depend on the order.

    Args:
      model: the networks.
      condition: condition tokens, [n, M, D].
      order: [N] int32.
    """
    config = model.config
    nothing = jnp.zeros((0, config.patch_channels)), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool)
    features = model.image(condition, model.blank[...][0], *nothing)
    tokens = jnp.zeros((config.tokens, config.patch_channels))
    return Frame(tokens, order, condition, features)


def fill(
    model: Transformer,
    sampler: SamplerConfig,
    plan: Plan,
    groups: Sequence[Group],
    frame: Frame,
    guidance: Array,
    draw: Draw,
) -> Frame:
    """Generates the sets of some steps.

    Args:
      model: the networks.
      sampler: settings.
      plan: the steps of a frame.
      groups: those to take.
      frame: as it is before them.
      guidance: scale in every step of a frame, [J].
      draw: gives standard normal values for all tokens of a frame; of these a set takes its own.

    Returns:
      The frame; after its last step its features are not those of its state.
    """
    times = embed_timesteps(model, sampler)
    for group in groups:
        frame = _fill_group(model, sampler, plan, group, frame, times, guidance, draw)
    return frame


def embed_timesteps(model: Transformer, sampler: SamplerConfig) -> Array:
    """What the patch decoder is told of the time in each step of a diffusion, [I, D_decoder]."""
    timesteps = sampler.diffusion.timesteps(sampler.diffusion_steps)
    return model.decoder.embed_times(jnp.asarray(timesteps, jnp.float32))


def _fill_group(model, sampler, plan, group, frame, times, guidance, draw) -> Frame:
    starts = jnp.asarray(plan.starts, jnp.int32)
    longer = jnp.concatenate([frame.order, frame.order[: group.most]])

    def step(carry: tuple[Array, Array], index: Array):
        tokens, features = carry
        places = jax.lax.dynamic_slice(longer, (starts[index],), (group.most,))
        valid = jnp.arange(group.most) < starts[index + 1] - starts[index]
        made = sample_tokens(
            model, sampler, features[:, places], times, places, valid, guidance[index],
            lambda place: draw(index, place),
        )  # fmt: skip
        made = jnp.where(valid[:, None], made, tokens[places])
        tokens = tokens.at[places].set(made, unique_indices=True)
        if group.known is not None:
            known = frame.order[: group.known]
            features = model.image(
                frame.condition,
                model.blank[...][0],
                tokens[known],
                known,
                jnp.arange(group.known) < starts[index + 1],
            )
        return (tokens, features), None

    carry = frame.tokens, frame.features
    (tokens, features), _ = jax.lax.scan(step, carry, jnp.arange(group.begin, group.end))
    return Frame(tokens, frame.order, frame.condition, features)


def sample_tokens(
    model: Transformer,
    sampler: SamplerConfig,
    features: Array,
    times: Array,
    places: Array,
    valid: Array,
    scale: Array,
    draw: Callable[[int | Array], Array],
) -> Array:
    """Samples the tokens of a set by diffusion.

    Args:
      model: the networks.
      sampler: settings.
      features: of the tokens, [n, K, D].
      times: embedded timesteps, [I, D_decoder].
      places: where the tokens are, distinct, [K].
      valid: which of them are of the set, [K] bool.
      scale: guidance scale.
      draw: standard normal values for a frame, [N, P]: the start by 0, those of step i by 1 + i.

    Returns:
      Their channels, [K, P] float32; nonsense where not valid.
    """
    timesteps = sampler.diffusion.timesteps(sampler.diffusion_steps)
    table = sampler.diffusion.coefficients(sampler.diffusion_steps)
    conditions = model.decoder.embed_features(features)
    # The renormalisation of guidance takes norms over the frame, where tokens outside the set
    # predict themselves.
    whole = sampler.least_norm is not None

    def normals(place):
        return draw(place) if whole else draw(place)[places]

    def predict(state: Array, time: Array, plain: Array) -> Array:
        noisy = state[places] if whole else state
        made = model.decoder(
            jnp.broadcast_to(noisy, (*conditions.shape[:2], noisy.shape[-1])), conditions + time
        )
        if whole:
            made = jnp.where(valid[:, None], made, noisy)
            frames = jnp.broadcast_to(state, (len(made), *state.shape))
            made = frames.at[:, places].set(made, unique_indices=True)
        guided = guide(
            made, scale, least_norm=sampler.least_norm, image_scale=sampler.image_guidance
        )
        return jnp.where(plain, made[0], guided)

    def step(state: Array, row):
        index, time, plain, by_state, by_prediction, by_noise = row
        state = by_state * state + by_prediction * predict(state, time, plain)
        if table.noise.any():
            state = state + by_noise * normals(1 + index)
        return state, None

    rows = (
        jnp.arange(len(timesteps)),
        times,
        jnp.asarray(timesteps < sampler.truncation),
        *(jnp.asarray(column, jnp.float32) for column in table),
    )
    state = jax.lax.scan(step, normals(0), rows)[0]
    return state[places] if whole else state


def complete(
    model: Transformer, sampler: SamplerConfig, frame: Frame, known: int, scale: Array, draw: Draw
) -> Array:
    """The clean estimate of a frame in progress: all missing tokens sampled as one set.

    Args:
      model: the networks.
      sampler: settings.
      frame: in progress.
      known: tokens it has, a Python int.
      scale: guidance scale.
      draw: as for `fill`; of step 0.

    Returns:
      All tokens, [N, P].
    """
    places = frame.order[known:]
    times = embed_timesteps(model, sampler)
    made = sample_tokens(
        model, sampler, frame.features[:, places], times, places,
        jnp.ones(len(places), bool), scale, lambda place: draw(jnp.int32(0), place),
    )  # fmt: skip
    return frame.tokens.at[places].set(made, unique_indices=True)
