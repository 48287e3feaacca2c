"""Latte-1's networks beside those of diffusers; its VAE is Stable Diffusion's."""

import jax.numpy as jnp
import numpy as np

from converters.image_autoencoder import image_rules
from converters.latte import RULES
from experiments.networks.pairs import Network, abstract, apply, draw, paired, randomise, spec
from tts_jax.generators.latte.transformer import Transformer, TransformerConfig
from tts_jax.generators.latte.vae import FrameVAE, VAEConfig


def transformer(size: str) -> Network:
    """The denoiser; `size` is one of `SIZES`."""
    from diffusers import LatteTransformer3DModel

    heads, pairs, text, shape = {
        "tiny": (2, 2, 8, (2, 8, 12)),
        "mid": (12, 6, 64, (4, 20, 24)),
    }[size]
    original = LatteTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=pairs,
        cross_attention_dim=64 * heads,
        attention_bias=True,
        sample_size=64,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=64 * heads,
        video_length=shape[0],
    )

    def run(model, latents, text, time):
        return model(latents.permute(0, 4, 1, 2, 3), time, text).sample.permute(0, 2, 3, 4, 1)

    return paired(
        randomise(original),
        Transformer,
        TransformerConfig.from_reference(original.config),
        RULES,
        {},
        lambda model, *inputs: jnp.concatenate(model(*inputs), -1),
        (draw(1, *shape, 4), draw(1, text, 64 * heads), np.array([500.0], np.float32)),
        run,
    )


def vae(size: str, *, method: str) -> Network:
    """The VAE's "encode" or "decode"; `size` is one of `SIZES`."""
    from diffusers import AutoencoderKL

    channels, layers, side = {
        "tiny": ((8, 8, 16, 16), 1, 2),
        "mid": ((128, 256, 512, 512), 2, 4),
    }[size]
    original = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=min(channels[0], 32),
    )

    def run(model, x):
        x = x[0].permute(0, 3, 1, 2)
        if method == "encode":
            found = model.encode(x).latent_dist.parameters
        else:
            found = model.decode(x).sample
        return found.permute(0, 2, 3, 1)[None]

    shape = (4, side, side, 4) if method == "decode" else (4, 8 * side, 8 * side, 3)
    return paired(
        randomise(original),
        FrameVAE,
        VAEConfig.from_reference(original.config),
        image_rules(),
        {},
        lambda model, x: getattr(model, method)(x),
        (draw(1, *shape),),
        run,
    )


def layered(layers: int) -> dict[str, Network]:
    """Abstract denoisers of so many layers; see `experiments.networks.layered`."""
    config = TransformerConfig(heads=2, head_size=64, layers=layers // 2, text_width=64, frames=2)
    inputs = spec(1, 2, 8, 8, 4), spec(1, 16, 64), spec(1)
    return {"latte": abstract(Transformer, config, apply, *inputs)}
