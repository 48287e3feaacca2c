"""Text encoders beside those of transformers."""

from collections.abc import Callable

import jax.numpy as jnp

from converters.clip import CLIP_TEXT_IGNORED, CLIP_TEXT_RULES
from converters.core import Rules
from converters.t5 import IGNORED, T5_RULES, UMT5_RULES
from experiments.networks.pairs import Network, abstract, apply, paired, random_tokens, spec
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.t5 import T5Config, T5Encoder


def t5(size: str) -> Network:
    """The T5 encoder; `size` is one of `SIZES`."""
    from transformers import T5Config, T5EncoderModel

    return _t5(size, T5Config, T5EncoderModel, T5_RULES)


def umt5(size: str) -> Network:
    """The UMT5 encoder, whose layers have positions of their own; `size` is one of `SIZES`."""
    from transformers import UMT5Config, UMT5EncoderModel

    return _t5(size, UMT5Config, UMT5EncoderModel, UMT5_RULES)


def _t5(size: str, build_config: Callable, build: Callable, rules: Rules) -> Network:
    heads, layers, vocabulary, length = {"tiny": (2, 2, 64, 16), "mid": (12, 12, 32128, 128)}[size]
    published = build_config(
        vocab_size=vocabulary,
        d_model=64 * heads,
        d_kv=64,
        d_ff=160 * heads,
        num_heads=heads,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
    )
    config = T5Config.from_reference(published.to_dict())
    return paired(
        build(published),
        T5Encoder,
        config,
        rules,
        IGNORED,
        apply,
        (random_tokens(vocabulary, length),),
        lambda model, tokens: model(tokens).last_hidden_state,
    )


def clip_text(size: str) -> Network:
    """CLIP's text tower; `size` is one of `SIZES`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    heads, layers, vocabulary, length = {"tiny": (2, 2, 64, 16), "mid": (12, 12, 49408, 77)}[size]
    published = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=64 * heads,
        intermediate_size=256 * heads,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        max_position_embeddings=length,
        eos_token_id=vocabulary - 1,
    )
    fields = {**published.to_dict(), "architectures": [CLIPTextModel.__name__]}
    config = TextConfig.from_reference(fields)
    return paired(
        CLIPTextModel(published),
        TextTower,
        config,
        CLIP_TEXT_RULES,
        CLIP_TEXT_IGNORED,
        lambda model, tokens: model(tokens)[0],
        (random_tokens(vocabulary, length),),
        lambda model, tokens: model(tokens).last_hidden_state,
    )


def layered(layers: int) -> dict[str, Network]:
    """Abstract encoders of so many layers; see `experiments.networks.layered`."""
    sizes = {"vocabulary": 64, "width": 64, "heads": 2, "layers": layers}
    tokens = spec(1, 16, dtype=jnp.int32)
    t5 = T5Config(**sizes, head_size=64, mlp=160)
    clip = TextConfig(**sizes, length=16, mlp=256)
    return {
        "t5": abstract(T5Encoder, t5, apply, tokens),
        "clip_text": abstract(TextTower, clip, apply, tokens),
    }
