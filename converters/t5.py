r"""Tables of the encoders of google/t5-v1_1-xxl and google/umt5-xxl, as pipelines publish them."""

from converters.core import AS_IS, LINEAR, Rules

_BLOCK = r"encoder\.block\.(\d+)\.layer"

_RULES = {
    r"shared\.weight": ("token.embedding", AS_IS),
    _BLOCK + r"\.0\.SelfAttention\.([qkv])\.weight": (r"blocks.attention.\2.kernel[\1]", LINEAR),
    _BLOCK + r"\.0\.SelfAttention\.o\.weight": (r"blocks.attention.out.kernel[\1]", LINEAR),
    _BLOCK + r"\.0\.layer_norm\.weight": (r"blocks.norm1.scale[\1]", AS_IS),
    _BLOCK + r"\.1\.DenseReluDense\.wi_0\.weight": (r"blocks.mlp.gate.kernel[\1]", LINEAR),
    _BLOCK + r"\.1\.DenseReluDense\.wi_1\.weight": (r"blocks.mlp.up.kernel[\1]", LINEAR),
    _BLOCK + r"\.1\.DenseReluDense\.wo\.weight": (r"blocks.mlp.down.kernel[\1]", LINEAR),
    _BLOCK + r"\.1\.layer_norm\.weight": (r"blocks.norm2.scale[\1]", AS_IS),
    r"encoder\.final_layer_norm\.weight": ("norm.scale", AS_IS),
}

_BIAS = r"\.0\.SelfAttention\.relative_attention_bias\.weight"

T5_RULES: Rules = {**_RULES, r"encoder\.block\.0\.layer" + _BIAS: ("bias", AS_IS)}
UMT5_RULES: Rules = {**_RULES, _BLOCK + _BIAS: (r"bias[\1]", AS_IS)}

IGNORED = {
    r"encoder\.embed_tokens\.weight": "the same as shared.weight",
    r"(decoder|lm_head)\..*": "of the decoder, which no text encoder runs",
}

_ORIGINAL = r"blocks\.(\d+)"

# Of `models_t5_umt5-xxl-enc-bf16.pth`, as Wan publishes the encoder by itself.
WAN_UMT5_RULES: Rules = {
    r"token_embedding\.weight": ("token.embedding", AS_IS),
    _ORIGINAL + r"\.attn\.([qkv])\.weight": (r"blocks.attention.\2.kernel[\1]", LINEAR),
    _ORIGINAL + r"\.attn\.o\.weight": (r"blocks.attention.out.kernel[\1]", LINEAR),
    _ORIGINAL + r"\.(norm[12])\.weight": (r"blocks.\2.scale[\1]", AS_IS),
    _ORIGINAL + r"\.ffn\.gate\.0\.weight": (r"blocks.mlp.gate.kernel[\1]", LINEAR),
    _ORIGINAL + r"\.ffn\.fc1\.weight": (r"blocks.mlp.up.kernel[\1]", LINEAR),
    _ORIGINAL + r"\.ffn\.fc2\.weight": (r"blocks.mlp.down.kernel[\1]", LINEAR),
    _ORIGINAL + r"\.pos_embedding\.embedding\.weight": (r"bias[\1]", AS_IS),
    r"norm\.weight": ("norm.scale", AS_IS),
}
