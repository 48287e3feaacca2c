"""What every generator does alike with its networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from flax import nnx

from tts_jax.checkpoints import abstract_params, init_params


class Networks(ABC):
    """Networks by part: made from their configs, joined with parameters when they are used."""

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, tuple[Callable, Any]]:
        """The module and the config of every part."""

    @cached_property
    def _abstract(self):
        return {name: abstract_params(*network) for name, network in self.networks.items()}

    @property
    def abstract_params(self) -> dict:
        """Shapes and dtypes of the parameters, by part."""
        return {name: params for name, (_, params) in self._abstract.items()}

    def init_params(self) -> dict:
        """Untrained parameters, always the same."""
        parts = enumerate(self.networks.items())
        return {name: init_params(*network, seed)[1] for seed, (name, network) in parts}

    def network(self, params: Mapping, name: str) -> nnx.Module:
        """A part with its parameters.

        Args:
          params: nested dictionary with an entry for each part.
          name: of the part.
        """
        return nnx.merge(self._abstract[name][0], params[name])
