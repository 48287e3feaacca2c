r"""Tables of plain vision transformers: DINO, and UMT's classifier of actions.

Both store query, key and value as one matrix, which is split first.
"""

import re
from collections.abc import Mapping

import numpy as np

from converters.core import AS_IS, CONV2D, Rules
from converters.layers import linear, norm
from converters.towers import shape_of, split_rows, third

_LAYER = r"blocks\.(\d+)\."
_BLOCKS: Rules = {
    **norm(_LAYER + r"norm([12])", r"blocks.norm\2", r"[\1]"),
    **linear(_LAYER + r"attn\.([qkv])", r"blocks.attention.\2", r"[\1]"),
    **linear(_LAYER + r"attn\.proj", "blocks.attention.out", r"[\1]"),
    **linear(_LAYER + r"mlp\.(fc[12])", r"blocks.mlp.\2", r"[\1]"),
    r"pos_embed": ("position", lambda table: table[0]),
    r"patch_embed\.proj\.bias": ("patch_bias", AS_IS),
}

DINO_RULES = {
    **_BLOCKS,
    r"cls_token": ("class_token", lambda token: token[0, 0]),
    r"patch_embed\.proj\.weight": ("patch", CONV2D),
    **norm(r"norm", "norm"),
}


def split_fused(tensors: Mapping) -> dict:
    """Replaces `attn.qkv.{weight,bias}` by `attn.{q,k,v}.{weight,bias}`."""
    pattern = r"(blocks\.\d+\.attn)\.qkv\.(weight|bias)"
    return split_rows(tensors, pattern, r"\1.{part}.\2", third)


UMT_RULES = {
    **_BLOCKS,
    r"patch_embed\.proj\.weight": ("patch", lambda kernel: CONV2D(kernel.squeeze(2))),
    **norm(r"fc_norm", "norm"),
    **linear(r"head", "head"),
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
