"""CogVideoX's networks beside those of diffusers."""

import numpy as np

from converters.cogvideox import TRANSFORMER_RULES, VAE_RULES
from experiments.networks.pairs import Network, abstract, apply, draw, paired, randomise, spec
from tts_jax.generators.cogvideox.transformer import Transformer, TransformerConfig
from tts_jax.generators.cogvideox.vae import CausalVideoVAE, VAEConfig


def transformer(size: str, *, rotary: bool) -> Network:
    """The denoiser, with rotary positions (5B) or without (2B); `size` is one of `SIZES`."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    heads, layers, text, shape = {
        "tiny": (2, 2, 8, (2, 8, 12)),
        "mid": (12, 9, 64, (2, 20, 24)),
    }[size]
    original = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        num_layers=layers,
        text_embed_dim=64 * heads,
        time_embed_dim=512,
        sample_frames=4 * shape[0] - 3,
        sample_height=shape[1],
        sample_width=shape[2],
        max_text_seq_length=text,
        use_rotary_positional_embeddings=rotary,
    )
    config = TransformerConfig.from_reference(original.config)
    grid = shape[1] // 2, shape[2] // 2
    table = get_3d_rotary_pos_embed(64, ((0, 0), grid), grid, shape[0]) if rotary else None

    def run(model, latents, text, time):
        inputs = latents.permute(0, 1, 4, 2, 3), text, time
        return model(*inputs, image_rotary_emb=table).sample.permute(0, 1, 3, 4, 2)

    return paired(
        randomise(original),
        Transformer,
        config,
        TRANSFORMER_RULES,
        {},
        apply,
        (draw(1, *shape, 16), draw(1, text, 64 * heads), np.array([500.0], np.float32)),
        run,
    )


def vae(size: str, *, method: str) -> Network:
    """The VAE's "encode" or "decode"; `size` is one of `SIZES`."""
    from diffusers import AutoencoderKLCogVideoX

    channels, layers, side = {
        "tiny": ((8, 8, 16, 16), 1, 2),
        "mid": ((96, 192, 192, 384), 3, 4),
    }[size]
    original = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=min(channels[0], 32),
    )
    config = VAEConfig.from_reference(original.config)

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
        config,
        VAE_RULES,
        {},
        lambda model, x: getattr(model, method)(x),
        (draw(1, *shape),),
        run,
    )


def layered(layers: int) -> dict[str, Network]:
    """Abstract denoisers of so many layers; see `experiments.networks.layered`."""
    config = TransformerConfig(
        heads=2,
        head_size=64,
        latent_channels=16,
        text_width=64,
        layers=layers,
        time_width=64,
        rotary=True,
    )
    inputs = spec(1, 2, 8, 8, 16), spec(1, 16, 64), spec(1)
    return {"cogvideox_5b": abstract(Transformer, config, apply, *inputs)}


def decoders(*, small: bool) -> dict[str, Network]:
    """Decoding of a video; see `experiments.networks.decoders`."""
    frames, side = (3, 45) if small else (13, 90)
    clip = spec(1, frames, 2 * side // 3, side, 16)
    calls = {
        "cogvideox, windows of 2": lambda vae, z: vae.decode(z),
        "cogvideox, tiles, windows of 2": lambda vae, z: vae.decode_tiled(z),
    }
    config = VAEConfig.cogvideox_5b()
    return {name: abstract(CausalVideoVAE, config, call, clip) for name, call in calls.items()}
