"""Table of maxin-cn/Latte-1, under the names of the diffusers package."""

from converters.core import AS_IS, Rules, patch_kernel
from converters.layers import conv, linear


def _block(source: str, ours: str, **attentions: str) -> Rules:
    """Of the blocks of places, or of those over time, with our names of their attentions."""
    source, target, layer = rf"{source}\.(\d+)", f"{ours}_blocks", r"[\1]"
    rules = {
        rf"{source}\.scale_shift_table": (f"{target}.modulation{layer}", AS_IS),
        **linear(rf"{source}\.ff\.net\.0\.proj", f"{target}.mlp.up", layer),
        **linear(rf"{source}\.ff\.net\.2", f"{target}.mlp.down", layer),
    }
    for theirs, name in attentions.items():
        rules |= linear(rf"{source}\.{theirs}\.to_out\.0", f"{target}.{name}.out", layer)
        for part in "qkv":
            rules |= linear(rf"{source}\.{theirs}\.to_{part}", f"{target}.{name}.{part}", layer)
    return rules


RULES = {
    **conv(r"pos_embed\.proj", "latent_embed", transform=patch_kernel),
    r"scale_shift_table": ("modulation", AS_IS),
    **linear(r"adaln_single\.emb\.timestep_embedder\.linear_1", "time_embed.up"),
    **linear(r"adaln_single\.emb\.timestep_embedder\.linear_2", "time_embed.down"),
    **linear(r"adaln_single\.linear", "time_modulation"),
    **linear(r"caption_projection\.linear_1", "text_embed.up"),
    **linear(r"caption_projection\.linear_2", "text_embed.down"),
    **linear(r"proj_out", "out"),
    **_block("transformer_blocks", "space", attn1="attention", attn2="cross_attention"),
    **_block("temporal_transformer_blocks", "time", attn1="attention"),
}
