"""Wan's networks beside those of diffusers; its causal form has the same denoiser."""

import numpy as np

from converters.wan import VAE_RULES
from converters.wan_transformer import RULES
from experiments.networks.pairs import Network, abstract, apply, draw, paired, randomise, spec
from tts_jax.generators.wan.transformer import Transformer, TransformerConfig
from tts_jax.generators.wan.vae import CausalVideoVAE, VAEConfig


def transformer(size: str) -> Network:
    """The denoiser; `size` is one of `SIZES`."""
    from diffusers import WanTransformer3DModel

    heads, layers, text, shape = {
        "tiny": (2, 2, 8, (2, 8, 12)),
        "mid": (12, 9, 64, (2, 20, 24)),
    }[size]
    original = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=64 * heads,
        ffn_dim=256 * heads,
        num_layers=layers,
    )

    def run(model, latents, text, time):
        found = model(latents.permute(0, 4, 1, 2, 3), time, text).sample
        return found.permute(0, 2, 3, 4, 1)

    return paired(
        randomise(original),
        Transformer,
        TransformerConfig.from_reference(original.config),
        RULES,
        {},
        apply,
        (draw(1, *shape, 16), draw(1, text, 64 * heads), np.array([500.0], np.float32)),
        run,
    )


def vae(size: str, *, method: str) -> Network:
    """The VAE's "encode" or "decode"; `size` is one of `SIZES`."""
    from diffusers import AutoencoderKLWan

    base, layers, side = {"tiny": (8, 1, 2), "mid": (96, 2, 4)}[size]
    original = AutoencoderKLWan(base_dim=base, num_res_blocks=layers)

    def run(model, x):
        x = x.permute(0, 4, 1, 2, 3)
        if method == "encode":
            found = model.encode(x).latent_dist.parameters
        else:
            found = model.decode(x).sample
        return found.permute(0, 2, 3, 4, 1)

    shape = (3, side, side, 16) if method == "decode" else (9, 8 * side, 8 * side, 3)
    return paired(
        randomise(original),
        CausalVideoVAE,
        VAEConfig.from_reference(original.config),
        VAE_RULES,
        {},
        lambda model, x: getattr(model, method)(x),
        (draw(1, *shape),),
        run,
    )


def layered(layers: int) -> dict[str, Network]:
    """Abstract denoisers of so many layers; see `experiments.networks.layered`."""
    config = TransformerConfig(heads=2, head_size=64, layers=layers, mlp=256, text_width=64)
    inputs = spec(1, 2, 8, 8, 16), spec(1, 16, 64), spec(1)
    return {"wan": abstract(Transformer, config, apply, *inputs)}
