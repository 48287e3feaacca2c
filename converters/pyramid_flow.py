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

_DOUBLE = r"transformer_blocks\.(\d+)"
_SINGLE = r"single_transformer_blocks\.(\d+)"

FLUX_RULES = {
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
    r"x_embedder\.weight": ("latent_embed.kernel", LINEAR),
    r"x_embedder\.bias": ("latent_embed.bias", AS_IS),
    r"norm_out\.linear\.weight": ("out_modulation.linear.kernel", LINEAR),
    r"norm_out\.linear\.bias": ("out_modulation.linear.bias", AS_IS),
    r"proj_out\.weight": ("out.kernel", LINEAR),
    r"proj_out\.bias": ("out.bias", AS_IS),
    # double blocks, image stream
    _DOUBLE + r"\.norm1\.linear\.weight": (
        r"double_blocks.image.modulation.linear.kernel[\1]",
        LINEAR,
    ),
    _DOUBLE + r"\.norm1\.linear\.bias": (r"double_blocks.image.modulation.linear.bias[\1]", AS_IS),
    _DOUBLE + r"\.attn\.to_(q|k|v)\.weight": (
        r"double_blocks.image.attention.\2.kernel[\1]",
        LINEAR,
    ),
    _DOUBLE + r"\.attn\.to_(q|k|v)\.bias": (r"double_blocks.image.attention.\2.bias[\1]", AS_IS),
    _DOUBLE + r"\.attn\.norm_(q|k)\.weight": (
        r"double_blocks.image.attention.\2_norm.scale[\1]",
        AS_IS,
    ),
    _DOUBLE + r"\.attn\.to_out\.0\.weight": (r"double_blocks.image.out.kernel[\1]", LINEAR),
    _DOUBLE + r"\.attn\.to_out\.0\.bias": (r"double_blocks.image.out.bias[\1]", AS_IS),
    _DOUBLE + r"\.ff\.net\.0\.proj\.weight": (r"double_blocks.image.mlp.up.kernel[\1]", LINEAR),
    _DOUBLE + r"\.ff\.net\.0\.proj\.bias": (r"double_blocks.image.mlp.up.bias[\1]", AS_IS),
    _DOUBLE + r"\.ff\.net\.2\.weight": (r"double_blocks.image.mlp.down.kernel[\1]", LINEAR),
    _DOUBLE + r"\.ff\.net\.2\.bias": (r"double_blocks.image.mlp.down.bias[\1]", AS_IS),
    # double blocks, text stream
    _DOUBLE + r"\.norm1_context\.linear\.weight": (
        r"double_blocks.text.modulation.linear.kernel[\1]",
        LINEAR,
    ),
    _DOUBLE + r"\.norm1_context\.linear\.bias": (
        r"double_blocks.text.modulation.linear.bias[\1]",
        AS_IS,
    ),
    _DOUBLE + r"\.attn\.add_(q|k|v)_proj\.weight": (
        r"double_blocks.text.attention.\2.kernel[\1]",
        LINEAR,
    ),
    _DOUBLE + r"\.attn\.add_(q|k|v)_proj\.bias": (
        r"double_blocks.text.attention.\2.bias[\1]",
        AS_IS,
    ),
    _DOUBLE + r"\.attn\.norm_added_(q|k)\.weight": (
        r"double_blocks.text.attention.\2_norm.scale[\1]",
        AS_IS,
    ),
    _DOUBLE + r"\.attn\.to_add_out\.weight": (r"double_blocks.text.out.kernel[\1]", LINEAR),
    _DOUBLE + r"\.attn\.to_add_out\.bias": (r"double_blocks.text.out.bias[\1]", AS_IS),
    _DOUBLE + r"\.ff_context\.net\.0\.proj\.weight": (
        r"double_blocks.text.mlp.up.kernel[\1]",
        LINEAR,
    ),
    _DOUBLE + r"\.ff_context\.net\.0\.proj\.bias": (r"double_blocks.text.mlp.up.bias[\1]", AS_IS),
    _DOUBLE + r"\.ff_context\.net\.2\.weight": (r"double_blocks.text.mlp.down.kernel[\1]", LINEAR),
    _DOUBLE + r"\.ff_context\.net\.2\.bias": (r"double_blocks.text.mlp.down.bias[\1]", AS_IS),
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
