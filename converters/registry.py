"""Which models can be converted, and by which table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from converters import pyramid_flow
from converters.core import Rules
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Model:
    """A published model and its place among ours.

    Attributes:
      generator: the generator that it is a part of.
      part: the name of that part; its parameters are written to `<part>.safetensors`.
      build: makes the module of a config.
      published: the config of the published checkpoint.
      read: the config of a parsed `config.json` that stands beside published weights.
      rules, ignored: its conversion table; a function of the config where that decides.
    """

    generator: str
    part: str
    build: Callable[..., nnx.Module]
    published: Callable[[], Any]
    read: Callable[[Mapping], Any]
    rules: Rules | Callable[[Any], Rules]
    ignored: Mapping[str, str] = field(default_factory=dict)

    def abstract(self, config) -> tuple[nnx.GraphDef, dict]:
        """Graph and abstract parameters of a config."""
        return abstract_params(lambda: self.build(config, rngs=nnx.Rngs(0)))

    def table(self, config) -> Rules:
        """The conversion table of a config."""
        return self.rules(config) if callable(self.rules) else self.rules


MODELS = {
    "pyramid_flow_vae": Model(
        generator="pyramid_flow",
        part="vae",
        build=CausalVideoVAE,
        published=VAEConfig.published,
        read=VAEConfig.from_reference,
        rules=pyramid_flow.VAE_RULES,
    ),
    "pyramid_flow_flux": Model(
        generator="pyramid_flow",
        part="transformer",
        build=Transformer,
        published=TransformerConfig.flux,
        read=TransformerConfig.from_reference,
        rules=pyramid_flow.FLUX_RULES,
    ),
    "pyramid_flow_mmdit": Model(
        generator="pyramid_flow",
        part="transformer",
        build=MMDiT,
        published=MMDiTConfig.published,
        read=MMDiTConfig.from_reference,
        rules=lambda config: pyramid_flow.mmdit_rules(config.blocks),
    ),
}
