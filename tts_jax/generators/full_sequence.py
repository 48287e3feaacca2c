"""Models that denoise a whole video at once, as chains of segments.

A segment is a block of denoising steps. Each step starts from the clean estimate of the step before
and ends with its own, so that a verifier looks at a clean estimate without another denoiser call.

T latent frames  H W latent size  C channels  N steps.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.networks import GeneratorNetworks
from tts_jax.generators.protocol import Condition, Look, Params
from tts_jax.solvers import noise
from tts_jax.solvers.noise import NOISE_TAG, Key
from tts_jax.solvers.steps import STILL, Coefficients, between_stops, row


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch:
    """A partly denoised video, [T, H, W, C] each.

    Attributes:
      latents: the noisy state.
      clean: the clean estimate at it.
      previous: the clean estimate at the state one step before.
    """

    latents: Array
    clean: Array
    previous: Array


class Segments:
    """Steps in segments, for a sampler's config.

    It has the fields steps, N; steps_per_segment, of every segment but the last, which may be
    shorter; draft_steps_per_segment, of the draft, a generator of as many segments; guidance, which
    is on above 1; and those of `schedule_type`.

    Attributes:
      schedule_type: of the family's timesteps, levels and solver, a dataclass.
    """

    schedule_type: ClassVar[type]

    def __post_init__(self):
        for name in ("steps_per_segment", "draft_steps_per_segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        _ = self.schedule  # refuses impossible settings

    @cached_property
    def schedule(self) -> Any:
        """Timesteps, levels and solver."""
        names = [field.name for field in dataclasses.fields(self.schedule_type)]
        return self.schedule_type(**{name: getattr(self, name) for name in names})

    @property
    def guided(self) -> bool:
        """Whether every step takes two denoiser calls."""
        return self.guidance > 1

    @property
    def num_segments(self) -> int:
        """Segments of a video."""
        return -(-self.steps // self.steps_per_segment)

    def steps_before(self, segment: int) -> int:
        """Steps done before a segment."""
        return min(segment * self.steps_per_segment, self.steps)


def guide(predictions: Array, scale: Array) -> Array:
    """Classifier-free guidance (arXiv 2207.12598).

    Args:
      predictions: without the prompt, if guided, and with it, [B, ...].
      scale: how far to go from the first to the second.

    Returns:
      [...]; the only prediction if there is one.
    """
    away, towards = predictions[0], predictions[-1]
    return away + scale * (towards - away) if len(predictions) > 1 else towards


class FullSequence(GeneratorNetworks):
    """What such generators do alike; a family adds its networks, its levels and its solver.

    `config.sampler` is made of `Segments`; its schedule has the levels of all states, [N + 1], and
    the `Coefficients` of all steps, [N]. `config.latent_shape` is [T, H, W, C]. States are numbered
    by the steps before them, from 0 to N.
    """

    renoises = True
    looks_ahead = True

    @abstractmethod
    def _estimate_clean(
        self, params: Params, condition: Condition, latents: Array, index: int | Array
    ) -> Array:
        """The guided clean estimate at state `index`, [T, H, W, C]."""

    @abstractmethod
    def _follow_ode(self, latents: Array, clean: Array, here: Array, there: Array) -> Array:
        """State `there` of the ODE, in one step from state `here`."""

    @abstractmethod
    def _noise_again(self, latents: Array, here: int, there: int, normals: Array) -> Array:
        """State `there`, an earlier one, by the forward process."""

    @abstractmethod
    def _add_noise(self, latents: Array, here: int, normals: Array, strength: Array) -> Array:
        """State `here` with more noise than it should have."""

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws noise."""
        return bool(self._coefficients.noise.any())

    @property
    def _schedule(self) -> Any:
        return self.config.sampler.schedule

    @property
    def _levels(self) -> Array:
        return jnp.asarray(self._schedule.levels, jnp.float32)

    @property
    def _coefficients(self) -> Coefficients:
        return self._schedule.coefficients

    @cached_property
    def _steps(self) -> Coefficients:
        """Those of all steps, one that changes nothing before them and a segment of such after."""
        return between_stops(self._coefficients, STILL, 1, self.config.sampler.steps_per_segment)

    def _predict(self, branch: Branch, index: Array, key: Key) -> Array:
        """The state after step `index`; the same state where the index is -1, or N and above."""
        step = row(self._steps, index + 1)
        latents = step.latents * branch.latents + step.clean * branch.clean
        latents = latents + step.previous * branch.previous
        if self.stochastic:
            latents = latents + step.noise * noise.normal(key, latents.shape)
        return latents

    def _begin(self, branch: Branch, normals: Array) -> Array:
        """State 0, of standard normal values."""
        return normals

    def _inform(self, condition: Condition, branch: Branch, index: int | Array) -> Condition:
        """What the denoiser is told at state `index`, with what a branch has to say."""
        return condition

    def _restore(self, branch: Branch, latents: Array, index: int) -> Array:
        """State `index` that was noised again, with what is not to be noised."""
        return latents

    def _correct(self, branch: Branch, latents: Array, clean: Array, index: Array) -> Array:
        """The state after step `index`, now that its clean estimate is known."""
        return latents

    @property
    def num_segments(self) -> int:
        """Blocks of steps."""
        return self.config.sampler.num_segments

    @property
    def units(self) -> tuple[int, ...]:
        """One unit, the video, of all segments."""
        return (self.num_segments,)

    def init(self, params: Params, condition: Condition, key: Key) -> Branch:
        """A branch without any noise drawn; see the protocol."""
        zeros = jnp.zeros(self.config.latent_shape)
        return Branch(zeros, zeros, zeros)

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Takes a segment's steps; see the protocol. Segment 0 wants a Python int.

        Each step starts from the clean estimate of the step before and ends with its own. Segment 0
        begins with a step that only draws the initial noise.
        """
        count = self.config.sampler.steps_per_segment
        indices = segment * count + jnp.arange(count)
        key = noise.fold_in(key, NOISE_TAG)
        if isinstance(segment, int | np.integer) and segment == 0:
            indices = jnp.arange(-1, count)
            start = noise.normal(noise.fold_in(key, 0), self.config.latent_shape)
            branch = dataclasses.replace(branch, latents=self._begin(branch, start))

        def step(branch: Branch, index: Array) -> tuple[Branch, None]:
            latents = self._predict(branch, index, noise.fold_in(key, index + 2))

            def look() -> tuple[Array, Array]:
                told = self._inform(condition, branch, index + 1)
                clean = self._estimate_clean(params, told, latents, index + 1)
                return self._correct(branch, latents, clean, index), clean

            more = index + 1 < self.config.sampler.steps
            latents, clean = jax.lax.cond(more, look, lambda: (latents, latents))
            states = dict(latents=latents, clean=clean, previous=branch.clean)
            return dataclasses.replace(branch, **states), None

        return jax.lax.scan(step, branch, indices)[0]

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Array:
        """Latents of the whole video, [T, H, W, C]; see the protocol.

        Steps that look ahead follow the ODE to the state of the last denoiser call, evenly in the
        number of the step.

        Raises:
          ValueError: "committed", before the last segment is done.
        """
        done = self.config.sampler.steps_before(segment + 1)
        if done == self.config.sampler.steps:
            return branch.latents
        if look == "committed":
            raise ValueError(f"nothing of the video is committed after segment {segment}")
        latents, clean = branch.latents, branch.clean
        ahead = self._indices_ahead(segment, look)
        condition = self._inform(condition, branch, done)

        def step(state, indices):
            (latents, clean), (here, there) = state, indices
            latents = self._follow_ode(latents, clean, here, there)
            return (latents, self._estimate_clean(params, condition, latents, there)), None

        if len(ahead):
            pairs = np.append(done, ahead[:-1]), ahead
            latents, clean = jax.lax.scan(step, (latents, clean), pairs)[0]
        return clean

    def _indices_ahead(self, segment: int, look: Look) -> np.ndarray:
        """Steps at whose states an estimate calls the denoiser."""
        sampler = self.config.sampler
        done, last = sampler.steps_before(segment + 1), sampler.steps - 1
        count = 0 if isinstance(look, str) else min(look, max(last - done, 0))
        return np.round(np.linspace(done, last, count + 1)[1:]).astype(np.int32)

    def estimate_nfe(self, segment: int, look: Look) -> int:
        """Denoiser calls of an estimate: those of looking ahead."""
        return len(self._indices_ahead(segment, look)) * self._calls_per_step

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
        """Noises the video again, by the forward process; see the protocol.

        `strength` multiplies the fresh noise: 1 is what the earlier level lacks. At depth 0 there
        is nothing but noise, which segment 0 draws. The solver starts anew, with a first-order
        step.
        """
        self._check_renoise(segment, to)
        if not to:
            zeros = jnp.zeros_like(branch.latents)
            return dataclasses.replace(branch, latents=zeros, clean=zeros, previous=zeros)
        here, there = (self.config.sampler.steps_before(depth) for depth in (segment, to))
        fresh = noise.normal(noise.fold_in(key, NOISE_TAG), self.config.latent_shape)
        if to == segment:
            latents = self._add_noise(branch.latents, here, fresh, strength)
        else:
            latents = self._noise_again(branch.latents, here, there, strength * fresh)
        latents = self._restore(branch, latents, there)
        told = self._inform(condition, branch, there)
        clean = self._estimate_clean(params, told, latents, there)
        return dataclasses.replace(branch, latents=latents, clean=clean, previous=clean)

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Denoiser calls of `renoise`: one step's, but none at depth 0."""
        self._check_renoise(segment, to)
        return self._calls_per_step if to else 0

    def _check_renoise(self, segment: int, to: int) -> None:
        last = self.config.sampler.num_segments
        if not 0 <= to <= segment <= last:
            raise ValueError(f"depth {to} is not before depth {segment}")
        if to == segment and segment in (0, last):
            raise ValueError(f"nothing is in progress at depth {segment}")

    def draft(self) -> "FullSequence | None":
        """The generator with fewer steps in its segments; None if there are no fewer."""
        sampler = self.config.sampler
        count = sampler.draft_steps_per_segment
        steps = count * sampler.num_segments
        if steps >= sampler.steps:
            return None
        sampler = dataclasses.replace(sampler, steps=steps, steps_per_segment=count)
        return type(self)(dataclasses.replace(self.config, sampler=sampler), self.tokenizers)

    @property
    def _calls_per_step(self) -> int:
        return 2 if self.config.sampler.guided else 1

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one segment; a guided pair counts as 2.

        The denoiser is called at every state but the last: segment 0 has two ends.
        """
        sampler = self.config.sampler
        before, after = (sampler.steps_before(depth) for depth in (segment, segment + 1))
        calls = after - before + (segment == 0) - (after == sampler.steps)
        return calls * self._calls_per_step

    def program(self, segment: int) -> Hashable:
        """One program for segment 0, one for all others."""
        return "first" if segment == 0 else "next"
