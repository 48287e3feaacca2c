"""Open-Sora 1.2's networks, alone: its own classes are in no package.

They cannot be imported from its repository either: its modules import colossalai, whose releases go
with older PyTorch and transformers than the other originals need.
"""

import numpy as np

from experiments.networks.pairs import Network, abstract, alone, draw, spec
from tts_jax.generators.open_sora.transformer import Transformer, TransformerConfig
from tts_jax.generators.open_sora.vae import OpenSoraVAE, OpenSoraVAEConfig


def _denoise(model, latents, text, time, rate):
    """Our denoiser on a video of 8 times the latents' size."""
    height, width = (8 * side for side in latents.shape[2:4])
    return model(latents, text, time, rate=rate, size=(height, width))


def transformer(size: str) -> Network:
    """The denoiser; `size` is one of `SIZES`."""
    heads, pairs, text, shape = {
        "tiny": (2, 2, 8, (2, 8, 12)),
        "mid": (12, 5, 64, (4, 20, 24)),
    }[size]
    width = 64 * heads
    config = TransformerConfig(
        heads=heads,
        head_size=64,
        layers=pairs,
        mlp=4 * width,
        text_width=width,
        text_length=text,
    )
    time, rate = (np.array([value], np.float32) for value in (500.0, 24.0))
    inputs = draw(1, *shape, 4), draw(1, text, width), time, rate
    return alone(Transformer, config, _denoise, *inputs)


def vae(size: str, *, method: str) -> Network:
    """The VAE's "encode" or "decode", of one chunk; `size` is one of `SIZES`."""
    channels, layers, temporal, temporal_layers, down, side = {
        "tiny": ((8, 16), 1, (8, 16), 1, (True,), 4),
        "mid": ((64, 128, 256, 256), 2, (64, 128, 128, 256), 4, (False, True, True), 4),
    }[size]
    groups = min(channels[0], 32)
    config = OpenSoraVAEConfig(
        channels=channels,
        layers=layers,
        groups=groups,
        temporal_channels=temporal,
        temporal_layers=temporal_layers,
        temporal_groups=groups,
        temporal_down=down,
    )
    pixels = config.chunk, config.spatial_factor * side, config.spatial_factor * side
    shape = config.latent_shape(*pixels) if method == "decode" else (*pixels, 3)
    return alone(OpenSoraVAE, config, lambda model, x: getattr(model, method)(x), draw(1, *shape))


def layered(layers: int) -> dict[str, Network]:
    """Abstract denoisers of so many layers; see `experiments.networks.layered`."""
    config = TransformerConfig(
        heads=2, head_size=64, layers=layers // 2, mlp=256, text_width=64, text_length=16
    )
    inputs = spec(1, 2, 8, 8, 4), spec(1, 16, 64), spec(1), spec(1)
    return {"open_sora": abstract(Transformer, config, _denoise, *inputs)}
