"""Table of Open-Sora 1.2's denoiser."""

from converters.core import AS_IS, Rules, patch_kernel
from converters.layers import conv, linear


def _blocks(kind: str, ours: str) -> Rules:
    """Of the blocks of one kind."""
    source, target, layer = rf"{kind}_blocks\.(\d+)\.", f"{ours}_blocks.", r"[\1]"
    linears = {
        r"attn\.qkv": "qkv",
        r"attn\.proj": "out",
        r"cross_attn\.q_linear": "cross_q",
        r"cross_attn\.kv_linear": "cross_kv",
        r"cross_attn\.proj": "cross_out",
        r"mlp\.fc1": "mlp.up",
        r"mlp\.fc2": "mlp.down",
    }
    rules = {
        source + r"scale_shift_table": (target + "modulation" + layer, AS_IS),
        source + r"attn\.([qk])_norm\.weight": (target + r"\2_norm.scale" + layer, AS_IS),
    }
    for pattern, name in linears.items():
        rules |= linear(source + pattern, target + name, layer)
    return rules


RULES = {
    **conv(r"x_embedder\.proj", "latent_embed", transform=patch_kernel),
    **linear(r"t_embedder\.mlp\.0", "time_embed.up"),
    **linear(r"t_embedder\.mlp\.2", "time_embed.down"),
    **linear(r"fps_embedder\.mlp\.0", "rate_embed.up"),
    **linear(r"fps_embedder\.mlp\.2", "rate_embed.down"),
    **linear(r"t_block\.1", "time_modulation"),
    **linear(r"y_embedder\.y_proj\.fc1", "text_embed.up"),
    **linear(r"y_embedder\.y_proj\.fc2", "text_embed.down"),
    r"y_embedder\.y_embedding": ("null_text", AS_IS),
    **_blocks("spatial", "space"),
    **_blocks("temporal", "time"),
    r"final_layer\.scale_shift_table": ("modulation", AS_IS),
    **linear(r"final_layer\.linear", "out"),
}
IGNORED = {r"rope\.freqs": "recomputed"}
