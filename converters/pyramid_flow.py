"""Tables of rain1011/pyramid-flow-miniflux and rain1011/pyramid-flow-sd3."""

import math

import numpy as np

from converters.core import AS_IS, CONV2D, CONV3D, LINEAR, Rules

_RESNET = r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)"
_MID = r"(encoder|decoder)\.mid_block"
_ATTENTION = _MID + r"\.attentions\.0"
_DOWN = r"encoder\.down_blocks\.(\d+)"
_UP = r"decoder\.up_blocks\.(\d+)"

VAE_RULES = {
    r"(|post_)quant_conv\.conv\.weight": (r"\1quant.kernel", CONV3D),
    r"(|post_)quant_conv\.conv\.bias": (r"\1quant.bias", AS_IS),
    r"(encoder|decoder)\.(conv_in|conv_out)\.conv\.weight": (r"\1.\2.kernel", CONV3D),
    r"(encoder|decoder)\.(conv_in|conv_out)\.conv\.bias": (r"\1.\2.bias", AS_IS),
    r"(encoder|decoder)\.conv_norm_out\.weight": (r"\1.norm_out.scale", AS_IS),
    r"(encoder|decoder)\.conv_norm_out\.bias": (r"\1.norm_out.bias", AS_IS),
    # residual blocks
    _RESNET + r"\.(norm\d)\.weight": (r"\1.\2.\3.resnets.\4.\5.scale", AS_IS),
    _RESNET + r"\.(norm\d)\.bias": (r"\1.\2.\3.resnets.\4.\5.bias", AS_IS),
    _RESNET + r"\.(conv\d)\.conv\.weight": (r"\1.\2.\3.resnets.\4.\5.kernel", CONV3D),
    _RESNET + r"\.(conv\d)\.conv\.bias": (r"\1.\2.\3.resnets.\4.\5.bias", AS_IS),
    _RESNET + r"\.conv_shortcut\.conv\.weight": (r"\1.\2.\3.resnets.\4.shortcut.kernel", CONV3D),
    _RESNET + r"\.conv_shortcut\.conv\.bias": (r"\1.\2.\3.resnets.\4.shortcut.bias", AS_IS),
    # resampling
    _DOWN + r"\.downsamplers\.0\.conv\.conv\.weight": (r"encoder.down.\1.spatial.kernel", CONV3D),
    _DOWN + r"\.downsamplers\.0\.conv\.conv\.bias": (r"encoder.down.\1.spatial.bias", AS_IS),
    _DOWN + r"\.temporal_downsamplers\.0\.conv\.conv\.weight": (
        r"encoder.down.\1.temporal.kernel",
        CONV3D,
    ),
    _DOWN + r"\.temporal_downsamplers\.0\.conv\.conv\.bias": (
        r"encoder.down.\1.temporal.bias",
        AS_IS,
    ),
    _UP + r"\.upsamplers\.0\.conv\.conv\.weight": (r"decoder.up.\1.spatial.conv.kernel", CONV3D),
    _UP + r"\.upsamplers\.0\.conv\.conv\.bias": (r"decoder.up.\1.spatial.conv.bias", AS_IS),
    _UP + r"\.temporal_upsamplers\.0\.conv\.conv\.weight": (
        r"decoder.up.\1.temporal.conv.kernel",
        CONV3D,
    ),
    _UP + r"\.temporal_upsamplers\.0\.conv\.conv\.bias": (
        r"decoder.up.\1.temporal.conv.bias",
        AS_IS,
    ),
    # middle blocks
    _MID + r"\.resnets\.(\d+)\.(norm\d)\.weight": (r"\1.mid.resnets.\2.\3.scale", AS_IS),
    _MID + r"\.resnets\.(\d+)\.(norm\d)\.bias": (r"\1.mid.resnets.\2.\3.bias", AS_IS),
    _MID + r"\.resnets\.(\d+)\.(conv\d)\.conv\.weight": (r"\1.mid.resnets.\2.\3.kernel", CONV3D),
    _MID + r"\.resnets\.(\d+)\.(conv\d)\.conv\.bias": (r"\1.mid.resnets.\2.\3.bias", AS_IS),
    _ATTENTION + r"\.group_norm\.weight": (r"\1.mid.attention.norm.scale", AS_IS),
    _ATTENTION + r"\.group_norm\.bias": (r"\1.mid.attention.norm.bias", AS_IS),
    # the second names are those of older checkpoints
    _ATTENTION + r"\.(?:to_q|query)\.weight": (r"\1.mid.attention.q.kernel", LINEAR),
    _ATTENTION + r"\.(?:to_q|query)\.bias": (r"\1.mid.attention.q.bias", AS_IS),
    _ATTENTION + r"\.(?:to_k|key)\.weight": (r"\1.mid.attention.k.kernel", LINEAR),
    _ATTENTION + r"\.(?:to_k|key)\.bias": (r"\1.mid.attention.k.bias", AS_IS),
    _ATTENTION + r"\.(?:to_v|value)\.weight": (r"\1.mid.attention.v.kernel", LINEAR),
    _ATTENTION + r"\.(?:to_v|value)\.bias": (r"\1.mid.attention.v.bias", AS_IS),
    _ATTENTION + r"\.(?:to_out\.0|proj_attn)\.weight": (r"\1.mid.attention.out.kernel", LINEAR),
    _ATTENTION + r"\.(?:to_out\.0|proj_attn)\.bias": (r"\1.mid.attention.out.bias", AS_IS),
}

