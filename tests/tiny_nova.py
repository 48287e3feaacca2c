"""A NOVA of the smallest sizes."""

from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.nova.sampler import SamplerConfig
from tts_jax.generators.nova.transformer import TransformerConfig
from tts_jax.generators.nova.vae import VAEConfig
from tts_jax.language.phi import PhiConfig

TEXT_LENGTH = 4


def transformer(**changes) -> TransformerConfig:
    """The networks, with other sizes if asked."""
    sizes = dict(
        latent_channels=2,
        grid=(4, 4),
        video_grid=(2, 2),
        time_base=4,
        text_width=8,
        text_length=TEXT_LENGTH,
        text_rows=6,
        video_layers=2,
        image_layers=2,
        decoder_layers=1,
        video_heads=2,
        image_heads=2,
        width=16,
        decoder_width=16,
        mixer_rank=2,
    )
    return TransformerConfig(**sizes | changes)


def config(**sampler) -> NovaConfig:
    """The whole generator, three frames long, with other settings of the sampler if asked."""
    settings = dict(
        frames=3, steps=5, diffusion_steps=2, draft_steps=2, draft_diffusion_steps=1, guidance=3.0,
        rooms=2,
    )  # fmt: skip
    return NovaConfig(
        phi=PhiConfig(vocabulary=32, width=8, heads=2, layers=1, mlp=8, rotary=0.5),
        transformer=transformer(),
        vae=VAEConfig(latent_channels=2, channels=(2, 2, 2), layers=1, groups=1, flat=1),
        sampler=SamplerConfig(**settings | sampler),
    )
