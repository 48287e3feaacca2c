"""Tables of Wan 2.1's denoiser, under the names of diffusers and those of Wan and Self-Forcing."""

import re
from pathlib import Path

import numpy as np

from converters import wan_original
from converters.components import Found, Gathered
from converters.core import AS_IS, LINEAR, patch_kernel
from converters.sources import ConversionError, Source, read_json, scan


def squeeze(table: np.ndarray) -> np.ndarray:
    """A table without its leading axis, [1, n, D] -> [n, D]."""
    return table[0]


def _linear(pattern: str, target: str, layer: str = "") -> dict:
    return {
        pattern + r"\.weight": (f"{target}.kernel{layer}", LINEAR),
        pattern + r"\.bias": (f"{target}.bias{layer}", AS_IS),
    }


def _attention(module: str, prefix: str, out: str, ours: str) -> dict:
    """Of one attention, whose projections have a prefix and whose output a name."""
    source, target = rf"blocks\.(\d+)\.{module}", f"blocks.{ours}"
    rules = _linear(rf"{source}\.{out}", f"{target}.out", r"[\1]")
    for name in "qkv":
        rules |= _linear(rf"{source}\.{prefix}{name}", f"{target}.{name}", r"[\1]")
    norms = rf"{source}\.norm_([qk])\.weight"
    return rules | {norms: (rf"{target}.\2_norm.scale[\1]", AS_IS)}


_ENDS = {
    r"patch_embedding\.weight": ("latent_embed.kernel", patch_kernel),
    r"patch_embedding\.bias": ("latent_embed.bias", AS_IS),
}
_BLOCK, _LAYER = r"blocks\.(\d+)", r"[\1]"

RULES = {
    **_ENDS,
    **_linear(r"condition_embedder\.time_embedder\.linear_1", "time_embed.up"),
    **_linear(r"condition_embedder\.time_embedder\.linear_2", "time_embed.down"),
    **_linear(r"condition_embedder\.time_proj", "time_modulation"),
    **_linear(r"condition_embedder\.text_embedder\.linear_1", "text_embed.up"),
    **_linear(r"condition_embedder\.text_embedder\.linear_2", "text_embed.down"),
    r"scale_shift_table": ("modulation", squeeze),
    **_linear(r"proj_out", "out"),
    _BLOCK + r"\.scale_shift_table": ("blocks.modulation" + _LAYER, squeeze),
    _BLOCK + r"\.norm2\.weight": ("blocks.cross_norm.scale" + _LAYER, AS_IS),
    _BLOCK + r"\.norm2\.bias": ("blocks.cross_norm.bias" + _LAYER, AS_IS),
    **_linear(_BLOCK + r"\.ffn\.net\.0\.proj", "blocks.mlp.up", _LAYER),
    **_linear(_BLOCK + r"\.ffn\.net\.2", "blocks.mlp.down", _LAYER),
    **_attention("attn1", "to_", r"to_out\.0", "self_attention"),
    **_attention("attn2", "to_", r"to_out\.0", "cross_attention"),
}
# Wan's own names; Self-Forcing's dictionaries have them behind a prefix.
_ORIGINAL = {
    **_ENDS,
    **_linear(r"time_embedding\.0", "time_embed.up"),
    **_linear(r"time_embedding\.2", "time_embed.down"),
    **_linear(r"time_projection\.1", "time_modulation"),
    **_linear(r"text_embedding\.0", "text_embed.up"),
    **_linear(r"text_embedding\.2", "text_embed.down"),
    r"head\.modulation": ("modulation", squeeze),
    **_linear(r"head\.head", "out"),
    _BLOCK + r"\.modulation": ("blocks.modulation" + _LAYER, squeeze),
    _BLOCK + r"\.norm3\.weight": ("blocks.cross_norm.scale" + _LAYER, AS_IS),
    _BLOCK + r"\.norm3\.bias": ("blocks.cross_norm.bias" + _LAYER, AS_IS),
    **_linear(_BLOCK + r"\.ffn\.0", "blocks.mlp.up", _LAYER),
    **_linear(_BLOCK + r"\.ffn\.2", "blocks.mlp.down", _LAYER),
    **_attention("self_attn", "", "o", "self_attention"),
    **_attention("cross_attn", "", "o", "cross_attention"),
}
ORIGINAL_RULES = {rf"(?:model\.)?{pattern}": rule for pattern, rule in _ORIGINAL.items()}
# What a discriminator has that shares the denoiser's weights.
ORIGINAL_IGNORED = {
    r"(?:model\.)?_(?:cls_pred_branch|register_tokens|gan_ca_blocks)\..+": "of a discriminator"
}
PUBLISHED = "self_forcing_dmd.pt"
_WRAPPERS = re.compile(r"_(?:fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")


def unwrap(source: Source) -> Source:
    """A checkpoint without what wrappers of modules add to names."""
    tensors, faults = {}, list(source.faults)
    for name, tensor in source.tensors.items():
        plain = _WRAPPERS.sub("", name)
        if plain in tensors:
            faults.append(f"{name}: {plain} is there already")
        tensors[plain] = tensor
    return Source(tensors, faults)


def gather(source: Path, base: Path | None) -> Found:
    """A denoiser of Self-Forcing, and all else of the Wan2.1-T2V-1.3B that it was trained from.

    Args:
      source: a file of Self-Forcing's, whose weights are under `generator_ema` or `generator`; or a
        folder, or one with a folder `checkpoints`, of one such file or with `self_forcing_dmd.pt`.
      base: the folder of Wan2.1-T2V-1.3B, in Wan-AI's own layout or in that of diffusers.

    Raises:
      ConversionError: something is missing.
    """
    if base is None:
        raise ConversionError(
            f"{source} holds a denoiser alone: name the folder of Wan2.1-T2V-1.3B or "
            "Wan2.1-T2V-1.3B-Diffusers, which has the other parts, with --base"
        )
    weights = source
    if source.is_dir():
        folders = [source / "checkpoints", source]
        files = next(filter(None, (sorted(folder.glob("*.pt")) for folder in folders)), [])
        usual = [file for file in files if file.name == PUBLISHED]
        if len(usual or files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ConversionError(f"{source} has no {PUBLISHED}; name one file, of {names}")
        (weights,) = usual or files
    denoiser = unwrap(scan(weights))
    if wan_original.is_original(base):
        own = Gathered(None, denoiser, config=base / "config.json")
        return Found({"transformer": own, **wan_original.shared_parts(base)}, base)
    fields = read_json(base / "transformer" / "config.json")
    return Found({"transformer": Gathered(fields, denoiser)}, base)