_SINGLE = r"single_transformer_blocks\.(\d+)"

_DENOISER_RULES = {
    r"time_text_embed\.timestep_embedder\.linear_1\.weight": ("time_embed.up.kernel", LINEAR),
    r"time_text_embed\.timestep_embedder\.linear_1\.bias": ("time_embed.up.bias", AS_IS),
    r"time_text_embed\.timestep_embedder\.linear_2\.weight": ("time_embed.down.kernel", LINEAR),
    r"time_text_embed\.timestep_embedder\.linear_2\.bias": ("time_embed.down.bias", AS_IS),
    r"time_text_embed\.text_embedder\.linear_1\.weight": ("pooled_embed.up.kernel", LINEAR),
    r"time_text_embed\.text_embedder\.linear_1\.bias": ("pooled_embed.up.bias", AS_IS),
    r"time_text_embed\.text_embedder\.linear_2\.weight": ("pooled_embed.down.kernel", LINEAR),
    r"time_text_embed\.text_embedder\.linear_2\.bias": ("pooled_embed.down.bias", AS_IS),
    r"context_embedder\.weight": ("text_embed.kernel", LINEAR),
    r"context_embedder\.bias": ("text_embed.bias", AS_IS),
    r"norm_out\.linear\.weight": ("out_modulation.linear.kernel", LINEAR),
    r"norm_out\.linear\.bias": ("out_modulation.linear.bias", AS_IS),
    r"proj_out\.weight": ("out.kernel", LINEAR),
    r"proj_out\.bias": ("out.bias", AS_IS),
}


