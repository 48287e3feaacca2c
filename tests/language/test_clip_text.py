"""The text tower beside the one of transformers, and what its pooled state may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from converters.clip import CLIP_TEXT_IGNORED, CLIP_TEXT_RULES
from converters.core import convert
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.language.clip_text import TextConfig, TextTower

CONFIG = TextConfig(
    vocabulary=11, length=7, width=16, heads=2, layers=2, mlp=32, projection=8, eos_id=2
)


@pytest.fixture(scope="module")
def tower():
    return TextTower(CONFIG, rngs=nnx.Rngs(0))


def test_the_pooled_state_is_that_of_the_first_end_token(tower):
    tokens = jnp.array([[1, 9, 2, 2, 2, 2, 2], [1, 5, 6, 7, 8, 2, 0]])
    hidden, pooled = tower(tokens)
    np.testing.assert_array_equal(pooled, jnp.stack([hidden[0, 2], hidden[1, 5]]))


def test_padding_and_length_do_not_change_what_comes_before(tower):
    short = jnp.array([[1, 9, 4, 2]])
    padded = jnp.array([[1, 9, 4, 2, 0, 0, 0]])
    other = jnp.array([[1, 9, 4, 2, 7, 7, 7]])
    embed = jax.jit(lambda tokens: tower.embed(tokens))
    np.testing.assert_allclose(embed(short), embed(padded), atol=1e-6)
    np.testing.assert_allclose(embed(other), embed(padded), atol=1e-6)


def test_16_bit_weights_give_16_bit_states(tower):
    graph, state = nnx.split(tower)
    short = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    found, wanted = (model.embed(jnp.array([[1, 4, 5, 2]])) for model in (short, tower))
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - wanted).max() < 0.03


def test_word_order_matters(tower):
    a, b = tower.embed(jnp.array([[1, 4, 5, 2], [1, 5, 4, 2]]))
    assert float(jnp.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize(
    ("build", "activation", "eos"),
    [
        (transformers.CLIPTextModel, "quick_gelu", 2),
        (transformers.CLIPTextModelWithProjection, "quick_gelu", 37),
        (transformers.CLIPTextModelWithProjection, "gelu", 39),
    ],
)
def test_a_published_tower_gives_what_the_original_does(build, activation, eos):
    published = transformers.CLIPTextConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=9,
        projection_dim=16,
        hidden_act=activation,
        layer_norm_eps=1e-3,
        bos_token_id=1,
        eos_token_id=eos,
    )
    original = build(published).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter.ndim == 1) * 0.5)
    config = TextConfig.from_reference({**published.to_dict(), "architectures": [build.__name__]})
    graph, like = abstract_params(TextTower, config)
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    params = convert(tensors, like, CLIP_TEXT_RULES, CLIP_TEXT_IGNORED)
    ours = nnx.merge(graph, jax.tree.map(jnp.asarray, params))

    end = 39 if eos == 2 else eos  # the first configurations say 2 and mean the largest id
    tokens = np.random.default_rng(0).integers(3, 37, (2, 9))
    tokens[0, 4:] = end
    tokens[1, 6:] = [end, 3, 4]
    with torch.no_grad():
        wanted = original(torch.tensor(tokens))
    hidden, pooled = ours(tokens)
    results = {"last_hidden_state": hidden}
    if config.projection is None:
        results["pooler_output"] = pooled
    else:
        results["text_embeds"] = ours.embed(tokens)
    for name, found in results.items():
        original_value = wanted[name].numpy()
        assert np.abs(found - original_value).max() <= 1e-5 * np.abs(original_value).max(), name


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (TextConfig.clip_vit_large_patch14(), 123_650_304),
        (TextConfig.open_clip_bigg(), 694_659_840),
    ],
)
def test_published_towers_have_their_number_of_parameters(config, parameters):
    _, like = abstract_params(TextTower, config)
    assert sum(leaf.size for leaf in flatten(like).values()) == parameters
