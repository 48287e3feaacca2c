r"""Tables of decoder-only language models, under the names of the transformers package."""

from converters.core import AS_IS, LINEAR, Rules


def decoder_rules(model: str = r"model\.", target: str = "", *, head: bool = True) -> Rules:
    """Table of a decoder with separate queries, keys and values.

    Args:
      model: pattern before the names of the network.
      target: our prefix.
      head: whether it has logits of its own, under `lm_head`.
    """
    layer = model + r"layers\.(\d+)\."
    blocks = f"{target}blocks."
    rules = {
        model + r"embed_tokens\.weight": (f"{target}token.embedding", AS_IS),
        model + r"norm\.weight": (f"{target}norm.scale", AS_IS),
        layer + r"input_layernorm\.weight": (blocks + r"norm1.scale[\1]", AS_IS),
        layer + r"post_attention_layernorm\.weight": (blocks + r"norm2.scale[\1]", AS_IS),
        layer + r"self_attn\.([qkv])_proj\.weight": (blocks + r"text.\2.kernel[\1]", LINEAR),
        layer + r"self_attn\.([qkv])_proj\.bias": (blocks + r"text.\2.bias[\1]", AS_IS),
        layer + r"self_attn\.o_proj\.weight": (blocks + r"text.out.kernel[\1]", LINEAR),
        layer + r"mlp\.(gate|up|down)_proj\.weight": (blocks + r"text.mlp.\2.kernel[\1]", LINEAR),
    }
    if head:
        rules[r"lm_head\.weight"] = (f"{target}head.kernel", LINEAR)
    return rules


IGNORED = {r".*\.rotary_emb\.inv_freq": "recomputed"}
TIED = {**IGNORED, r"lm_head\.weight": "the token embeddings once more"}