def _double_rules(source: str, target: str, layer: str, text_norm: str) -> Rules:
    """Table of double blocks.

    Args:
      source: pattern of a block's name.
      target: our name of the block.
      layer: where its parameters lie in a stack, "" for a block that is not stacked.
      text_norm: pattern of the text's norms.
    """
    places = {
        r"norm1\.linear": "image.modulation.linear",
        r"attn\.to_q": "image.attention.q",
        r"attn\.to_k": "image.attention.k",
        r"attn\.to_v": "image.attention.v",
        r"attn\.to_out\.0": "image.out",
        r"ff\.net\.0\.proj": "image.mlp.up",
        r"ff\.net\.2": "image.mlp.down",
        r"norm1_context\.linear": "text.modulation.linear",
        r"attn\.add_q_proj": "text.attention.q",
        r"attn\.add_k_proj": "text.attention.k",
        r"attn\.add_v_proj": "text.attention.v",
        r"attn\.to_add_out": "text.out",
        r"ff_context\.net\.0\.proj": "text.mlp.up",
        r"ff_context\.net\.2": "text.mlp.down",
    }
    norms = {
        r"attn\.norm_q": "image.attention.q_norm",
        r"attn\.norm_k": "image.attention.k_norm",
        rf"attn\.{text_norm}_q": "text.attention.q_norm",
        rf"attn\.{text_norm}_k": "text.attention.k_norm",
    }
    return {
        **{
            rf"{source}\.{name}\.weight": (f"{target}.{place}.kernel{layer}", LINEAR)
            for name, place in places.items()
        },
        **{
            rf"{source}\.{name}\.bias": (f"{target}.{place}.bias{layer}", AS_IS)
            for name, place in places.items()
        },
        **{
            rf"{source}\.{name}\.weight": (f"{target}.{place}.scale{layer}", AS_IS)
            for name, place in norms.items()
        },
    }


FLUX_RULES = {
    **_DENOISER_RULES,
    r"x_embedder\.weight": ("latent_embed.kernel", LINEAR),
    r"x_embedder\.bias": ("latent_embed.bias", AS_IS),
    **_double_rules(r"transformer_blocks\.(\d+)", "double_blocks", r"[\1]", "norm_added"),
    # single blocks
    _SINGLE + r"\.norm\.linear\.weight": (r"single_blocks.modulation.linear.kernel[\1]", LINEAR),
    _SINGLE + r"\.norm\.linear\.bias": (r"single_blocks.modulation.linear.bias[\1]", AS_IS),
    _SINGLE + r"\.attn\.to_(q|k|v)\.weight": (r"single_blocks.attention.\2.kernel[\1]", LINEAR),
    _SINGLE + r"\.attn\.to_(q|k|v)\.bias": (r"single_blocks.attention.\2.bias[\1]", AS_IS),
    _SINGLE + r"\.attn\.norm_(q|k)\.weight": (r"single_blocks.attention.\2_norm.scale[\1]", AS_IS),
    _SINGLE + r"\.proj_mlp\.weight": (r"single_blocks.mlp.kernel[\1]", LINEAR),
    _SINGLE + r"\.proj_mlp\.bias": (r"single_blocks.mlp.bias[\1]", AS_IS),
    _SINGLE + r"\.proj_out\.weight": (r"single_blocks.out.kernel[\1]", LINEAR),
    _SINGLE + r"\.proj_out\.bias": (r"single_blocks.out.bias[\1]", AS_IS),
}


def flatten_patches(kernel: np.ndarray) -> np.ndarray:
    """A convolution over whole patches, [D, C, 2, 2], as a matrix on (row, column, c), [4C, D]."""
    return CONV2D(kernel).reshape(-1, kernel.shape[0])


def square_table(table: np.ndarray) -> np.ndarray:
    """Positions stored row by row, [1, M*M, D], as a table, [M, M, D]."""
    _, places, width = table.shape
    side = math.isqrt(places)
    return table.reshape(side, side, width)


def mmdit_rules(blocks: int) -> Rules:
    """Table of an SD3 denoiser.

    Args:
      blocks: how many it has; the last has a place of its own.
    """
    last = blocks - 1
    return {
        **_DENOISER_RULES,
        r"pos_embed\.proj\.weight": ("latent_embed.kernel", flatten_patches),
        r"pos_embed\.proj\.bias": ("latent_embed.bias", AS_IS),
        r"pos_embed\.pos_embed": ("positions", square_table),
        **_double_rules(rf"transformer_blocks\.(?!{last}\.)(\d+)", "blocks", r"[\1]", "norm_add"),
        **_double_rules(rf"transformer_blocks\.{last}", "last_block", "", "norm_add"),
    }
