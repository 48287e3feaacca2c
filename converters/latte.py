"""Table of maxin-cn/Latte-1, under the names of the diffusers package."""

import numpy as np

from converters.core import AS_IS, LINEAR


def patch_kernel(weight: np.ndarray) -> np.ndarray:
    """A convolution of p x p patches as a linear layer, [D, C, p, p] -> [p*p*C, D]."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _linear(pattern: str, target: str, layer: str = "") -> dict:
    return {
        pattern + r"\.weight": (f"{target}.kernel{layer}", LINEAR),
        pattern + r"\.bias": (f"{target}.bias{layer}", AS_IS),
    }


def _block(source: str, ours: str) -> dict:
    """Of the blocks over places, or over frames."""
    source, target, layer = rf"{source}\.(\d+)", f"pairs.{ours}", r"[\1]"
    rules = {rf"{source}\.scale_shift_table": (f"{target}.modulation{layer}", AS_IS)}
    for number, attention in ((1, "attention"), (2, "cross_attention")):
        if number == 2 and ours == "temporal":
            continue
        for name in "qkv":
            rules |= _linear(
                rf"{source}\.attn{number}\.to_{name}", f"{target}.{attention}.{name}", layer
            )
        rules |= _linear(rf"{source}\.attn{number}\.to_out\.0", f"{target}.{attention}.out", layer)
    rules |= _linear(rf"{source}\.ff\.net\.0\.proj", f"{target}.mlp.up", layer)
    return rules | _linear(rf"{source}\.ff\.net\.2", f"{target}.mlp.down", layer)


RULES = {
    r"pos_embed\.proj\.weight": ("latent_embed.kernel", patch_kernel),
    r"pos_embed\.proj\.bias": ("latent_embed.bias", AS_IS),
    r"scale_shift_table": ("modulation", AS_IS),
    **_linear(r"adaln_single\.emb\.timestep_embedder\.linear_1", "time_embed.up"),
    **_linear(r"adaln_single\.emb\.timestep_embedder\.linear_2", "time_embed.down"),
    **_linear(r"adaln_single\.linear", "time_modulation"),
    **_linear(r"caption_projection\.linear_1", "text_embed.up"),
    **_linear(r"caption_projection\.linear_2", "text_embed.down"),
    **_linear(r"proj_out", "out"),
    **_block("transformer_blocks", "spatial"),
    **_block("temporal_transformer_blocks", "temporal"),
}
