"""Tables of THUDM/CogVideoX-2b and THUDM/CogVideoX-5b, under the names of the diffusers package."""

import numpy as np

from converters.core import AS_IS, CONV2D, CONV3D, LINEAR


def patch_kernel(weight: np.ndarray) -> np.ndarray:
    """A convolution of patches as a linear layer, [D, C, p, p] -> [C*p*p, D]."""
    return weight.reshape(weight.shape[0], -1).T


_BLOCK = r"transformer_blocks\.(\d+)"
_NORM = _BLOCK + r"\.(norm[12])"

TRANSFORMER_RULES = {
    r"patch_embed\.proj\.weight": ("latent_embed.kernel", patch_kernel),
    r"patch_embed\.proj\.bias": ("latent_embed.bias", AS_IS),
    r"patch_embed\.text_proj\.weight": ("text_embed.kernel", LINEAR),
    r"patch_embed\.text_proj\.bias": ("text_embed.bias", AS_IS),
    r"time_embedding\.linear_1\.weight": ("time_embed.up.kernel", LINEAR),
    r"time_embedding\.linear_1\.bias": ("time_embed.up.bias", AS_IS),
    r"time_embedding\.linear_2\.weight": ("time_embed.down.kernel", LINEAR),
    r"time_embedding\.linear_2\.bias": ("time_embed.down.bias", AS_IS),
    r"norm_final\.weight": ("norm_final.scale", AS_IS),
    r"norm_final\.bias": ("norm_final.bias", AS_IS),
    r"norm_out\.linear\.weight": ("norm_out.linear.kernel", LINEAR),
    r"norm_out\.linear\.bias": ("norm_out.linear.bias", AS_IS),
    r"norm_out\.norm\.weight": ("norm_out.norm.scale", AS_IS),
    r"norm_out\.norm\.bias": ("norm_out.norm.bias", AS_IS),
    r"proj_out\.weight": ("out.kernel", LINEAR),
    r"proj_out\.bias": ("out.bias", AS_IS),
    # blocks
    _NORM + r"\.linear\.weight": (r"blocks.\2.linear.kernel[\1]", LINEAR),
    _NORM + r"\.linear\.bias": (r"blocks.\2.linear.bias[\1]", AS_IS),
    _NORM + r"\.norm\.weight": (r"blocks.\2.norm.scale[\1]", AS_IS),
    _NORM + r"\.norm\.bias": (r"blocks.\2.norm.bias[\1]", AS_IS),
    _BLOCK + r"\.attn1\.norm_([qk])\.weight": (r"blocks.attention.\2_norm.scale[\1]", AS_IS),
    _BLOCK + r"\.attn1\.norm_([qk])\.bias": (r"blocks.attention.\2_norm.bias[\1]", AS_IS),
    _BLOCK + r"\.attn1\.to_([qkv])\.weight": (r"blocks.attention.\2.kernel[\1]", LINEAR),
    _BLOCK + r"\.attn1\.to_([qkv])\.bias": (r"blocks.attention.\2.bias[\1]", AS_IS),
    _BLOCK + r"\.attn1\.to_out\.0\.weight": (r"blocks.attention.out.kernel[\1]", LINEAR),
    _BLOCK + r"\.attn1\.to_out\.0\.bias": (r"blocks.attention.out.bias[\1]", AS_IS),
    _BLOCK + r"\.ff\.net\.0\.proj\.weight": (r"blocks.mlp.up.kernel[\1]", LINEAR),
    _BLOCK + r"\.ff\.net\.0\.proj\.bias": (r"blocks.mlp.up.bias[\1]", AS_IS),
    _BLOCK + r"\.ff\.net\.2\.weight": (r"blocks.mlp.down.kernel[\1]", LINEAR),
    _BLOCK + r"\.ff\.net\.2\.bias": (r"blocks.mlp.down.bias[\1]", AS_IS),
}

_HALF = r"(encoder|decoder)"
_ENDS = _HALF + r"\.conv_(in|out)\.conv"
_DOWN = r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv"
_UP = r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv"


def _norm_rules(pattern: str, target: str) -> dict:
    """Of a plain group norm, and of one whose scale and bias are linear in the latents."""
    return {
        pattern + r"\.weight": (f"{target}.scale", AS_IS),
        pattern + r"\.bias": (f"{target}.bias", AS_IS),
        pattern + r"\.norm_layer\.weight": (f"{target}.norm.scale", AS_IS),
        pattern + r"\.norm_layer\.bias": (f"{target}.norm.bias", AS_IS),
        pattern + r"\.conv_y\.conv\.weight": (f"{target}.scale.kernel", CONV3D),
        pattern + r"\.conv_y\.conv\.bias": (f"{target}.scale.bias", AS_IS),
        pattern + r"\.conv_b\.conv\.weight": (f"{target}.shift.kernel", CONV3D),
        pattern + r"\.conv_b\.conv\.bias": (f"{target}.shift.bias", AS_IS),
    }


def _resnet_rules(pattern: str, target: str, layer: str) -> dict:
    """Of a residual block; `layer` refers to the digit behind its norms and convolutions."""
    return {
        **_norm_rules(pattern + r"\.norm([12])", f"{target}.norm{layer}"),
        pattern + r"\.conv([12])\.conv\.weight": (f"{target}.conv{layer}.kernel", CONV3D),
        pattern + r"\.conv([12])\.conv\.bias": (f"{target}.conv{layer}.bias", AS_IS),
        pattern + r"\.conv_shortcut\.weight": (f"{target}.shortcut.kernel", CONV3D),
        pattern + r"\.conv_shortcut\.bias": (f"{target}.shortcut.bias", AS_IS),
    }


VAE_RULES = {
    _ENDS + r"\.weight": (r"\1.conv_\2.kernel", CONV3D),
    _ENDS + r"\.bias": (r"\1.conv_\2.bias", AS_IS),
    **_norm_rules(_HALF + r"\.norm_out", r"\1.norm_out"),
    **_resnet_rules(_HALF + r"\.mid_block\.resnets\.(\d+)", r"\1.mid.\2", r"\3"),
    **_resnet_rules(
        _HALF + r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)", r"\1.\2.\3.resnets.\4", r"\5"
    ),
    _DOWN + r"\.weight": (r"encoder.down.\1.conv.kernel", CONV2D),
    _DOWN + r"\.bias": (r"encoder.down.\1.conv.bias", AS_IS),
    _UP + r"\.weight": (r"decoder.up.\1.conv.kernel", CONV2D),
    _UP + r"\.bias": (r"decoder.up.\1.conv.bias", AS_IS),
}
