"""Decoder-only language models beside those of the transformers package."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from converters.core import check, convert
from converters.decoder import IGNORED, TIED, decoder_rules
from tests.published import random_module
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.language.decoder import (
    Decoder,
    DecoderConfig,
    consecutive,
    generate,
    restrict,
)

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama3": (transformers.LlamaForCausalLM, {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "mistral": (transformers.MistralForCausalLM, {"sliding_window": 5, "head_dim": 8}),
    "qwen2": (transformers.Qwen2ForCausalLM, {"tie_word_embeddings": False}),
    "qwen2_tied_windowed": (
        transformers.Qwen2ForCausalLM,
        {
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 2,
        },
    ),
}


def randomise(model, seed):
    """Gives every parameter random values, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(noise * scale * 1.5 + (1.0 if parameter.ndim == 1 else 0.0))


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request):
    """The original and ours with the same weights."""
    build, fields = FAMILIES[request.param]
    published = build.config_class(**SIZES, **fields)
    original = build(published).eval()
    randomise(original, seed=4)
    config = DecoderConfig.from_reference(published.to_dict())
    graph, like = abstract_params(Decoder, config)
    tied = config.head == "tied"
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    params = convert(tensors, like, decoder_rules(head=not tied), TIED if tied else IGNORED)
    return original, nnx.merge(graph, jax.tree.map(jnp.asarray, params))


def batch(side, length=13):
    """Tokens of three rows of different lengths, and which of them are no padding."""
    tokens = np.random.default_rng(0).integers(3, 61, (3, length))
    counts = np.array([[length], [4], [9]])
    seen = np.arange(length) < counts
    seen = seen if side == "right" else seen[:, ::-1]
    return np.where(seen, tokens, 0), seen


@jax.jit
def logits_of(model, tokens, seen):
    return model.logits(model(model.embed(tokens), seen=seen)[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_those_of_the_original(pair, side):
    original, ours = pair
    tokens, seen = batch(side)
    with torch.no_grad():
        wanted = original(
            torch.tensor(tokens),
            attention_mask=torch.tensor(seen.astype(np.int64)),
            position_ids=torch.tensor(np.asarray(consecutive(jnp.asarray(seen)))).long(),
        ).logits.numpy()
    found = np.asarray(logits_of(ours, tokens, seen))
    assert np.abs(found - wanted)[seen].max() <= 2e-5 * np.abs(wanted).max()


def test_greedy_continuations_are_those_of_the_original(pair):
    original, ours = pair
    tokens, seen = batch("left")
    with torch.no_grad():
        wanted = original.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(seen.astype(np.int64)),
            max_new_tokens=9,
            min_new_tokens=9,
            do_sample=False,
            pad_token_id=0,
        )[:, tokens.shape[1] :].numpy()
    shortest = jax.jit(lambda m, t, s: generate(m, m.embed(t), s, 9))
    found = np.asarray(shortest(ours, tokens, seen))
    rows = (found != 2).all(1)  # the original forbids the end token for as long as it must go on
    assert rows.any()
    np.testing.assert_array_equal(found[rows], wanted[rows])
    seen = batch("right")[1]
    rolled = np.stack([np.roll(t, s.sum()) for t, s in zip(tokens, seen, strict=True)])
    np.testing.assert_array_equal(shortest(ours, rolled, seen), found)


@pytest.fixture(scope="module")
def small():
    config = DecoderConfig(
        vocabulary=31,
        width=16,
        heads=4,
        kv_heads=2,
        head_size=4,
        layers=2,
        mlp=24,
        bias=True,
        window=9,
        window_from=1,
    )
    return random_module(Decoder, config, 1)


@jax.jit
def _run(model, x, positions, seen, cache, prefix):
    return model(x, positions, seen, cache=cache, prefix=prefix)


def run(model, x, positions=None, seen=None, *, cache=None, prefix=None):
    """The model, compiled once for all tests with such shapes."""
    return _run(model, x, positions, seen, cache, prefix)


def whole(model, x):
    return run(model, x)[0]


@partial(jax.jit, static_argnums=3)
def greedy(model, x, seen, ends):
    return generate(model, x, seen, 8, ends=ends)


def test_a_cache_gives_what_the_whole_sequence_gives(small):
    x = jax.random.normal(jax.random.key(0), (2, 12, 16))
    cache, pieces = small.cache(2, 15), []
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        positions = jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start))
        out, cache = run(small, x[:, start:stop], positions, cache=cache)
        pieces.append(out)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole(small, x), atol=2e-5)
    assert cache.length == 12
    assert (cache.positions[:, 12:] == -1).all()


def test_rows_share_a_prefix_without_copies_of_it(small):
    begin = jax.random.normal(jax.random.key(0), (2, 7, 16))
    tails = jax.random.normal(jax.random.key(1), (2, 3, 5, 16))
    _, prefix = run(small, begin)
    assert prefix.k.shape[:3] == (2, 2, 7)
    found, _ = run(small, tails.reshape(6, 5, 16), prefix=prefix)
    joined = jnp.concatenate([jnp.repeat(begin, 3, 0), tails.reshape(6, 5, 16)], 1)
    np.testing.assert_allclose(found, whole(small, joined)[:, 7:], atol=2e-5)


