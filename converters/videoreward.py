r"""Table of VideoReward (VideoAlign), and how its adapter is merged into Qwen2-VL.

The published checkpoint is Qwen2-VL-2B-Instruct, low-rank updates of its language model, and all
tensors that were trained whole: the vision part, the reward's layer and a cut table of tokens.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters.components import Found, Gathered
from converters.core import CONV3D, LINEAR
from converters.decoder import decoder_rules
from converters.layers import linear, norm
from converters.sources import ConversionError, Source, read_json, scan
from converters.towers import shape_of, split_rows, third, two_layers
from tts_jax.verifiers.videoreward import NAMES

_BLOCK = r"visual\.blocks\.(\d+)\."
_QKV = _BLOCK + r"attn\.qkv\.(weight|bias)"
_ADDED = "base_model.model."

RULES = {
    r"visual\.patch_embed\.proj\.weight": ("vision.patch", CONV3D),
    **norm(_BLOCK + r"norm([12])", r"vision.blocks.norm\2", r"[\1]"),
    **linear(_BLOCK + r"attn\.([qkv])", r"vision.blocks.attention.\2", r"[\1]"),
    **linear(_BLOCK + r"attn\.proj", "vision.blocks.attention.out", r"[\1]"),
    **linear(_BLOCK + r"mlp\.(fc[12])", r"vision.blocks.mlp.\2", r"[\1]"),
    **norm(r"visual\.merger\.ln_q", "vision.norm"),
    **two_layers(r"visual\.merger\.mlp\.", "vision.merger"),
    **decoder_rules(target="decoder.", head=False),
    r"rm_head\.weight": ("reward.kernel", LINEAR),
}
IGNORED = {r"lm_head\.weight": "the token embeddings once more, and no logits are asked for"}


@dataclasses.dataclass(frozen=True)
class Merged:
    """A stored matrix and a low-rank update of it, read when asked for."""

    base: object
    down: object
    up: object
    alpha: float

    @property
    def shape(self) -> tuple[int, ...] | None:
        return shape_of(self.base)

    @property
    def dtype(self):
        return getattr(self.base, "dtype", np.dtype(np.float32))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        base, down, up = (np.asarray(t).astype(np.float32) for t in (self.base, self.down, self.up))
        merged = base + self.alpha / down.shape[0] * (up @ down)
        return merged.astype(dtype or self.dtype)


def merge_adapter(tensors: Mapping, alpha: float = 128.0) -> dict:
    """The tensors of the judge itself.

    Args:
      tensors: of the base model and, under the prefix `base_model.model.`, those of the adapter and
        those that replace the base's; or of the judge, merged already.
      alpha: of the low-rank updates, which are scaled by alpha over their rank.

    Raises:
      ValueError: half of an update is missing, or it updates nothing.
    """
    result = {name: tensor for name, tensor in tensors.items() if not name.startswith(_ADDED)}
    updates: dict[str, dict] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_ADDED):
            continue
        name = name.removeprefix(_ADDED).replace(".base_layer.", ".")
        if found := re.fullmatch(r"(.+)\.lora_([AB])\.(?:default\.)?weight", name):
            updates.setdefault(f"{found[1]}.weight", {})[found[2]] = tensor
        else:
            result[name] = tensor
    for name, halves in updates.items():
        if name not in result or set(halves) != {"A", "B"}:
            raise ValueError(f"the low-rank update of {name} is not whole")
        result[name] = Merged(result[name], halves["A"], halves["B"], alpha)
    return result


def gather(folder: Path, base: Path | None) -> Found | None:
    """KwaiVGI/VideoReward, and the Qwen2-VL-2B-Instruct that it adapts, as one checkpoint.

    Args:
      folder: holds `model_config.json` and `checkpoint-N`, of which the last is taken, or is such a
        folder: `adapter_model.safetensors` and `non_lora_state_dict.pth`, or all in `model.pth`.
      base: the folder of Qwen2-VL-2B-Instruct.

    Returns:
      None without an adapter: for the folder or the weights of a merged model.

    Raises:
      ConversionError: something is missing, or does not fit together.
    """
    steps = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    place = max(steps, key=lambda p: int(p.name.partition("-")[2]), default=folder)
    files = [place / "model.pth"]
    if not files[0].is_file():
        files = [place / "adapter_model.safetensors"]
        if not files[0].is_file():
            return None
        files += sorted(place.glob("non_lora_state_dict.*"))[:1]
    if base is None:
        raise ConversionError(
            f"{place} holds an adapter: name the folder of Qwen2-VL-2B-Instruct, which it adapts, "
            "with --base"
        )
    settings = _settings(place, folder)
    fields = read_json(base / "config.json")
    tensors, faults = {}, []
    for path in [base, *files]:
        source = scan(path)
        tensors |= source.tensors
        faults += source.faults
    try:
        tensors = merge_adapter(tensors, settings["alpha"])
    except ValueError as error:
        faults.append(f"{place}: {error}")
    table = shape_of(tensors.get("model.embed_tokens.weight"))
    if table is not None:
        fields["vocab_size"] = table[0]
    if settings["scale"]:
        fields["normalisation"] = settings["scale"]
    found = Gathered(fields, Source(tensors, faults), (place, folder, base))
    return Found({"videoreward": found}, folder)


def _settings(place: Path, folder: Path) -> dict:
    """The scale of low-rank updates, and means and deviations of the rewards if they are there."""
    alpha, scale = 128.0, {}
    for path in (folder / "model_config.json", place / "adapter_config.json"):
        if not path.is_file():
            continue
        fields = read_json(path)
        alpha = fields.get("peft_lora_config", fields).get("lora_alpha", alpha)
        given = fields.get("inference_config") or {}
        if all(f"{name}_{kind}" in given for name in NAMES for kind in ("mean", "std")):
            scale = {n: {k: given[f"{n}_{k}"] for k in ("mean", "std")} for n in NAMES}
    return {"alpha": float(alpha), "scale": scale}


def prepare(tensors: Mapping, alpha: float = 128.0) -> dict:
    """`merge_adapter`, then fused queries, keys and values of the tower split."""
    merged = merge_adapter(tensors, alpha)
    return split_rows(merged, _QKV, r"visual.blocks.\1.attn.{part}.\2", third)
