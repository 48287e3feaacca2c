"""Phi beside the one of the transformers package, and beside what was recorded of it in NOVA."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from converters.core import check, convert
from converters.nova import PHI_IGNORED, PHI_RULES
from tts_jax.checkpoints import abstract_params
from tts_jax.language.phi import PhiConfig, PhiEncoder, PhiTokenizer


def encoder(config, tensors):
    graph, like = abstract_params(PhiEncoder, config)
    params = convert(tensors, like, PHI_RULES, PHI_IGNORED)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


@pytest.fixture(scope="module")
def pair():
    """The original and ours with the same weights."""
    published = transformers.PhiConfig(
        vocab_size=50,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=3,
        partial_rotary_factor=0.25,
        layer_norm_eps=1e-4,
    )
    original = transformers.PhiModel(published).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in original.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(noise * scale + (1.0 if parameter.ndim == 1 else 0.0))
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    return original, encoder(PhiConfig.from_reference(published.to_dict()), tensors)


def test_states_are_those_of_the_original(pair):
    original, ours = pair
    tokens = np.random.default_rng(0).integers(0, 50, (3, 40))
    with torch.no_grad():
        wanted = original(torch.tensor(tokens)).last_hidden_state.numpy()
    found = jax.jit(lambda tokens: ours(tokens))(tokens)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_padding_does_not_change_what_is_real(pair):
    _, ours = pair
    tokens = np.random.default_rng(1).integers(0, 50, (1, 12))
    other = np.where(np.arange(12) < 7, tokens, 49 - tokens)
    run = jax.jit(lambda tokens: ours(tokens))
    np.testing.assert_array_equal(run(tokens)[:, :7], run(other)[:, :7])
    assert np.abs(run(tokens)[:, 7:] - run(other)[:, 7:]).max() > 0.1


def test_states_are_the_recorded_ones(golden):
    folder = golden("nova_transformer")
    config = json.loads((folder / "text_encoder_config.json").read_text())
    tensors = load_file(folder / "text_encoder_weights.safetensors")
    ours = encoder(PhiConfig.from_reference(config), tensors)
    recorded = load_file(folder / "io.safetensors")
    found = jax.jit(lambda tokens: ours(tokens))(recorded["phi/input_ids"])
    np.testing.assert_allclose(found, recorded["phi/last_hidden_state"], atol=5e-5, rtol=2e-5)


def test_every_published_tensor_is_taken_once(golden):
    manifest = json.loads((golden("manifests") / "nova_text_encoder_phi2.json").read_text())
    _, like = abstract_params(PhiEncoder, PhiConfig.phi_2())
    assert len(check(manifest, like, PHI_RULES, PHI_IGNORED)) == len(manifest)
    causal = {f"model.{name}": shape for name, shape in manifest.items()}
    causal |= {"lm_head.weight": [51200, 2560], "lm_head.bias": [51200]}
    assert len(check(causal, like, PHI_RULES, PHI_IGNORED)) == len(manifest)


@pytest.mark.parametrize(
    "field", [{"hidden_act": "silu"}, {"qk_layernorm": True}, {"num_key_value_heads": 1}]
)
def test_settings_that_phi_2_has_not_are_refused(pair, field):
    fields = pair[0].config.to_dict()
    with pytest.raises(ValueError, match=next(iter(field))):
        PhiConfig.from_reference(fields | field)


@pytest.mark.parametrize("files", ["saved", "parts"])
def test_texts_have_no_end_token_and_lose_what_is_too_long(tmp_path, files):
    vocabulary = {c: i for i, c in enumerate([*"abĠ", "<|endoftext|>", "ab"])}
    saved = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    saved.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if files == "saved":
        saved.save(str(tmp_path / "tokenizer.json"))
    else:
        saved.model.save(str(tmp_path))
    tokens, mask = PhiTokenizer(tmp_path, 4).tokenize(["", "ab a", "ababababab"])
    np.testing.assert_array_equal(mask.sum(1), [0, 3, 4])
    np.testing.assert_array_equal(tokens, [[3, 3, 3, 3], [4, 2, 0, 3], [4, 4, 4, 4]])


def test_a_missing_tokenizer_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        PhiTokenizer(tmp_path, 4)