def test_a_prefix_and_a_cache_together_give_the_whole_sequence(small):
    x = jax.random.normal(jax.random.key(0), (2, 12, 16))
    _, prefix = run(small, x[:, :6])
    cache, pieces = small.cache(2, 6), []
    for start, stop in ((6, 10), (10, 12)):
        positions = jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start))
        out, cache = run(small, x[:, start:stop], positions, cache=cache, prefix=prefix)
        pieces.append(out)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole(small, x)[:, 6:], atol=2e-5)


def test_unseen_tokens_in_a_prefix_are_as_if_absent(small):
    x = jax.random.normal(jax.random.key(0), (1, 9, 16))
    seen = jnp.array([[1, 1, 0, 1, 0, 1, 1, 1, 0]], bool)
    _, prefix = run(small, x, seen=seen)
    tail = jax.random.normal(jax.random.key(2), (1, 3, 16))
    found, _ = run(small, tail, prefix=prefix)
    dense = jnp.concatenate([x[:, np.flatnonzero(seen[0])], tail], 1)
    np.testing.assert_allclose(found, whole(small, dense)[:, 6:], atol=2e-5)


def test_a_row_ends_at_its_end_token_and_leaves_the_others_alone(small):
    x = jax.random.normal(jax.random.key(3), (3, 6, 16))
    seen = jnp.ones((3, 6), bool)
    free = np.asarray(greedy(small, x, seen, ()))
    end = int(free[0, 3])
    found = np.asarray(greedy(small, x, seen, (end,)))
    for row, wanted in zip(found, free, strict=True):
        stop = list(wanted).index(end) + 1 if end in wanted else 8
        np.testing.assert_array_equal(row[:stop], wanted[:stop])
        assert (row[stop:] == end).all()


def test_a_drawn_row_depends_on_its_own_key_alone(small):
    x = jax.random.normal(jax.random.key(3), (3, 6, 16))
    keys = jax.random.split(jax.random.key(5), 3)
    draw = jax.jit(lambda x, keys: generate(small, x, jnp.ones(x.shape[:2], bool), 6, keys=keys))
    both, alone = draw(x, keys), draw(x[1:2], keys[1:2])
    np.testing.assert_array_equal(both[1:2], alone)
    assert (draw(x, keys[::-1]) != both).any()


def test_only_the_likeliest_tokens_can_be_drawn():
    logits = jnp.log(jnp.array([[0.5, 0.05, 0.3, 0.15]]))
    np.testing.assert_array_equal(jnp.isfinite(restrict(logits, 2)), [[1, 0, 1, 0]])
    np.testing.assert_array_equal(jnp.isfinite(restrict(logits, 0, 0.81)), [[1, 0, 1, 1]])
    np.testing.assert_array_equal(jnp.isfinite(restrict(logits, 0, 0.1)), [[1, 0, 0, 0]])
    warper = transformers.TopPLogitsWarper(0.7)
    wanted = warper(None, torch.tensor(np.array(logits))).numpy()
    np.testing.assert_allclose(restrict(logits, 0, 0.7), wanted)


def test_three_axes_with_equal_positions_are_one_axis():
    fields = {"vocabulary": 9, "width": 16, "heads": 2, "kv_heads": 1, "head_size": 16}
    config = DecoderConfig(**fields, layers=1, mlp=8, sections=(2, 3, 3))
    rotation = partial(Decoder.rotation, SimpleNamespace(config=config))
    positions = jnp.arange(5)[None]
    flat = rotation(positions)
    np.testing.assert_array_equal(flat, rotation(jnp.repeat(positions[:, None], 3, 1)))
    apart = jnp.stack([positions, 2 * positions, 3 * positions], 1)
    cos = rotation(apart)[0]
    np.testing.assert_array_equal(cos[..., 2:5], rotation(2 * positions)[0][..., 2:5])


@pytest.mark.parametrize(
    ("build", "fields", "config", "parameters"),
    [
        (transformers.LlamaForCausalLM, {}, DecoderConfig.llama3_8b(), 8_030_261_248),
        (transformers.MistralForCausalLM, {}, DecoderConfig.mistral_7b(), 7_241_732_096),
        (transformers.Qwen2ForCausalLM, {}, DecoderConfig.qwen2_7b(), 7_615_616_512),
    ],
)
def test_every_tensor_of_the_full_size_is_taken_once(build, fields, config, parameters):
    published = build.config_class(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        **fields,
    )
    with torch.device("meta"):
        shapes = {n: list(t.shape) for n, t in build(published).state_dict().items()}
    _, like = abstract_params(Decoder, config)
    assert len(check(shapes, like, decoder_rules(), IGNORED)) == len(shapes)
    assert sum(leaf.size for leaf in flatten(like).values()) == parameters


def test_settings_that_the_decoder_lacks_are_refused():
    fields = {k: v for k, v in SIZES.items() if k.startswith(("num", "hid", "int", "voc"))}
    for wrong in (
        {"model_type": "bert"},
        {"model_type": "llama", "hidden_act": "relu"},
        {"model_type": "llama", "attention_bias": True},
        {"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    ):
        with pytest.raises(ValueError, match=r"bert|relu|True|yarn"):
            DecoderConfig.from_reference({**fields, **wrong})
