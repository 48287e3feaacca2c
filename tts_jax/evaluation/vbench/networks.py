"""Converted checkpoints as the networks that VBench's dimensions call.

B frames or clips  T frames of a clip  S side of the input  D width of an embedding.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from flax import nnx

from tts_jax.evaluation.vbench.dimensions import Network
from tts_jax.verifiers import load_verifier


def _clip(folder: Path) -> dict[str, Network]:
    """A folder with a CLIP of two towers."""
    return _towers("clip", "clip_b32", folder)


def _viclip(folder: Path) -> dict[str, Network]:
    """A folder with a ViCLIP of eight frames."""
    return _towers("viclip", "viclip", folder)


def _towers(verifier_name: str, name: str, folder: Path) -> dict[str, Network]:
    verifier, params = load_verifier(verifier_name, folder)
    vision = verifier.config.vision
    if (vision.frames or 8) != 8:
        raise ValueError(f"{folder}: ViCLIP of {vision.frames} frames, but VBench samples 8")
    embed = jax.jit(lambda params, x: nnx.merge(verifier.graph, params).vision.embed(x))
    at_once = 16 if vision.frames is None else 1
    return {
        name: Network(lambda x: embed(params, x), vision.size, at_once),
        f"{name}_text": Network(lambda texts: verifier.prepare(params, list(map(str, texts)))),
    }


def _aesthetic(folder: Path) -> dict[str, Network]:
    """A folder with CLIP ViT-L/14 and LAION's head."""
    verifier, params = load_verifier("aesthetic", folder)
    predict = jax.jit(lambda params, x: nnx.merge(verifier.graph, params)(x))
    size = verifier.config.vision.size
    return {"aesthetic": Network(lambda x: predict(params, x), size)}


LOADERS: dict[str, Callable[[Path], dict[str, Network]]] = {
    "aesthetic": _aesthetic,
    "clip_b32": _clip,
    "viclip": _viclip,
}


def load_networks(folders: Mapping[str, Path | str]) -> dict[str, Network]:
    """Networks for dimensions.

    Args:
      folders: name in `LOADERS` to a folder that `converters.convert` or a training program wrote.

    Returns:
      By the names in `tts_jax.evaluation.vbench.dimensions.NETWORKS`.

    Raises:
      ValueError: an unknown name, or a network of another kind.
      CheckpointError: the folder does not hold the network.
    """
    networks = {}
    for name, folder in folders.items():
        if name not in LOADERS:
            raise ValueError(f"no network {name!r} can be loaded; there are {', '.join(LOADERS)}")
        networks |= LOADERS[name](Path(folder))
    return networks
