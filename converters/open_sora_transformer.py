"""Table of Open-Sora 1.2's denoiser."""

from converters.core import AS_IS, LINEAR, patch_kernel


def _linear(pattern: str, target: str, layer: str = "") -> dict:
    return {
        pattern + r"\.weight": (f"{target}.kernel{layer}", LINEAR),
        pattern + r"\.bias": (f"{target}.bias{layer}", AS_IS),
    }


def _blocks(kind: str, ours: str) -> dict:
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
        rules |= _linear(source + pattern, target + name, layer)
    return rules


RULES = {
    r"x_embedder\.proj\.weight": ("latent_embed.kernel", patch_kernel),
    r"x_embedder\.proj\.bias": ("latent_embed.bias", AS_IS),
    **_linear(r"t_embedder\.mlp\.0", "time_embed.up"),
    **_linear(r"t_embedder\.mlp\.2", "time_embed.down"),
    **_linear(r"fps_embedder\.mlp\.0", "rate_embed.up"),
    **_linear(r"fps_embedder\.mlp\.2", "rate_embed.down"),
    **_linear(r"t_block\.1", "time_modulation"),
    **_linear(r"y_embedder\.y_proj\.fc1", "text_embed.up"),
    **_linear(r"y_embedder\.y_proj\.fc2", "text_embed.down"),
    r"y_embedder\.y_embedding": ("null_text", AS_IS),
    **_blocks("spatial", "space"),
    **_blocks("temporal", "time"),
    r"final_layer\.scale_shift_table": ("modulation", AS_IS),
    **_linear(r"final_layer\.linear", "out"),
}
IGNORED = {r"rope\.freqs": "recomputed"}
