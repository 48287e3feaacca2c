r"""The table of MUSIQ as the pyiqa package publishes it."""

from converters.core import AS_IS, CONV2D, LINEAR
from converters.layers import linear, norm

_LAYER = r"transformer_encoder\.transformer\.encoderblock_(\d+)\."

RULES = {
    r"conv_root\.weight": ("stem.root.kernel", CONV2D),
    **norm(r"gn_root", "stem.root_norm"),
    r"block1\.conv([123])\.weight": (r"stem.conv\1.kernel", CONV2D),
    **norm(r"block1\.gn([123])", r"stem.norm\1"),
    r"block1\.conv_proj\.weight": ("stem.widen.kernel", CONV2D),
    **norm(r"block1\.gn_proj", "stem.widen_norm"),
    **linear(r"embedding", "embedding"),
    r"transformer_encoder\.cls": ("class_token", lambda token: token[0, 0]),
    r"transformer_encoder\.posembed_input\.position_emb": ("position", lambda table: table[0]),
    r"transformer_encoder\.scaleembed_input\.scale_emb": ("scale", AS_IS),
    **norm(_LAYER + r"norm([12])", r"blocks.norm\2", r"[\1]"),
    **{
        _LAYER + rf"attention\.{name}\.{kind}": (rf"blocks.attention.{ours}[\1]", transform)
        for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
        for kind, ours, transform in (
            ("weight", f"{short}.kernel", LINEAR),
            ("bias", f"{short}.bias", AS_IS),
        )
    },
    **linear(_LAYER + r"mlp\.(fc[12])", r"blocks.mlp.\2", r"[\1]"),
    **norm(r"transformer_encoder\.encoder_norm", "norm"),
    **linear(r"head", "head"),
}
