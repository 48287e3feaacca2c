"""Open-Sora 1.2 as a chain of segments: a segment is a block of denoising steps of a whole clip.

A video of several clips has a unit for each; a later clip goes on from the end of the one before.

T latent frames  H W latent size  C channels  L tokens  N steps  K clips  S segments of a clip.
"""

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators import full_sequence
from tts_jax.generators.full_sequence import guide
from tts_jax.generators.open_sora.parts import Parts
from tts_jax.generators.open_sora.sampler import Given
from tts_jax.generators.open_sora.scheduler import NUM_TIMESTEPS
from tts_jax.generators.open_sora.text import texts_of_clips
from tts_jax.generators.protocol import Look, Params
from tts_jax.generators.rectified_flow import RectifiedFlow
from tts_jax.solvers import noise, rectified_flow
from tts_jax.solvers.noise import Key
from tts_jax.solvers.steps import row


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condition:
    """What a prompt adds to the denoiser's inputs.

    Attributes:
      text: states of the prompt of every clip, [K, L, D_text], or of one clip, [L, D_text].
      mask: which tokens count, of the null caption too, bool [K, L] or [L].
      guidance: scale of all steps, [] float32.
      noisy: frames that are noisy, bool [T]; all are if None.
    """

    text: Array
    mask: Array
    guidance: Array
    noisy: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Branch(full_sequence.Branch):
    """A partly denoised clip and those before it.

    Attributes:
      given: frames of the clip that are given; None where no clip has any.
      finished: the clips before, [K - 1, T, H, W, C], zeros where there are none yet.
    """

    given: Given | None
    finished: Array


