"""Table of hpcai-tech/OpenSora-VAE-v1.2, of whose halves one is of images and one of time."""

import numpy as np

from converters.core import AS_IS, LINEAR, Rules, conv_kernel


def by_channel(values: np.ndarray) -> np.ndarray:
    """One value a channel of clips, [1, C, 1, 1, 1] -> [C]."""
    return values[0, :, 0, 0, 0]


def _layer(pattern: str, target: str, parameter: str = "kernel", transform=conv_kernel) -> Rules:
    return {
        pattern + r"\.weight": (f"{target}.{parameter}", transform),
        pattern + r"\.bias": (f"{target}.bias", AS_IS),
    }


def _norm(pattern: str, target: str) -> Rules:
    return _layer(pattern, target, "scale", AS_IS)


_SPATIAL = r"spatial_vae\.module\."
_HALF = _SPATIAL + r"(encoder|decoder)\."
_MID = _HALF + r"mid_block\."
_TIME = r"temporal_vae\.(encoder|decoder)\."


def _flat_resnet(pattern: str, target: str, part: str) -> Rules:
    """A residual block of frames; `part` refers to the group with the name of its layer."""
    return {
        **_norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        **_layer(pattern + r"\.(conv[12])", f"{target}.{part}"),
        **_layer(pattern + r"\.conv_shortcut", f"{target}.shortcut"),
    }


def _resnet(pattern: str, target: str, part: str) -> Rules:
    """A residual block of clips, whose convolutions have no bias."""
    return {
        **_norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        pattern + r"\.(conv[12])\.conv\.weight": (f"{target}.{part}.kernel", conv_kernel),
        pattern + r"\.conv3\.conv\.weight": (f"{target}.shortcut.kernel", conv_kernel),
    }


VAE_RULES: Rules = {
    r"(shift|scale)": (r"\1", by_channel),
    **_layer(_SPATIAL + "quant_conv", "spatial_encoder.quant"),
    **_layer(_SPATIAL + "post_quant_conv", "spatial_decoder.post_quant"),
    **_layer(_HALF + r"(conv_in|conv_out)", r"spatial_\1.\2"),
    **_norm(_HALF + "conv_norm_out", r"spatial_\1.norm_out"),
    **_flat_resnet(_MID + r"resnets\.([01])", r"spatial_\1.mid.resnets.\2", r"\3"),
    **_norm(_MID + r"attentions\.0\.group_norm", r"spatial_\1.mid.norm"),
    **_layer(_MID + r"attentions\.0\.to_([qkv])", r"spatial_\1.mid.\2", transform=LINEAR),
    **_layer(_MID + r"attentions\.0\.to_out\.0", r"spatial_\1.mid.out", transform=LINEAR),
    **_flat_resnet(
        _HALF + r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)",
        r"spatial_\1.\2.\3.resnets.\4",
        r"\5",
    ),
    **_layer(
        _HALF + r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv",
        r"spatial_\1.\2.\3.conv",
    ),
    **_layer(r"temporal_vae\.quant_conv\.conv", "temporal_encoder.quant"),
    **_layer(r"temporal_vae\.post_quant_conv\.conv", "temporal_decoder.post_quant"),
    r"temporal_vae\.encoder\.conv_in\.conv\.weight": (
        "temporal_encoder.conv_in.kernel",
        conv_kernel,
    ),
    **_layer(r"temporal_vae\.encoder\.conv2\.conv", "temporal_encoder.conv_out"),
    **_layer(r"temporal_vae\.decoder\.conv1\.conv", "temporal_decoder.conv_in"),
    **_layer(r"temporal_vae\.decoder\.conv_out\.conv", "temporal_decoder.conv_out"),
    **_norm(_TIME + "norm1", r"temporal_\1.norm_out"),
    **_resnet(_TIME + r"res_blocks\.(\d+)", r"temporal_\1.mid.blocks.\2", r"\3"),
    **_resnet(_TIME + r"block_res_blocks\.(\d+)\.(\d+)", r"temporal_\1.levels.\2.blocks.\3", r"\4"),
    **_layer(r"temporal_vae\.encoder\.conv_blocks\.(\d+)\.conv", r"temporal_encoder.halve.\1"),
    **_layer(r"temporal_vae\.decoder\.conv_blocks\.(\d+)\.conv", r"temporal_decoder.double.\1"),
}
