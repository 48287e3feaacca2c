"""The networks of the published generators, for `experiments.benchmark_generators`."""

import functools
from collections.abc import Callable

from experiments.networks import cogvideox, latte, open_sora, pyramid_flow, text, wan
from experiments.networks.pairs import Network

SIZES = ("tiny", "mid")  # mid: about 100 million parameters

NETWORKS: dict[str, Callable[[str], Network]] = {
    "pyramid_flow_flux": pyramid_flow.flux,
    "pyramid_flow_mmdit": pyramid_flow.mmdit,
    "pyramid_flow_vae_encode": functools.partial(pyramid_flow.vae, method="encode"),
    "pyramid_flow_vae_decode": functools.partial(pyramid_flow.vae, method="decode"),
    "cogvideox_2b": functools.partial(cogvideox.transformer, rotary=False),
    "cogvideox_5b": functools.partial(cogvideox.transformer, rotary=True),
    "cogvideox_vae_encode": functools.partial(cogvideox.vae, method="encode"),
    "cogvideox_vae_decode": functools.partial(cogvideox.vae, method="decode"),
    "wan": wan.transformer,
    "wan_vae_encode": functools.partial(wan.vae, method="encode"),
    "wan_vae_decode": functools.partial(wan.vae, method="decode"),
    "latte": latte.transformer,
    "latte_vae_encode": functools.partial(latte.vae, method="encode"),
    "latte_vae_decode": functools.partial(latte.vae, method="decode"),
    "open_sora": open_sora.transformer,
    "open_sora_vae_encode": functools.partial(open_sora.vae, method="encode"),
    "open_sora_vae_decode": functools.partial(open_sora.vae, method="decode"),
    "t5": text.t5,
    "umt5": text.umt5,
    "clip_text": text.clip_text,
}


def layered(layers: int) -> dict[str, Network]:
    """Abstract networks of so many layers, narrow: their width hardly matters to the compiler."""
    families = pyramid_flow, cogvideox, wan, latte, open_sora, text
    return {name: own for family in families for name, own in family.layered(layers).items()}


def decoders(*, small: bool = False) -> dict[str, Network]:
    """Decoding a video of a published configuration, whole and in pieces; abstract.

    Args:
      small: whether the videos have a few tiles only.
    """
    return pyramid_flow.decoders(small=small) | cogvideox.decoders(small=small)
