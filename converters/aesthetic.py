r"""Tables of LAION's aesthetic predictors: CLIP's image tower by itself, and a head.

Of the head with several layers, those between which the original drops values out have no weights,
so that its layers are numbered 0, 2, 4, 6, 7.
"""

import re
from collections.abc import Mapping

from converters.clip import CLIP_RULES
from converters.core import AS_IS, LINEAR

TOWER_RULES = {
    source: (target.removeprefix("vision."), transform)
    for source, (target, transform) in CLIP_RULES.items()
    if target.startswith("vision.")
}
TOWER_IGNORED = {
    r"text_(model|projection)\..*": "the prompt does not matter",
    r"logit_scale": "the prompt does not matter",
    r"vision_model\.embeddings\.position_ids": "recomputed",
    r"laion_(linear|mlp)\..*": "heads, which are components of their own",
}
HEAD_RULES = {
    r"(\d+)\.weight": (r"layers.\1.kernel", LINEAR),
    r"(\d+)\.bias": (r"layers.\1.bias", AS_IS),
}
_STORED = r"(?:layers\.(\d+)\.)?(weight|bias)"


def prepare(tensors: Mapping) -> dict:
    """Numbers the layers of a head one after the other."""
    found = {name: re.fullmatch(_STORED, name) for name in tensors}
    places = sorted({int(m[1] or 0) for m in found.values() if m})
    return {
        f"{places.index(int(m[1] or 0))}.{m[2]}" if (m := found[name]) else name: tensor
        for name, tensor in tensors.items()
    }
