"""The fused attention for TPU, interpreted, against the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.generators import open_generator
from tts_jax.nn import attention
from tts_jax.nn.attention import TokenMask, attend, attend_by_frames, attend_in_parts
from tts_jax.parallel import make_mesh
from tts_jax.planning import chips, executable


@pytest.fixture(scope="module")
def inputs():
    """Queries, keys and values that fill no tile: 3 of two clips, 2 heads; [B, L, N, K]."""
    q = jax.random.normal(jax.random.key(0), (2, 150, 2, 16))
    k, v = jax.random.normal(jax.random.key(1), (2, 2, 200, 2, 16))
    return q, k, v


def history_mask():
    """Text and padding of two prompts, then clips that see themselves and what came before."""
    valid = jnp.arange(200) < jnp.array([[190], [130]])
    time = jnp.arange(200) // 40
    seen = (time[50:, None] >= time) & valid[:, None, :]
    return seen.at[1, 3].set(False)  # one query sees nothing


def test_the_kernel_is_attention(inputs, monkeypatch):
    monkeypatch.setattr(attention, "TILE_Q", 128)
    monkeypatch.setattr(attention, "TILE_K", 128)
    mask = history_mask()
    for seen in (None, mask, mask[:1]):
        found = attend(*inputs, seen, implementation="splash")
        np.testing.assert_allclose(found, attend(*inputs, seen), rtol=1e-5, atol=1e-5)


def token_mask(ends=True):
    """Queries that see their own group, up to a last key; padding in front and in the middle."""
    keys = jnp.arange(200)
    groups = (keys >= jnp.array([[5], [30]])) & (keys // 20 != 4)
    last = jnp.repeat(jnp.arange(1, 6) * 40, 30)
    return TokenMask(last if ends else None, groups[:, 50:], groups)


@pytest.mark.parametrize("implementation", ["xla", "blocks", "splash"])
def test_a_mask_by_tokens_is_that_of_its_pairs(inputs, implementation, monkeypatch):
    monkeypatch.setattr(attention, "TILE_Q", 128)
    monkeypatch.setattr(attention, "TILE_K", 128)
    monkeypatch.setattr(attention, "BLOCK", 64)
    for mask in (token_mask(), token_mask(ends=False)):
        pairs = mask.pairs()
        assert pairs.any(-1).all() and 0.2 < pairs.mean() < 0.9
        found = attend(*inputs, mask, implementation=implementation)
        np.testing.assert_allclose(found, attend(*inputs, pairs), rtol=1e-5, atol=1e-5)


def test_pairs_of_a_mask_by_tokens():
    mask = TokenMask(jnp.array([1, 3]), jnp.array([[1, 2]]), jnp.array([[1, 2, 2]]))
    assert mask.pairs().tolist() == [[[True, False, False], [False, True, True]]]


def test_tiles_leave_little_of_the_last_one_empty():
    assert [attention._tile(n, 1024) for n in (100, 1000, 17776, 15488, 2048)] == [
        128,
        1024,
        896,
        896,
        1024,
    ]


def test_devices_divide_heads_that_are_no_multiple_of_them(inputs, monkeypatch):
    monkeypatch.setattr(attention, "TILE_Q", 128)
    monkeypatch.setattr(attention, "TILE_K", 128)
    q, k, v = (jnp.concatenate([x, 2 * x[:, :, :1]], axis=2) for x in inputs)
    mask = token_mask()
    split = partial(attend, implementation="splash")
    with jax.set_mesh(make_mesh(1, 2, devices=jax.devices()[:2])):
        assert "[2,128,2,16]" in str(jax.make_jaxpr(split)(q[:, :128], k[:, :128], v[:, :128]))
        found = jax.jit(split)(q, k, v, mask)
    np.testing.assert_allclose(found, attend(q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_parts_of_keys_by_the_kernel_are_attention_over_all(inputs, monkeypatch):
    monkeypatch.setattr(attention, "TILE_Q", 128)
    monkeypatch.setattr(attention, "TILE_K", 128)
    q, k, v = inputs
    there = jnp.arange(140) < 130
    parts = [(k[:, :140], v[:, :140], there), (k[:, 140:], v[:, 140:], None)]
    mask = jnp.concatenate([there, jnp.ones(60, bool)])[None, None]
    whole = attend(q, k, v, mask)
    for implementation in ("splash", "blocks"):
        found = attend_in_parts(q, parts, implementation=implementation)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
    nothing = [(k[:, :140], v[:, :140], there & False), parts[1]]
    found = attend_in_parts(q, nothing, implementation="splash")
    np.testing.assert_allclose(found, attend(q, *parts[1][:2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ends", [True, False])
def test_parts_of_a_mask_by_tokens_are_the_whole_of_it(inputs, ends, monkeypatch):
    monkeypatch.setattr(attention, "TILE_Q", 128)
    monkeypatch.setattr(attention, "TILE_K", 128)
    (q, k, v), mask = inputs, token_mask(ends)
    masks = mask.of_keys(0, 140), mask.of_keys(140, 200)
    pairs = jnp.concatenate([own.pairs() for own in masks], axis=-1)
    assert (pairs == mask.pairs()).all() and not masks[1].pairs().any(-1).all()
    parts = [(k[:, :140], v[:, :140], masks[0]), (k[:, 140:], v[:, 140:], masks[1])]
    found = attend_in_parts(q, parts, implementation="splash")
    np.testing.assert_allclose(found, attend(q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_siblings_on_tpu_hold_the_keys_that_they_share_once():
    _, devices = chips.tpu_devices("v5e:2x2")
    alone = jax.sharding.SingleDeviceSharding(devices[0])

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=alone)

    own, past = array(8, 1, 1024, 2, 128), array(1, 16384, 2, 128)
    size = 2 * past.size * past.dtype.itemsize

    def child(q, k, v, keys, values):
        there = jnp.arange(past.shape[1]) < 16000
        parts = [(keys, values, there), (k, v, None)]
        return attend_in_parts(q, parts, implementation="auto")

    with attention.on_platform("tpu"):
        family = jax.jit(jax.vmap(child, (0, 0, 0, None, None)))
        compiled = executable.compile_for(family.lower(own, own, own, past, past))
    assert compiled.as_text().count("tpu_custom_call") >= 2
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * size


def test_frames_see_frames_as_by_a_mask_of_tokens(inputs):
    q, k, v = (x[:, :150] for x in inputs)  # 5 frames of 30 tokens
    seen = np.tril(np.ones((5, 5), bool))
    seen[3:] = [True, False, False, True, True]
    mask = jnp.asarray(np.kron(seen, np.ones((30, 30))) > 0)[None]
    found = attend_by_frames(q, k, v, seen)
    np.testing.assert_allclose(found, attend(q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_auto_takes_what_the_platform_has(inputs, monkeypatch):
    def chosen(platform, dtype, devices=1, mask=None):
        monkeypatch.setattr(attention, "_divided", lambda: {"model": devices})
        with attention.on_platform(platform):
            return attention._choose(*(x.astype(dtype) for x in inputs[:2]), mask)

    assert chosen("tpu", jnp.bfloat16) == "xla"  # too short to gain
    monkeypatch.setattr(attention, "TILE_K", 402)
    assert chosen("tpu", jnp.bfloat16) == "xla"  # 200 keys are less than half a tile
    monkeypatch.setattr(attention, "TILE_K", 400)
    assert chosen("tpu", jnp.bfloat16) == chosen("tpu", jnp.bfloat16, mask=token_mask()) == "splash"
    assert chosen("tpu", jnp.bfloat16, mask=history_mask()) == "xla"
    monkeypatch.setattr(attention, "TILE_K", 200)
    assert chosen("tpu", jnp.bfloat16, mask=history_mask()) == "splash"
    assert chosen("tpu", jnp.bfloat16, devices=2) == "splash"
    assert chosen("tpu", jnp.bfloat16, devices=4) == "xla"  # two heads for four devices
    assert chosen("tpu", jnp.float32) == chosen("cpu", jnp.bfloat16) == "xla"
    assert chosen("gpu", jnp.bfloat16) == "cudnn"


def test_the_kernel_on_gpus_is_mapped_over_all_it_takes(inputs, monkeypatch):
    """It cannot be over queries alone, as it would where siblings share keys, nor broadcast."""
    mapped, shapes = [], []

    @jax.custom_batching.custom_vmap
    def kernel(q, k, v, mask):
        shapes.append(mask.shape)
        return attend(q, k, v, mask[:, 0])

    @kernel.def_vmap
    def over(size, batched, q, k, v, mask):
        mapped.append(tuple(batched))
        return jax.vmap(kernel.fun, (0, 0, 0, None))(q, k, v, mask), True

    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, k, v, mask, implementation: kernel(q, k, v, mask)
    )
    q, k, v = inputs
    mask = history_mask()[:1, :1]  # of all queries alike
    queries = jnp.stack([q, 2 * q])
    found = jax.vmap(lambda q: attend(q, k, v, mask, implementation="cudnn"))(queries)
    assert mapped == [(True, True, True, False)] and set(shapes) == {(1, 1, 150, 200)}
    for own, q in zip(found, queries, strict=True):
        np.testing.assert_allclose(own, attend(q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_a_config_chooses_the_attention():
    generator = open_generator("pyramid_flow", attention="splash")
    assert generator.config.transformer.attention == "splash"
    with pytest.raises(ValueError, match="unknown attention 'flash'; there are auto, xla"):
        open_generator("pyramid_flow", attention="flash")
