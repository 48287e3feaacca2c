"""Table of Stable Diffusion's autoencoder of images, under the names of the diffusers package.

Old files have the attention's layers under other names.
"""

from converters.core import Rules
from converters.layers import conv, linear, norm


def _resnet(pattern: str, target: str, part: str) -> Rules:
    """A residual block; `part` refers to the group with the name of its layer."""
    return {
        **norm(pattern + r"\.(norm[12])", f"{target}.{part}"),
        **conv(pattern + r"\.(conv[12])", f"{target}.{part}"),
        **conv(pattern + r"\.conv_shortcut", f"{target}.shortcut"),
    }


def image_rules(source: str = "", target: str = "") -> Rules:
    """The table.

    Args:
      source: pattern in front of the published names.
      target: text in front of ours.
    """
    half = source + r"(encoder|decoder)\."
    attention, ours = half + r"mid_block\.attentions\.0\.", rf"{target}\1.mid"
    rules = {
        **conv(source + "quant_conv", f"{target}encoder.quant"),
        **conv(source + "post_quant_conv", f"{target}decoder.post_quant"),
        **conv(half + r"(conv_in|conv_out)", rf"{target}\1.\2"),
        **norm(half + "conv_norm_out", rf"{target}\1.norm_out"),
        **_resnet(half + r"mid_block\.resnets\.([01])", rf"{ours}.resnets.\2", r"\3"),
        **norm(attention + "group_norm", f"{ours}.norm"),
        **linear(attention + r"(?:to_out\.0|proj_attn)", f"{ours}.out"),
        **_resnet(
            half + r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)",
            rf"{target}\1.\2.\3.resnets.\4",
            r"\5",
        ),
        **conv(
            half + r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv",
            rf"{target}\1.\2.\3.conv",
        ),
    }
    for name, old in (("q", "query"), ("k", "key"), ("v", "value")):
        rules |= linear(attention + f"(?:to_{name}|{old})", f"{ours}.{name}")
    return rules
