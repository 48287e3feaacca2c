r"""Table of LLaVA-OneVision-Qwen2 and its fine-tunes, under the original names."""

from converters.core import AS_IS
from converters.decoder import IGNORED as DECODER_IGNORED
from converters.decoder import decoder_rules
from converters.towers import siglip_rules, two_layers

_TOWER = r"model\.vision_tower\.vision_tower\.vision_model\."

RULES = {
    **siglip_rules(_TOWER, "vision.", norm=False),
    **two_layers(r"model\.mm_projector\.", "projector"),
    r"model\.image_newline": ("newline", AS_IS),
    **decoder_rules(target="decoder."),
}
IGNORED = {
    **DECODER_IGNORED,
    _TOWER + r"post_layernorm\.(weight|bias)": "the tower is read before it",
}
