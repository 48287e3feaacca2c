"""What every generator does alike with its networks, its prompts and its configuration."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tts_jax.checkpoints import abstract_params, init_params
from tts_jax.generators.protocol import Condition, Params


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


class GeneratorNetworks(Networks):
    """Those of a generator, which encodes its prompts one by one."""

    @abstractmethod
    def encode_prompt(self, params: Params, prompt: str) -> Condition:
        """The condition of one prompt, which is not empty."""

    def encode(self, params: Params, prompts: Sequence[str]) -> Condition:
        """Conditions of prompts, each encoded by itself so that none depends on the others.

        Args:
          params: the model's parameters.
          prompts: P texts.

        Returns:
          Condition with a leading prompt axis.

        Raises:
          ValueError: a prompt is empty or cannot be tokenised.
        """
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError("the prompt is empty")
        conditions = [self.encode_prompt(params, prompt) for prompt in prompts]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)


def read_parts(
    fields: Mapping, needed: Mapping[str, Callable], optional: Mapping[str, Callable] | None = None
) -> dict:
    """The configs of a generator's parts in the "generator" entry of a `config.json`.

    Args:
      fields: the entry; a part that is null is left out.
      needed, optional: the config class of every part.

    Raises:
      TypeError: an unknown or a missing field.
    """
    parts = {**needed, **(optional or {})}
    given = {n: values for n, values in fields.items() if n != "name" and values is not None}
    unknown, missing = sorted(set(given) - set(parts)), sorted(set(needed) - set(given))
    if unknown or missing:
        raise TypeError(f"unknown fields {unknown}, missing fields {missing}")

    def read(values: Mapping) -> dict:
        return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}

    return {name: parts[name](**read(values)) for name, values in given.items()}
