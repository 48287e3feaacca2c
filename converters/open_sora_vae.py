"""Table of hpcai-tech/OpenSora-VAE-v1.2, of whose halves one is of images and one of time."""

import numpy as np

from converters.core import Rules, conv_kernel
from converters.image_autoencoder import image_rules
from converters.layers import conv, norm


def by_channel(values: np.ndarray) -> np.ndarray:
    """One value a channel of clips, [1, C, 1, 1, 1] -> [C]."""
    return values[0, :, 0, 0, 0]


_TIME = r"temporal_vae\.(encoder|decoder)\."


def _resnet(pattern: str, target: str, part: str) -> Rules:
    """A residual block of clips, whose convolutions have no bias."""
    return {
        **norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        pattern + r"\.(conv[12])\.conv\.weight": (f"{target}.{part}.kernel", conv_kernel),
        pattern + r"\.conv3\.conv\.weight": (f"{target}.shortcut.kernel", conv_kernel),
    }


VAE_RULES: Rules = {
    r"(shift|scale)": (r"\1", by_channel),
    **image_rules(r"spatial_vae\.module\.", "spatial_"),
    **conv(r"temporal_vae\.quant_conv\.conv", "temporal_encoder.quant"),
    **conv(r"temporal_vae\.post_quant_conv\.conv", "temporal_decoder.post_quant"),
    r"temporal_vae\.encoder\.conv_in\.conv\.weight": (
        "temporal_encoder.conv_in.kernel",
        conv_kernel,
    ),
    **conv(r"temporal_vae\.encoder\.conv2\.conv", "temporal_encoder.conv_out"),
    **conv(r"temporal_vae\.decoder\.conv1\.conv", "temporal_decoder.conv_in"),
    **conv(r"temporal_vae\.decoder\.conv_out\.conv", "temporal_decoder.conv_out"),
    **norm(_TIME + "norm1", r"temporal_\1.norm_out"),
    **_resnet(_TIME + r"res_blocks\.(\d+)", r"temporal_\1.mid.blocks.\2", r"\3"),
    **_resnet(_TIME + r"block_res_blocks\.(\d+)\.(\d+)", r"temporal_\1.levels.\2.blocks.\3", r"\4"),
    **conv(r"temporal_vae\.encoder\.conv_blocks\.(\d+)\.conv", r"temporal_encoder.halve.\1"),
    **conv(r"temporal_vae\.decoder\.conv_blocks\.(\d+)\.conv", r"temporal_decoder.double.\1"),
}
