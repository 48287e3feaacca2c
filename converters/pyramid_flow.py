"""Tables of rain1011/pyramid-flow-miniflux and rain1011/pyramid-flow-sd3."""

from converters.core import AS_IS, CONV3D, LINEAR

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
