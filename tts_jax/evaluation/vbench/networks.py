"""Converted checkpoints as the networks that VBench's dimensions call.

B frames or clips  T frames of a clip  S side of the input  D width of an embedding.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from flax import nnx

from tts_jax.checkpoints import abstract_params, load_parts
from tts_jax.evaluation.vbench.dimensions import Network
from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.viclip import ViCLIPConfig
from tts_jax.vision.amt import AMT, AMTConfig
from tts_jax.vision.dino import DINO, DINOConfig
from tts_jax.vision.musiq import MUSIQ, MUSIQConfig
from tts_jax.vision.raft import RAFT, RAFTConfig
from tts_jax.vision.umt import UMT, UMTConfig
from tts_jax.vision.vit import VisionConfig

# What a dimension's name stands for; another network's score would not be that dimension's.
PUBLISHED = {
    "aesthetic": VisionConfig.clip_vit_large_patch14(),
    "amt": AMTConfig.amt_s(),
    "clip_b32": VisionConfig.clip_vit_base_patch32(),
    "dino": DINOConfig.dino_vitb16(),
    "musiq": MUSIQConfig.musiq_spaq(),
    "raft": RAFTConfig.raft_things(),
    "umt": UMTConfig.umt_l16_k400(),
    "viclip": ViCLIPConfig.viclip_l14().vision,
}


ALONE = {  # the part of a folder that holds nothing else, and its module
    "amt": ("amt_s", AMT),
    "dino": ("dino_vitb16", DINO),
    "musiq": ("musiq_spaq", MUSIQ),
    "raft": ("raft_things", RAFT),
    "umt": ("umt_l16_k400", UMT),
}
FLOW_PIXELS = 1 << 18  # of a frame in one call, whose correlations grow with the square of it


def _published(name: str, folder: Path, found: VisionConfig) -> VisionConfig:
    if found != PUBLISHED[name]:
        raise ValueError(
            f"{folder} holds another network than the {name} of VBench, whose scores would not be "
            "VBench's"
        )
    return found


def _clip(folder: Path) -> dict[str, Network]:
    """A folder with a CLIP of two towers."""
    return _towers("clip", "clip_b32", folder)


def _viclip(folder: Path) -> dict[str, Network]:
    """A folder with ViCLIP."""
    return _towers("viclip", "viclip", folder)


def _towers(verifier_name: str, name: str, folder: Path) -> dict[str, Network]:
    verifier, params = load_verifier(verifier_name, folder)
    vision = _published(name, folder, verifier.config.vision)
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
    vision = _published("aesthetic", folder, verifier.config.vision)
    return {"aesthetic": Network(lambda x: predict(params, x), vision.size)}


def _alone(name: str, folder: Path, **settings) -> dict[str, Network]:
    """A network of the published size from a folder that has it alone."""
    part, model = ALONE[name]
    graph, like = abstract_params(model, PUBLISHED[name])
    params = load_parts(folder, {part: like})[part]
    run = jax.jit(lambda params, *arrays: nnx.merge(graph, params)(*arrays))
    return {name: Network(lambda *arrays: run(params, *arrays), **settings)}


def _amt(folder: Path) -> dict[str, Network]:
    """A folder with AMT-S."""
    return _alone("amt", folder, pixels=FLOW_PIXELS)


def _dino(folder: Path) -> dict[str, Network]:
    """A folder with DINO."""
    return _alone("dino", folder, size=PUBLISHED["dino"].size)


def _musiq(folder: Path) -> dict[str, Network]:
    """A folder with MUSIQ."""
    return _alone("musiq", folder, at_once=4)


def _raft(folder: Path) -> dict[str, Network]:
    """A folder with RAFT."""
    return _alone("raft", folder, pixels=FLOW_PIXELS)


def _umt(folder: Path) -> dict[str, Network]:
    """A folder with UMT, and the names of its classes as a list in `labels.json`."""
    path = folder / "labels.json"
    try:
        labels = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the names of UMT's classes in {path} cannot be read: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path} must be a list of names")
    config = PUBLISHED["umt"]
    if len(labels) != config.classes:
        raise ValueError(f"{path} has {len(labels)} names for {config.classes} classes")
    return _alone("umt", folder, size=config.size, at_once=1, labels=tuple(labels))


LOADERS: dict[str, Callable[[Path], dict[str, Network]]] = {
    "aesthetic": _aesthetic,
    "amt": _amt,
    "clip_b32": _clip,
    "dino": _dino,
    "musiq": _musiq,
    "raft": _raft,
    "umt": _umt,
    "viclip": _viclip,
}


def load_networks(folders: Mapping[str, Path | str]) -> dict[str, Network]:
    """Networks for dimensions.

    Args:
      folders: name in `LOADERS` to a folder that `converters.convert` or a training program wrote.

    Returns:
      By the names in `tts_jax.evaluation.vbench.dimensions.NETWORKS`.

    Raises:
      ValueError: an unknown name, or another network than the one VBench uses.
      CheckpointError: the folder does not hold the network.
    """
    networks = {}
    for name, folder in folders.items():
        if name not in LOADERS:
            raise ValueError(f"no network {name!r} can be loaded; there are {', '.join(LOADERS)}")
        networks |= LOADERS[name](Path(folder))
    return networks
