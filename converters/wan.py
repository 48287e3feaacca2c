"""Tables of the VAE of Wan2.1-T2V-1.3B and -14B, under the names of diffusers and of Wan-AI."""

import numpy as np

from converters.core import AS_IS, LINEAR, Rules, conv_kernel
from tts_jax.generators.wan.vae import VAEConfig


def pointwise(weight: np.ndarray) -> np.ndarray:
    """A convolution without extent as a linear layer, [O, I, 1, 1] -> [I, O]."""
    return LINEAR(weight[:, :, 0, 0])


def _layer(pattern: str, target: str, kernel=conv_kernel) -> Rules:
    return {
        pattern + r"\.weight": (f"{target}.kernel", kernel),
        pattern + r"\.bias": (f"{target}.bias", AS_IS),
    }


def _norm(pattern: str, target: str) -> Rules:
    return {pattern + r"\.gamma": (f"{target}.scale", np.ravel)}


def _resnet(pattern: str, target: str, part: str) -> Rules:
    """Of a residual block; `part` refers to the group with the name of its layer."""
    return {
        **_norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        **_layer(pattern + r"\.(conv[12])", f"{target}.{part}"),
        **_layer(pattern + r"\.conv_shortcut", f"{target}.shortcut"),
    }


_HALF = r"(encoder|decoder)"
_MID = _HALF + r"\.mid_block"
_DOWN = r"encoder\.down_blocks\.(\d+)"
_UP = r"decoder\.up_blocks\.(\d+)"

VAE_RULES: Rules = {
    **_layer(r"(|post_)quant_conv", r"\1quant"),
    **_layer(_HALF + r"\.(conv_in|conv_out)", r"\1.\2"),
    **_norm(_HALF + r"\.norm_out", r"\1.norm_out"),
    **_resnet(_MID + r"\.resnets\.([01])", r"\1.mid.resnets.\2", r"\3"),
    **_norm(_MID + r"\.attentions\.0\.norm", r"\1.mid.norm"),
    **_layer(_MID + r"\.attentions\.0\.to_qkv", r"\1.mid.qkv", pointwise),
    **_layer(_MID + r"\.attentions\.0\.proj", r"\1.mid.out", pointwise),
    **_resnet(_DOWN, r"encoder.down.\1", r"\2"),
    **_layer(_DOWN + r"\.resample\.1", r"encoder.down.\1.space"),
    **_layer(_DOWN + r"\.time_conv", r"encoder.down.\1.time"),
    **_resnet(_UP + r"\.resnets\.(\d+)", r"decoder.up.\1.resnets.\2", r"\3"),
    **_layer(_UP + r"\.upsamplers\.0\.resample\.1", r"decoder.up.\1.upsample.space"),
    **_layer(_UP + r"\.upsamplers\.0\.time_conv", r"decoder.up.\1.upsample.time"),
}

_RESIDUAL = {
    "0": ("gamma", "norm1"),
    "2": ("", "conv1"),
    "3": ("gamma", "norm2"),
    "6": ("", "conv2"),
}


def _original_resnet(pattern: str, target: str) -> Rules:
    rules = _layer(pattern + r"\.shortcut", f"{target}.shortcut")
    for number, (kind, part) in _RESIDUAL.items():
        rules |= (_norm if kind else _layer)(rf"{pattern}\.residual\.{number}", f"{target}.{part}")
    return rules


def original_vae_rules(config: VAEConfig) -> Rules:
    """Of `Wan2.1_VAE.pth`, whose decoder has the blocks of all levels in one row."""
    rules = {
        **_layer(r"conv1", "quant"),
        **_layer(r"conv2", "post_quant"),
        **_layer(_HALF + r"\.conv1", r"\1.conv_in"),
        **_norm(_HALF + r"\.head\.0", r"\1.norm_out"),
        **_layer(_HALF + r"\.head\.2", r"\1.conv_out"),
        **_norm(_HALF + r"\.middle\.1\.norm", r"\1.mid.norm"),
        **_layer(_HALF + r"\.middle\.1\.to_qkv", r"\1.mid.qkv", pointwise),
        **_layer(_HALF + r"\.middle\.1\.proj", r"\1.mid.out", pointwise),
        **_original_resnet(_HALF + r"\.middle\.0", r"\1.mid.resnets.0"),
        **_original_resnet(_HALF + r"\.middle\.2", r"\1.mid.resnets.1"),
        **_original_resnet(r"encoder\.downsamples\.(\d+)", r"encoder.down.\1"),
        **_layer(r"encoder\.downsamples\.(\d+)\.resample\.1", r"encoder.down.\1.space"),
        **_layer(r"encoder\.downsamples\.(\d+)\.time_conv", r"encoder.down.\1.time"),
    }
    resnets = config.layers + 1
    for level in range(len(config.channels)):
        start, target = level * (resnets + 1), f"decoder.up.{level}"
        for i in range(resnets):
            block = rf"decoder\.upsamples\.{start + i}"
            rules |= _original_resnet(block, f"{target}.resnets.{i}")
        block = rf"decoder\.upsamples\.{start + resnets}"
        rules |= _layer(block + r"\.resample\.1", f"{target}.upsample.space")
        rules |= _layer(block + r"\.time_conv", f"{target}.upsample.time")
    return rules
