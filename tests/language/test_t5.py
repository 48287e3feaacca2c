"""The T5 encoder beside the one of the transformers package, through its conversion table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from converters.core import ConversionError, check, convert
from converters.t5 import IGNORED, T5_RULES, UMT5_RULES
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.language.t5 import T5Config, T5Encoder, distance_buckets

FAMILIES = {
    "t5": (transformers.T5Config, transformers.T5EncoderModel, T5_RULES),
    "umt5": (transformers.UMT5Config, transformers.UMT5EncoderModel, UMT5_RULES),
}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Gives every parameter random values, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            scale = 1.0 if "relative_attention_bias" in name or "shared" in name else scale
            parameter.copy_(noise * scale + (1.0 if parameter.ndim == 1 else 0.0))


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request):
    """The original and ours with the same weights, and the original's configuration."""
    read, build, rules = FAMILIES[request.param]
    published = read(
        vocab_size=50,
        d_model=24,
        d_kv=6,
        d_ff=40,
        num_layers=3,
        num_heads=3,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=40,
        layer_norm_epsilon=1e-3,
        feed_forward_proj="gated-gelu",
        attn_implementation="eager",
    )
    original = build(published).eval()
    randomise(original, seed=3)
    config = T5Config.from_reference(published.to_dict())
    graph, like = abstract_params(T5Encoder, config)
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    params = convert(tensors, like, rules, IGNORED)
    return original, nnx.merge(graph, jax.tree.map(jnp.asarray, params)), published


def test_states_are_those_of_the_original(pair):
    original, ours, _ = pair
    random = np.random.default_rng(0)
    tokens = random.integers(0, 50, (3, 60))
    mask = np.arange(60) < np.array([[60], [1], [23]])
    for given in (mask, None):
        with torch.no_grad():
            wanted = original(
                torch.tensor(tokens),
                attention_mask=None if given is None else torch.tensor(given.astype(np.int64)),
            ).last_hidden_state.numpy()
        found = jax.jit(lambda t, m: ours(t, m))(tokens, given)
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_padding_does_not_change_what_is_real(pair):
    _, ours, _ = pair
    tokens = np.random.default_rng(1).integers(0, 50, (1, 12))
    mask = np.arange(12) < 7
    other = np.where(mask, tokens, 49 - tokens)
    encode = jax.jit(lambda t: ours(t, mask[None]))
    np.testing.assert_allclose(encode(tokens)[0, :7], encode(other)[0, :7], atol=1e-5)
    np.testing.assert_allclose(encode(tokens)[0, :7], ours(tokens[:, :7])[0], atol=1e-5)


def test_16_bit_weights_give_16_bit_states(pair):
    _, ours, _ = pair
    graph, state = nnx.split(ours)
    short = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    tokens = np.random.default_rng(2).integers(0, 50, (1, 20))
    found, wanted = short(tokens), ours(tokens)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 40)])
def test_distances_fall_into_the_buckets_of_the_original(buckets, max_distance):
    positions = torch.arange(600)
    bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    wanted = bucket(
        positions[None] - positions[:, None], num_buckets=buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(distance_buckets(600, buckets, max_distance), wanted.numpy())


@pytest.mark.parametrize(
    ("name", "config", "rules", "parameters"),
    [
        ("t5_v1_1_xxl_encoder", T5Config.t5_v1_1_xxl(), T5_RULES, 4_762_310_656),
        ("umt5_xxl_encoder", T5Config.umt5_xxl(), UMT5_RULES, 5_680_910_336),
    ],
)
def test_every_published_tensor_is_taken_once(golden, name, config, rules, parameters):
    manifest = json.loads((golden("manifests") / f"{name}.json").read_text())
    _, like = abstract_params(T5Encoder, config)
    assert len(check(manifest, like, rules, IGNORED)) == len(manifest)
    assert sum(leaf.size for leaf in flatten(like).values()) == parameters


def test_a_tensor_of_the_other_family_is_a_fault(golden):
    manifest = json.loads((golden("manifests") / "umt5_xxl_encoder.json").read_text())
    _, like = abstract_params(T5Encoder, T5Config.t5_v1_1_xxl())
    with pytest.raises(ConversionError, match=r"block\.23.*relative_attention_bias"):
        check(manifest, like, T5_RULES, IGNORED)


def test_settings_that_the_encoder_lacks_are_refused(pair):
    fields = pair[2].to_dict()
    with pytest.raises(ValueError, match="relu"):
        T5Config.from_reference({**fields, "feed_forward_proj": "relu"})
    with pytest.raises(ValueError, match="bert"):
        T5Config.from_reference({**fields, "model_type": "bert"})
