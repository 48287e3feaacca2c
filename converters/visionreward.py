r"""Table of VisionReward, which is CogVLM2-Video, and of the CogVLM2 image model."""

import re
from collections.abc import Mapping

import numpy as np

from converters.core import AS_IS, CONV2D, LINEAR
from converters.decoder import IGNORED
from converters.layers import linear, norm
from converters.towers import split_rows, third

_VISION = r"model\.vision\."
_BLOCK = _VISION + r"transformer\.layers\.(\d+)\."
_LAYER = r"model\.layers\.(\d+)\."
_EXPERT = r"(language|vision)_expert_query_key_value\.(weight|bias)"

_PATCHES = _VISION + r"patch_embedding\."
_ADAPTER = _VISION + r"linear_proj\."


def first(tensor: np.ndarray) -> np.ndarray:
    """A row without the axes of length one before it."""
    return tensor.reshape(tensor.shape[-1])


RULES = {
    _PATCHES + r"proj\.weight": ("vision.patch", CONV2D),
    _PATCHES + r"proj\.bias": ("vision.patch_bias", AS_IS),
    _PATCHES + r"cls_embedding": ("vision.class_row", first),
    _PATCHES + r"position_embedding\.weight": ("vision.position", AS_IS),
    **linear(_BLOCK + r"attention\.([qkv])", r"vision.blocks.attention.\2", r"[\1]"),
    **linear(_BLOCK + r"attention\.dense", "vision.blocks.attention.out", r"[\1]"),
    **norm(_BLOCK + r"input_layernorm", "vision.blocks.norm1", r"[\1]"),
    **norm(_BLOCK + r"post_attention_layernorm", "vision.blocks.norm2", r"[\1]"),
    **linear(_BLOCK + r"mlp\.(fc[12])", r"vision.blocks.mlp.\2", r"[\1]"),
    _VISION + r"conv\.weight": ("vision.join", CONV2D),
    _VISION + r"conv\.bias": ("vision.join_bias", AS_IS),
    _ADAPTER + r"linear_proj\.weight": ("vision.linear.kernel", LINEAR),
    **norm(_ADAPTER + r"norm1", "vision.norm"),
    _ADAPTER + r"gate_proj\.weight": ("vision.adapter.gate.kernel", LINEAR),
    _ADAPTER + r"dense_h_to_4h\.weight": ("vision.adapter.up.kernel", LINEAR),
    _ADAPTER + r"dense_4h_to_h\.weight": ("vision.adapter.down.kernel", LINEAR),
    _VISION + r"boi": ("vision.begin", first),
    _VISION + r"eoi": ("vision.end", first),
    r"model\.embed_tokens\.weight": ("decoder.token.embedding", AS_IS),
    r"model\.norm\.weight": ("decoder.norm.scale", AS_IS),
    r"lm_head\.weight": ("decoder.head.kernel", LINEAR),
    _LAYER + r"input_layernorm\.weight": (r"decoder.blocks.norm1.scale[\1]", AS_IS),
    _LAYER + r"post_attention_layernorm\.weight": (r"decoder.blocks.norm2.scale[\1]", AS_IS),
}
for _stored, _ours in (("language", "text"), ("vision", "vision")):
    _EXPERTS, _TARGET = _LAYER + rf"self_attn\.{_stored}_expert_", f"decoder.blocks.{_ours}"
    RULES |= {
        **linear(_EXPERTS + "([qkv])", _TARGET + r".\2", r"[\1]"),
        _EXPERTS + r"dense\.weight": (_TARGET + r".out.kernel[\1]", LINEAR),
        _LAYER + rf"mlp\.{_stored}_mlp\.(gate|up|down)_proj\.weight": (
            _TARGET + r".mlp.\2.kernel[\1]",
            LINEAR,
        ),
    }
__all__ = ["IGNORED", "RULES", "prepare"]


def _queries(tensors: Mapping, name: str) -> int | None:
    """Rows of the queries, which are as many as the columns of the matrix after attention."""
    dense = re.sub(r"query_key_value\.(weight|bias)", "dense.weight", name)
    shape = getattr(tensors.get(dense), "shape", tensors.get(dense))
    return None if shape is None else shape[1]


def prepare(tensors: Mapping) -> dict:
    """Splits fused queries, keys and values of the tower and of the language model."""
    tower = _BLOCK + r"attention\.query_key_value\.(weight|bias)"
    template = r"model.vision.transformer.layers.\1.attention.{part}.\2"
    tensors = split_rows(tensors, tower, template, third)
    template = r"model.layers.\1.self_attn.\2_expert_{part}.\3"
    return split_rows(tensors, _LAYER + r"self_attn\." + _EXPERT, template, _queries)
