"""Pyramid-Flow's networks; its denoisers beside Flux and Stable Diffusion 3 of diffusers.

Its own classes are in no package. Without a history its denoisers compute what those two do.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from converters.pyramid_flow import FLUX_RULES, mmdit_rules
from experiments.networks.pairs import Network, abstract, alone, draw, paired, randomise, spec
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE, VAEConfig


def _denoiser_inputs(shape: Sequence[int], text: int, widths: tuple[int, int]) -> tuple:
    """Latents, text states, pooled text and time of a first frame."""
    return (
        draw(1, *shape, 16),
        draw(1, text, widths[0]),
        draw(1, widths[1]),
        np.array([500.0], np.float32),
    )


def _denoise(model, latents, text, pooled, time):
    """Our Pyramid-Flow denoisers on a first frame, whose tokens and the text's see each other."""
    mask = jnp.ones(text.shape[:2], bool)
    return model(latents, jnp.zeros(1), (), text, mask, pooled, time)


def flux(size: str) -> Network:
    """The miniFLUX denoiser beside Flux; `size` is one of `SIZES`."""
    from diffusers import FluxTransformer2DModel

    heads, double, single, text, shape = {
        "tiny": (2, 1, 1, 8, (1, 8, 12)),
        "mid": (12, 2, 6, 64, (1, 30, 32)),
    }[size]
    original = FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=64 * heads,
        pooled_projection_dim=64,
        axes_dims_rope=(16, 24, 24),
    )
    config = TransformerConfig.from_reference(original.config)
    rows, columns = shape[1] // 2, shape[2] // 2

    def run(model, latents, text, pooled, time):
        import torch

        tokens = latents.reshape(1, rows, 2, columns, 2, 16).permute(0, 1, 3, 2, 4, 5)
        places = torch.cartesian_prod(*(torch.arange(n) for n in (1, rows, columns)))
        found = model(
            tokens.reshape(1, rows * columns, 64),
            text,
            pooled,
            time / 1000,
            places.float(),
            torch.zeros(text.shape[1], 3),
        ).sample
        found = found.reshape(1, rows, columns, 2, 2, 16).permute(0, 1, 3, 2, 4, 5)
        return found.reshape(1, *shape, 16)

    return paired(
        randomise(original),
        Transformer,
        config,
        FLUX_RULES,
        {},
        _denoise,
        _denoiser_inputs(shape, text, (64 * heads, 64)),
        run,
    )


def mmdit(size: str) -> Network:
    """The MMDiT denoiser beside Stable Diffusion 3; `size` is one of `SIZES`."""
    from diffusers import SD3Transformer2DModel

    heads, blocks, text, shape = {"tiny": (2, 2, 8, (1, 8, 12)), "mid": (12, 5, 64, (1, 30, 32))}[
        size
    ]
    original = SD3Transformer2DModel(
        sample_size=128,
        in_channels=16,
        num_layers=blocks,
        attention_head_dim=64,
        num_attention_heads=heads,
        joint_attention_dim=64 * heads,
        caption_projection_dim=64 * heads,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=64,
        qk_norm="rms_norm",
    )
    config = MMDiTConfig.from_reference(original.config)

    def run(model, latents, text, pooled, time):
        found = model(latents[:, 0].permute(0, 3, 1, 2), text, pooled, time).sample
        return found.permute(0, 2, 3, 1)[:, None]

    return paired(
        randomise(original),
        MMDiT,
        config,
        mmdit_rules(blocks),
        {},
        _denoise,
        _denoiser_inputs(shape, text, (64 * heads, 64)),
        run,
        rename={"norm_added_": "norm_add_"},
    )


def vae(size: str, *, method: str) -> Network:
    """The VAE's "encode" or "decode", alone; `size` is one of `SIZES`."""
    channels, layers, side = {
        "tiny": ((8, 8, 16, 16), 1, 2),
        "mid": ((96, 160, 288, 288), 2, 4),
    }[size]
    resampled = (True, True, True, False)
    config = VAEConfig(
        latent_channels=16,
        encoder_channels=channels,
        encoder_layers=(layers,) * 4,
        encoder_spatial_down=resampled,
        encoder_temporal_down=resampled,
        encoder_groups=min(channels[0], 32),
        decoder_channels=channels,
        decoder_layers=(layers,) * 4,
        decoder_spatial_up=resampled,
        decoder_temporal_up=resampled,
        decoder_groups=min(channels[0], 32),
    )
    shape = (2, side, side, 16) if method == "decode" else (9, 8 * side, 8 * side, 3)
    return alone(
        CausalVideoVAE, config, lambda model, x: getattr(model, method)(x), draw(1, *shape)
    )


def layered(layers: int) -> dict[str, Network]:
    """Abstract denoisers of so many layers; see `experiments.networks.layered`."""
    sizes = {"heads": 2, "head_size": 64, "latent_channels": 16, "text_width": 64}
    flux = TransformerConfig(
        **sizes,
        pooled_width=64,
        double_blocks=layers // 2,
        single_blocks=layers - layers // 2,
        rope_axes=(16, 24, 24),
    )
    mmdit = MMDiTConfig(**sizes, pooled_width=64, blocks=layers, table_size=16, base_size=16)
    inputs = spec(1, 1, 8, 8, 16), spec(1, 16, 64), spec(1, 64), spec(1)
    return {
        "pyramid_flow_flux": abstract(Transformer, flux, _denoise, *inputs),
        "pyramid_flow_mmdit": abstract(MMDiT, mmdit, _denoise, *inputs),
    }


def decoders(*, small: bool) -> dict[str, Network]:
    """Decoding of a video; see `experiments.networks.decoders`."""
    frames, width = (4, 40) if small else (16, 80)
    video = spec(1, frames, 3 * width // 5, width, 16)
    calls = {
        "pyramid_flow, whole": lambda vae, z: vae.decode(z),
        "pyramid_flow, windows of 1": lambda vae, z: vae.decode_chunked(z, 1),
        "pyramid_flow, tiles of 256, windows of 1": lambda vae, z: vae.decode_tiled(z, 256, 1),
    }
    config = VAEConfig.published()
    return {name: abstract(CausalVideoVAE, config, call, video) for name, call in calls.items()}
