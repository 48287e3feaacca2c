"""What a search knows of a text-to-video model: a chain of segments."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jax import Array

from tts_jax.solvers.noise import Key

Params = Mapping[str, Any]
Condition = Any
Branch = Any
Latents = Array
Look = Literal["committed", "clean"] | int


@runtime_checkable
class Generator(Protocol):
    """A text-to-video model as a chain of segments.

    All functions are pure and treat one branch; a search maps them over parents and children. The
    parent's branch stays unmapped over its children, so what depends on it alone is computed once.

    A unit is what a video grows by, and is made by one segment or by several. A segment may be a
    block of denoising steps: it ends with the denoiser call at its last state, which the branch
    keeps for the next one, so that the clean estimate costs nothing and knows all noise drawn.

    Attributes:
      num_segments: number of `advance` calls that make a whole video.
      units: segments of each unit; they sum to `num_segments`.
      stochastic: whether every segment that goes on with a unit draws noise; without it children
        that differ in such a segment alone are all the same.
      renoises: whether `renoise` is possible.
      looks_ahead: whether `estimate` can look denoiser steps ahead.

    `text_parts`, if it has that too, names the parts of the parameters that `encode` alone uses;
    `parent_nfe(segment)` tells how many of `nfe(segment)` depend on the parent alone, and so are
    made once for the children that are advanced together.
    """

    num_segments: int
    units: tuple[int, ...]
    stochastic: bool
    renoises: bool
    looks_ahead: bool

    def encode(self, params: Params, prompts: Sequence[str]) -> Condition:
        """Text conditions, a pytree whose leaves have a leading prompt axis.

        Raises:
          ValueError: a prompt is empty or cannot be tokenised.
        """

    def init(self, params: Params, condition: Condition, key: Key) -> Branch:
        """A branch with no segment done; `condition` is that of one prompt."""

    def advance(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        key: Key,
        segment: int | Array,
        program: Hashable = None,
    ) -> Branch:
        """Adds one segment to a branch.

        Args:
          params: the model's parameters.
          condition: condition of one prompt, without the prompt axis.
          branch: the parent.
          key: the child's key or chain of keys; everything random comes from it, all Gaussian
            values by `tts_jax.solvers.noise.normal`.
          segment: segment index. A Python int, or a traced int32 for a segment whose `program` it
            shares with others; segment 0 is always a Python int.
          program: `program` of a traced segment; may be left out where there is one for them all.
        """

    def estimate(
        self,
        params: Params,
        condition: Condition,
        branch: Branch,
        segment: int,
        look: Look = "committed",
    ) -> Latents:
        """What can be looked at after `segment` (a Python int): never noise.

        Args:
          params: the model's parameters.
          condition: condition of one prompt.
          branch: the branch.
          segment: the last segment done.
          look: "committed", the finished units; "clean", the clean estimate of the unit in progress
            too; a number: the same after so many deterministic steps ahead. All are the same where
            a unit ends.

        Raises:
          ValueError: nothing is finished.
        """

    def estimate_nfe(self, segment: int, look: Look) -> int:
        """Denoiser calls of one `estimate`, none but for looking ahead."""

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
        """Takes a branch back to an earlier noise level of its last unit, if `renoises`.

        Args:
          params: the model's parameters.
          condition: condition of one prompt.
          branch: with segments 0 to segment - 1 done.
          key: everything random comes from it.
          segment: depth of the branch, a Python int.
          to: depth to go back to, a Python int. If it is `segment`, strength * sigma of noise is
            added, with sigma the level's standard deviation.
          strength: of the fresh noise.

        Raises:
          ValueError: `to` is not in the unit that is in progress or just finished.
        """

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Denoiser calls of one `renoise`."""

    def draft(self) -> "Generator | None":
        """A generator of the same parameters and segments with fewer denoising steps, if any."""

    def decode(self, params: Params, latents: Latents) -> Array:
        """Frames of an estimate, [T, H, W, 3], float32 in [0, 1]."""

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one `advance`; a guided pair counts as 2."""

    def program(self, segment: int) -> Hashable:
        """Segments of an equal value share one executable."""


def parent_nfe(generator: Generator, segment: int) -> int:
    """Denoiser calls of one `advance` that siblings share; none if the generator tells of none."""
    return getattr(generator, "parent_nfe", lambda segment: 0)(segment)
