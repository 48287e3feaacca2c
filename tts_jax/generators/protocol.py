"""What a search knows of a text-to-video model: a chain of segments."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jax import Array

Params = Mapping[str, Any]
Condition = Any
Branch = Any
Latents = Array


@runtime_checkable
class Generator(Protocol):
    """A text-to-video model as a chain of segments.

    All functions are pure and treat one branch; a search maps them over parents and children. The
    parent's branch stays unmapped over its children, so what depends on it alone is computed once.

    Attributes:
      num_segments: number of `advance` calls that make a whole video.
    """

    num_segments: int

    def encode(self, params: Params, prompts: Sequence[str]) -> Condition:
        """Text conditions, a pytree whose leaves have a leading prompt axis.

        Raises:
          ValueError: a prompt is empty or cannot be tokenised.
        """

    def init(self, params: Params, condition: Condition, key: Array) -> Branch:
        """A branch with no segment done; `condition` is that of one prompt."""

    def advance(
        self, params: Params, condition: Condition, branch: Branch, key: Array, segment: int | Array
    ) -> Branch:
        """Adds one segment to a branch.

        Args:
          params: the model's parameters.
          condition: condition of one prompt, without the prompt axis.
          branch: the parent.
          key: the child's key; everything random in the segment comes from it.
          segment: segment index. A Python int, or a traced int32 for a segment whose `program` it
            shares with others; segment 0 is always a Python int.
        """

    def estimate(
        self, params: Params, condition: Condition, branch: Branch, segment: int
    ) -> Latents:
        """What can be looked at after `segment` (a Python int): finished latents, never noise."""

    def decode(self, params: Params, latents: Latents) -> Array:
        """Frames of an estimate, [T, H, W, 3], float32 in [0, 1]."""

    def nfe(self, segment: int) -> int:
        """Denoiser calls of one `advance`; a guided pair counts as 2."""

    def program(self, segment: int) -> Hashable:
        """Segments of an equal value share one executable."""
