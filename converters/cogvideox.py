"""Tables of THUDM/CogVideoX-2b and THUDM/CogVideoX-5b, under the names of the diffusers package."""

import numpy as np

from converters.core import CONV2D, CONV3D
from converters.layers import conv, linear, norm


def patch_kernel(weight: np.ndarray) -> np.ndarray:
    """A convolution of patches as a linear layer, [D, C, p, p] -> [C*p*p, D]."""
    return weight.reshape(weight.shape[0], -1).T


_BLOCK = r"transformer_blocks\.(\d+)"
_NORM = _BLOCK + r"\.(norm[12])"

TRANSFORMER_RULES = {
    **conv(r"patch_embed\.proj", "latent_embed", transform=patch_kernel),
    **linear(r"patch_embed\.text_proj", "text_embed"),
    **linear(r"time_embedding\.linear_1", "time_embed.up"),
    **linear(r"time_embedding\.linear_2", "time_embed.down"),
    **norm(r"norm_final", "norm_final"),
    **linear(r"norm_out\.linear", "norm_out.linear"),
    **norm(r"norm_out\.norm", "norm_out.norm"),
    **linear(r"proj_out", "out"),
    # blocks
    **linear(_NORM + r"\.linear", r"blocks.\2.linear", r"[\1]"),
    **norm(_NORM + r"\.norm", r"blocks.\2.norm", r"[\1]"),
    **norm(_BLOCK + r"\.attn1\.norm_([qk])", r"blocks.attention.\2_norm", r"[\1]"),
    **linear(_BLOCK + r"\.attn1\.to_([qkv])", r"blocks.attention.\2", r"[\1]"),
    **linear(_BLOCK + r"\.attn1\.to_out\.0", "blocks.attention.out", r"[\1]"),
    **linear(_BLOCK + r"\.ff\.net\.0\.proj", "blocks.mlp.up", r"[\1]"),
    **linear(_BLOCK + r"\.ff\.net\.2", "blocks.mlp.down", r"[\1]"),
}

_HALF = r"(encoder|decoder)"
_ENDS = _HALF + r"\.conv_(in|out)\.conv"
_DOWN = r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv"
_UP = r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv"


def _norm_rules(pattern: str, target: str) -> dict:
    """Of a plain group norm, and of one whose scale and bias are linear in the latents."""
    return {
        **norm(pattern, target),
        **norm(pattern + r"\.norm_layer", f"{target}.norm"),
        **conv(pattern + r"\.conv_y\.conv", f"{target}.scale", transform=CONV3D),
        **conv(pattern + r"\.conv_b\.conv", f"{target}.shift", transform=CONV3D),
    }


def _resnet_rules(pattern: str, target: str, layer: str) -> dict:
    """Of a residual block; `layer` refers to the digit behind its norms and convolutions."""
    return {
        **_norm_rules(pattern + r"\.norm([12])", f"{target}.norm{layer}"),
        **conv(pattern + r"\.conv([12])\.conv", f"{target}.conv{layer}", transform=CONV3D),
        **conv(pattern + r"\.conv_shortcut", f"{target}.shortcut", transform=CONV3D),
    }


VAE_RULES = {
    **conv(_ENDS, r"\1.conv_\2", transform=CONV3D),
    **_norm_rules(_HALF + r"\.norm_out", r"\1.norm_out"),
    **_resnet_rules(_HALF + r"\.mid_block\.resnets\.(\d+)", r"\1.mid.\2", r"\3"),
    **_resnet_rules(
        _HALF + r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)", r"\1.\2.\3.resnets.\4", r"\5"
    ),
    **conv(_DOWN, r"encoder.down.\1.conv", transform=CONV2D),
    **conv(_UP, r"decoder.up.\1.conv", transform=CONV2D),
}
