r"""Tables of plain vision transformers: DINO, and UMT's classifier of actions.

Both store query, key and value as one matrix, which is split first.
"""

import re
from collections.abc import Mapping

import numpy as np

from converters.core import AS_IS, CONV2D, LINEAR, Rules
from converters.towers import shape_of, split_rows, third

_LAYER = r"blocks\.(\d+)\."
_BLOCKS: Rules = {
    _LAYER + r"norm([12])\.weight": (r"blocks.norm\2.scale[\1]", AS_IS),
    _LAYER + r"norm([12])\.bias": (r"blocks.norm\2.bias[\1]", AS_IS),
    _LAYER + r"attn\.([qkv])\.weight": (r"blocks.attention.\2.kernel[\1]", LINEAR),
    _LAYER + r"attn\.([qkv])\.bias": (r"blocks.attention.\2.bias[\1]", AS_IS),
    _LAYER + r"attn\.proj\.weight": (r"blocks.attention.out.kernel[\1]", LINEAR),
    _LAYER + r"attn\.proj\.bias": (r"blocks.attention.out.bias[\1]", AS_IS),
    _LAYER + r"mlp\.(fc[12])\.weight": (r"blocks.mlp.\2.kernel[\1]", LINEAR),
    _LAYER + r"mlp\.(fc[12])\.bias": (r"blocks.mlp.\2.bias[\1]", AS_IS),
    r"pos_embed": ("position", lambda table: table[0]),
    r"patch_embed\.proj\.bias": ("patch_bias", AS_IS),
}

DINO_RULES = {
    **_BLOCKS,
    r"cls_token": ("class_token", lambda token: token[0, 0]),
    r"patch_embed\.proj\.weight": ("patch", CONV2D),
    r"norm\.weight": ("norm.scale", AS_IS),
    r"norm\.bias": ("norm.bias", AS_IS),
}


def split_fused(tensors: Mapping) -> dict:
    """Replaces `attn.qkv.{weight,bias}` by `attn.{q,k,v}.{weight,bias}`."""
    pattern = r"(blocks\.\d+\.attn)\.qkv\.(weight|bias)"
    return split_rows(tensors, pattern, r"\1.{part}.\2", third)


UMT_RULES = {
    **_BLOCKS,
    r"patch_embed\.proj\.weight": ("patch", lambda kernel: CONV2D(kernel.squeeze(2))),
    r"fc_norm\.weight": ("norm.scale", AS_IS),
    r"fc_norm\.bias": ("norm.bias", AS_IS),
    r"head\.weight": ("head.kernel", LINEAR),
    r"head\.bias": ("head.bias", AS_IS),
}


def prepare_umt(tensors: Mapping) -> dict:
    """Splits fused weights, names biases alike, and adds those of keys, which are zeros."""
    result = {}
    for name, tensor in split_fused(tensors).items():
        found = re.fullmatch(r"(blocks\.\d+\.attn)\.([qv])_bias", name)
        result[f"{found[1]}.{found[2]}.bias" if found else name] = tensor
        if found and found[2] == "q" and (shape := shape_of(tensor)) is not None:
            result[f"{found[1]}.k.bias"] = np.zeros(shape, np.float32)
    return result
