r"""Tables of CLIP, whole or its text tower alone, and of OpenGVLab's ViCLIP.

CLIP is read under the names of the transformers package, or under those of its first publication.
These, and ViCLIP's, store query, key and value as one matrix: give such tensors through
`split_fused` first.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from converters.core import AS_IS, CONV2D, CONV3D, LINEAR, Rules, Transform
from converters.layers import linear, norm


def blocks(source: str, target: str) -> Rules:
    """Table of a tower's blocks; `source` is a pattern, `target` our prefix."""
    layer = source + r"encoder\.layers\.(\d+)"
    return {
        **linear(layer + r"\.self_attn\.([qkv])_proj", rf"{target}blocks.attention.\2", r"[\1]"),
        **linear(layer + r"\.self_attn\.out_proj", f"{target}blocks.attention.out", r"[\1]"),
        **linear(layer + r"\.mlp\.(fc[12])", rf"{target}blocks.mlp.\2", r"[\1]"),
        **norm(layer + r"\.layer_norm([12])", rf"{target}blocks.norm\2", r"[\1]"),
    }


def _text(source: str, target: str) -> Rules:
    """Table of a text tower and its projection; `source` is a pattern, `target` our prefix."""
    return {
        r"text_projection\.weight": (f"{target}projection.kernel", LINEAR),
        source + r"embeddings\.token_embedding\.weight": (f"{target}token.embedding", AS_IS),
        source + r"embeddings\.position_embedding\.weight": (f"{target}position", AS_IS),
        **blocks(source, target),
        **norm(source + r"final_layer_norm", f"{target}norm"),
    }


_TEXT = r"(?:text_model\.)?"  # transformers writes the prefix or not, as its version wants

CLIP_TEXT_RULES = _text(_TEXT, "")
CLIP_TEXT_IGNORED = {_TEXT + r"embeddings\.position_ids": "recomputed"}

CLIP_RULES = {
    r"logit_scale": ("logit_scale", AS_IS),
    r"visual_projection\.weight": ("vision.projection.kernel", LINEAR),
    **_text(r"text_model\.", "text."),
    r"vision_model\.embeddings\.position_embedding\.weight": ("vision.position", AS_IS),
    r"vision_model\.embeddings\.class_embedding": ("vision.class_token", AS_IS),
    r"vision_model\.embeddings\.patch_embedding\.weight": ("vision.patch", CONV2D),
    **blocks(r"vision_model\.", "vision."),
    **norm(r"vision_model\.pre_layrnorm", "vision.norm_in"),
    **norm(r"vision_model\.post_layernorm", "vision.norm_out"),
}

CLIP_IGNORED = {
    r"(vision|text)_model\.embeddings\.position_ids": "recomputed",
    r"laion_(linear|mlp)\..*": "heads on the image embedding, which are models of their own",
}


def log_inverse(temperature: np.ndarray) -> np.ndarray:
    """A temperature as the logarithm of the scale that CLIP stores."""
    with np.errstate(divide="ignore"):
        return -np.log(temperature)


def _resblocks(source: str, target: str) -> Rules:
    """Table of a tower's blocks as the first CLIP names them, fused projections split."""
    layer = source + r"transformer\.resblocks\.(\d+)"
    return {
        **linear(layer + r"\.attn\.([qkv])_proj", rf"{target}blocks.attention.\2", r"[\1]"),
        **linear(layer + r"\.attn\.out_proj", f"{target}blocks.attention.out", r"[\1]"),
        **linear(layer + r"\.mlp\.c_fc", f"{target}blocks.mlp.fc1", r"[\1]"),
        **linear(layer + r"\.mlp\.c_proj", f"{target}blocks.mlp.fc2", r"[\1]"),
        **norm(layer + r"\.ln_([12])", rf"{target}blocks.norm\2", r"[\1]"),
    }


def _first_clip(vision: str, text: str, kernel: Transform) -> Rules:
    """Table of both towers as the first CLIP names them; `vision` and `text` are patterns."""
    return {
        vision + r"class_embedding": ("vision.class_token", AS_IS),
        vision + r"conv1\.weight": ("vision.patch", kernel),
        vision + r"positional_embedding": ("vision.position", AS_IS),
        vision + r"proj": ("vision.projection.kernel", AS_IS),
        **norm(vision + r"ln_pre", "vision.norm_in"),
        **norm(vision + r"ln_post", "vision.norm_out"),
        **_resblocks(vision, "vision."),
        text + r"positional_embedding": ("text.position", AS_IS),
        text + r"text_projection": ("text.projection.kernel", AS_IS),
        text + r"token_embedding\.weight": ("text.token.embedding", AS_IS),
        **norm(text + r"ln_final", "text.norm"),
        **_resblocks(text, "text."),
    }


OPENAI_CLIP_RULES = {
    r"logit_scale": ("logit_scale", AS_IS),
    **_first_clip(r"visual\.", "", CONV2D),
}
OPENAI_CLIP_IGNORED = {r"input_resolution|context_length|vocab_size": "a size, not a weight"}

VICLIP_RULES = {
    r"temp": ("logit_scale", log_inverse),
    r"vision_encoder\.temporal_positional_embedding": ("vision.time", lambda table: table[0]),
    **_first_clip(r"vision_encoder\.", r"text_encoder\.", CONV3D),
}


@dataclasses.dataclass(frozen=True)
class Third:
    """One of three equal parts of a stored tensor's first axis, read when asked for."""

    whole: object
    index: int

    @property
    def shape(self) -> tuple[int, ...] | None:
        if self.whole.shape is None:  # its file cannot be read
            return None
        rows, *rest = self.whole.shape
        return (rows // 3, *rest)

    @property
    def dtype(self):
        return self.whole.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        part = np.split(np.asarray(self.whole), 3)[self.index]
        return part if dtype is None else part.astype(dtype)


def split_fused(tensors: Mapping) -> dict:
    """Replaces `in_proj_{weight,bias}` by `{q,k,v}_proj.{weight,bias}`, if it has three parts.

    Args:
      tensors: published names to arrays or stored tensors.
    """
    result = {}
    for name, tensor in tensors.items():
        fused = re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name)
        if fused and (tensor.shape is None or (tensor.shape and tensor.shape[0] % 3 == 0)):
            for index, part in enumerate("qkv"):
                result[f"{fused[1]}{part}_proj.{fused[2]}"] = Third(tensor, index)
        else:
            result[name] = tensor
    return result
