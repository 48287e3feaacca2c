"""Every published CogVideoX tensor has one place in our models, at full size."""

import json
import math

import pytest

from converters.cogvideox import TRANSFORMER_RULES, VAE_RULES
from converters.core import ConversionError, check
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.generators.cogvideox.transformer import Transformer, TransformerConfig
from tts_jax.generators.cogvideox.vae import CausalVideoVAE, VAEConfig

MODELS = {
    "cogvideox_2b_transformer": (Transformer, TransformerConfig.cogvideox_2b, TRANSFORMER_RULES),
    "cogvideox_5b_transformer": (Transformer, TransformerConfig.cogvideox_5b, TRANSFORMER_RULES),
    "cogvideox_vae": (CausalVideoVAE, VAEConfig.cogvideox_5b, VAE_RULES),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_published_tensor_is_taken_once(golden, name):
    build, published, rules = MODELS[name]
    manifest = json.loads((golden("manifests") / f"{name}.json").read_text())
    _, like = abstract_params(build, published())
    assert len(check(manifest, like, rules)) == len(manifest)
    ours = sum(math.prod(leaf.shape) for leaf in flatten(like).values())
    assert ours == sum(math.prod(shape) for shape in manifest.values())


def test_the_tables_know_which_checkpoint_they_see(golden):
    manifest = json.loads((golden("manifests") / "cogvideox_2b_transformer.json").read_text())
    config = TransformerConfig.cogvideox_5b()
    _, like = abstract_params(Transformer, config)
    with pytest.raises(ConversionError) as error:
        check(manifest, like, TRANSFORMER_RULES)
    for part in ("latent_embed.kernel", "blocks.attention.q.kernel", "layer(s) [30]"):
        assert part in str(error.value)
