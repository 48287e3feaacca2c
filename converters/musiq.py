r"""The table of MUSIQ as the pyiqa package publishes it."""

from converters.core import AS_IS, CONV2D, LINEAR

_LAYER = r"transformer_encoder\.transformer\.encoderblock_(\d+)\."

RULES = {
    r"conv_root\.weight": ("stem.root.kernel", CONV2D),
    r"gn_root\.weight": ("stem.root_norm.scale", AS_IS),
    r"gn_root\.bias": ("stem.root_norm.bias", AS_IS),
    r"block1\.conv([123])\.weight": (r"stem.conv\1.kernel", CONV2D),
    r"block1\.gn([123])\.weight": (r"stem.norm\1.scale", AS_IS),
    r"block1\.gn([123])\.bias": (r"stem.norm\1.bias", AS_IS),
    r"block1\.conv_proj\.weight": ("stem.widen.kernel", CONV2D),
    r"block1\.gn_proj\.weight": ("stem.widen_norm.scale", AS_IS),
    r"block1\.gn_proj\.bias": ("stem.widen_norm.bias", AS_IS),
    r"embedding\.weight": ("embedding.kernel", LINEAR),
    r"embedding\.bias": ("embedding.bias", AS_IS),
    r"transformer_encoder\.cls": ("class_token", lambda token: token[0, 0]),
    r"transformer_encoder\.posembed_input\.position_emb": ("position", lambda table: table[0]),
    r"transformer_encoder\.scaleembed_input\.scale_emb": ("scale", AS_IS),
    _LAYER + r"norm([12])\.weight": (r"blocks.norm\2.scale[\1]", AS_IS),
    _LAYER + r"norm([12])\.bias": (r"blocks.norm\2.bias[\1]", AS_IS),
    **{
        _LAYER + rf"attention\.{name}\.{kind}": (rf"blocks.attention.{ours}[\1]", transform)
        for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
        for kind, ours, transform in (
            ("weight", f"{short}.kernel", LINEAR),
            ("bias", f"{short}.bias", AS_IS),
        )
    },
    _LAYER + r"mlp\.(fc[12])\.weight": (r"blocks.mlp.\2.kernel[\1]", LINEAR),
    _LAYER + r"mlp\.(fc[12])\.bias": (r"blocks.mlp.\2.bias[\1]", AS_IS),
    r"transformer_encoder\.encoder_norm\.weight": ("norm.scale", AS_IS),
    r"transformer_encoder\.encoder_norm\.bias": ("norm.bias", AS_IS),
    r"head\.weight": ("head.kernel", LINEAR),
    r"head\.bias": ("head.bias", AS_IS),
}
