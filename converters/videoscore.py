r"""Table of TIGER-Lab/VideoScore, a Mantis-Idefics2 with a linear layer at its end."""

from converters.core import AS_IS, LINEAR
from converters.decoder import IGNORED, decoder_rules
from converters.towers import siglip_rules

_CONNECTOR = r"model\.connector\."
_LAYER = _CONNECTOR + r"perceiver_resampler\.layers\.(\d+)\."
_PERCEIVER = _CONNECTOR + r"perceiver_resampler\."

RULES = {
    **siglip_rules(r"model\.vision_model\.", "vision."),
    _CONNECTOR + r"modality_projection\.(gate|up|down)_proj\.weight": (
        r"projection.\1.kernel",
        LINEAR,
    ),
    _PERCEIVER + r"latents": ("perceiver.latents", AS_IS),
    _PERCEIVER + r"norm\.weight": ("perceiver.norm.scale", AS_IS),
    _LAYER + r"input_(latents|context)_norm\.weight": (
        r"perceiver.blocks.norm_\2.scale[\1]",
        AS_IS,
    ),
    _LAYER + r"post_attention_layernorm\.weight": (r"perceiver.blocks.norm.scale[\1]", AS_IS),
    _LAYER + r"self_attn\.([qkv])_proj\.weight": (r"perceiver.blocks.\2.kernel[\1]", LINEAR),
    _LAYER + r"self_attn\.o_proj\.weight": (r"perceiver.blocks.out.kernel[\1]", LINEAR),
    _LAYER + r"mlp\.(gate|up|down)_proj\.weight": (
        r"perceiver.blocks.mlp.\2.kernel[\1]",
        LINEAR,
    ),
    **decoder_rules(r"model\.text_model\.", "decoder.", head=False),
    r"score\.weight": ("score.kernel", LINEAR),
    r"score\.bias": ("score.bias", AS_IS),
}
__all__ = ["IGNORED", "RULES"]