class OpenSora(Parts, RectifiedFlow):
    """The generator protocol over Open-Sora 1.2; see `tts_jax.generators.protocol.Generator`."""

    name = "open_sora"

    @property
    def num_segments(self) -> int:
        """Blocks of steps, of all clips."""
        return sum(self.units)

    @property
    def units(self) -> tuple[int, ...]:
        """One unit for each clip."""
        sampler = self.config.sampler
        return (sampler.num_segments,) * sampler.clips

    @property
    def units_of_an_image(self) -> int:
        """Units that are done when a video begins with an image; it is one of a clip's frames."""
        return int(self.config.latent_shape[0] == 1)

    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """Text states of a prompt for every clip, see `texts_of_clips`; and the guidance scale."""
        sampler = self.config.sampler
        texts = texts_of_clips(prompt, sampler.clips)
        read = {text: self.read_texts(params, [text]) for text in dict.fromkeys(texts)}
        text, mask = (jnp.concatenate(x) for x in zip(*map(read.get, texts), strict=True))
        return Condition(text, mask, jnp.float32(sampler.guidance))

    def init(self, params: Params, condition: Condition, key: Key) -> Branch:
        """A branch without any noise drawn; see the protocol."""
        shape, clips = self.config.latent_shape, self.config.sampler.clips
        zeros = jnp.zeros(shape)
        given = Given(zeros, jnp.ones(shape[0])) if clips > 1 else None
        return Branch(zeros, zeros, zeros, given, jnp.zeros((clips - 1, *shape)))

    def begin_with_image(
        self, params: Params, condition: Condition, branch: Branch, moments: Array, key: Key
    ) -> Branch:
        """A branch whose first clip begins with an image.

        Args:
          params: the model's parameters.
          condition: of the prompt.
          branch: of `init`.
          moments: of `encode_frames` for the image, [1, h, w, 2C].
          key: of the draw from them.
        """
        return self.begin_with_latents(branch, self.draw_latents(params, moments, key))

    def begin_with_latents(self, branch: Branch, latents: Array, ratio: float = 0.0) -> Branch:
        """A branch whose clip in progress begins with given frames.

        Args:
          branch: with no segment of the clip done.
          latents: the frames, [T', H, W, C], T' at most T.
          ratio: share of the noise levels at which they are denoised too; 0 keeps them.
        """
        zeros = jnp.zeros(self.config.latent_shape)
        ratios = jnp.ones(len(zeros)).at[: len(latents)].set(ratio)
        return self.begin_with(branch, Given(zeros.at[: len(latents)].set(latents), ratios))

    def begin_with(self, branch: Branch, given: Given) -> Branch:
        """A branch with given frames anywhere in its clip in progress, no segment of it done."""
        return dataclasses.replace(branch, given=given)

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Takes a segment's steps; see the protocol and `FullSequence.advance`.

        The first segment of a later clip begins with reading the end of the clip before.

        Raises:
          ValueError: a traced segment whose program is not given and not the only one.
        """
        if isinstance(segment, int | np.integer):
            program = self.program(int(segment))
        elif program is None and self.config.sampler.clips > 1:
            raise ValueError("a traced segment may be of 2 programs; name one")
        clip, local = self._place(segment)
        if program == "clip":
            finished = branch.finished.at[clip - 1].set(branch.latents)
            branch = dataclasses.replace(branch, finished=finished)
            branch = self.begin_with_latents(branch, self.read_end(params, branch.latents))
        local = local if program in ("next", None) else 0
        return super().advance(params, _of_clip(condition, clip), branch, key, local)

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Array:
        """Latents of the clips so far, [clips * T, H, W, C]; see `FullSequence.estimate`.

        Raises:
          ValueError: "committed", before the first clip is done.
        """
        clip, local = self._place(segment)
        finished = branch.finished[:clip].reshape(-1, *branch.latents.shape[1:])
        if look == "committed" and clip and local + 1 < self.config.sampler.num_segments:
            return finished
        condition = None if condition is None else _of_clip(condition, clip)
        return jnp.concatenate([finished, super().estimate(params, condition, branch, local, look)])

    def estimate_nfe(self, segment: int, look: Look) -> int:
        """Denoiser calls of an estimate: those of looking ahead."""
        return super().estimate_nfe(self._place(segment)[1], look)

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
        """Noises the last clip again; see `FullSequence.renoise`.

        Given frames are put back as they are at the earlier level. At the depth where a later clip
        begins there is the clip before, as it was.
        """
        clip, depth, there = self._depths(segment, to)
        if clip and not there:
            self._check_renoise(depth, there)
            before = branch.finished[clip - 1]
            return dataclasses.replace(branch, latents=before, clean=before, previous=before)
        condition = None if condition is None else _of_clip(condition, clip)
        return super().renoise(params, condition, branch, key, depth, there, strength)

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Denoiser calls of `renoise`: one step's, but none where a clip begins."""
        return super().renoise_nfe(*self._depths(segment, to)[1:])

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one segment; a guided pair counts as 2."""
        return super().nfe(self._place(segment)[1])

    def program(self, segment: int) -> Hashable:
        """One program for segment 0, one for the first of later clips, one for all others."""
        if segment % self.config.sampler.num_segments:
            return "next"
        return "clip" if segment else "first"

    def _place(self, segment: int | Array) -> tuple[int | Array, int | Array]:
        """Number of a segment's clip, and of the segment in it."""
        count = self.config.sampler.num_segments
        return segment // count, segment % count

    def _depths(self, segment: int, to: int) -> tuple[int, int, int]:
        """The clip that is in progress or just finished, and two depths counted from its start."""
        count = self.config.sampler.num_segments
        clip = max(segment - 1, 0) // count
        return clip, segment - clip * count, to - clip * count

    def _estimate_clean(
        self, params: Params, condition: Condition, latents: Array, index: int | Array
    ) -> Array:
        """The guided clean estimate at the state before step `index`, [T, H, W, C]."""
        sampler, noisy = self.config.sampler, condition.noisy
        model = self.network(params, "transformer")
        text = condition.text[None]
        if sampler.guided:
            null = model.null_text[...][None, : text.shape[1]]
            text = jnp.concatenate([null.astype(text.dtype), text])
        batch = len(text)
        time = jnp.asarray(self._schedule.timesteps, jnp.float32)[jnp.asarray(index)]
        velocities = model(
            jnp.broadcast_to(latents, (batch, *latents.shape)),
            text,
            jnp.full(batch, time),
            rate=jnp.full(batch, sampler.told_rate, jnp.float32),
            size=(sampler.height, sampler.width),
            text_mask=condition.mask[None],
            noisy=None if noisy is None else jnp.broadcast_to(noisy, (batch, *noisy.shape)),
        )[..., : latents.shape[-1]]
        velocity = guide(velocities, condition.guidance)
        clean = rectified_flow.clean_estimate(latents, -velocity, self._levels[index])
        return clean if noisy is None else jnp.where(noisy[:, None, None, None], clean, latents)

    def _time(self, index: int | Array) -> Array:
        """Of the state before step `index`, which may lie before the first or after the last."""
        after = 1 + self.config.sampler.steps_per_segment
        times = np.pad(self._schedule.timesteps, (1, after), constant_values=(NUM_TIMESTEPS, 0))
        return jnp.asarray(times, jnp.float32)[jnp.asarray(index) + 1]

    def _begin(self, branch: Branch, normals: Array) -> Array:
        if branch.given is None:
            return normals
        return branch.given.place(normals, self._time(-1))

    def _inform(self, condition: Condition, branch: Branch, index: int | Array) -> Condition:
        if branch.given is None:
            return condition
        return dataclasses.replace(condition, noisy=branch.given.noisy(self._time(index)))

    def _restore(self, branch: Branch, latents: Array, index: int) -> Array:
        return latents if branch.given is None else branch.given.place(latents, self._time(index))

    def _predict(self, branch: Branch, index: Array, key: Key) -> Array:
        step = row(self._steps, index + 1)
        latents = step.latents * branch.latents + step.clean * branch.clean
        if not self.stochastic and branch.given is None:
            return latents
        normals = noise.normal(key, latents.shape)
        latents = latents + step.noise * normals
        if branch.given is None:
            return latents
        before, after = self._time(index), self._time(index + 1)
        level = after / NUM_TIMESTEPS
        return branch.given.after_step(latents, before, after, level, normals)


def _of_clip(condition: Condition, clip: int | Array) -> Condition:
    """The condition of one clip."""
    return dataclasses.replace(condition, text=condition.text[clip], mask=condition.mask[clip])
