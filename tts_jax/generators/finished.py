"""Generators whose segments end in what is finished, with nothing noisy to go back to."""

from abc import abstractmethod
from typing import ClassVar

from jax import Array

from tts_jax.generators.networks import GeneratorNetworks
from tts_jax.generators.protocol import Branch, Condition, Look, Params
from tts_jax.solvers.noise import Key


class Finished(GeneratorNetworks):
    """What such generators do alike; every unit has equally many segments.

    Attributes:
      not_noisy: why segments cannot be noised again.
      units: see the protocol.
    """

    renoises = False
    looks_ahead = False
    not_noisy: ClassVar[str]
    units: tuple[int, ...]

    @property
    @abstractmethod
    def _parts(self) -> int:
        """Segments of a unit."""

    @property
    def num_segments(self) -> int:
        """Segments of a video."""
        return sum(self.units)

    @property
    def stochastic(self) -> bool:
        """Whether a unit has several segments; all of them draw."""
        return self._parts > 1

    def estimate_nfe(self, segment: int, look: Look) -> int:
        """Denoiser calls of an estimate: none."""
        return 0

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
        """Is not possible; see the protocol."""
        raise ValueError(self.not_noisy)

    def renoise_nfe(self, segment: int, to: int) -> int:
        """Is not possible; see `renoise`."""
        raise ValueError(self.not_noisy)
