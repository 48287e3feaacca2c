"""The fused attention for TPU, interpreted, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.generators import open_generator
from tts_jax.nn import attention
from tts_jax.nn.attention import attend, attend_by_frames, attend_in_parts
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
    def chosen(platform, dtype, heads=1):
        monkeypatch.setattr(attention, "_divided", lambda: {"model": heads})
        with attention.on_platform(platform):
            return attention._choose(*(x.astype(dtype) for x in inputs[:2]))

    assert chosen("tpu", jnp.bfloat16) == "xla"  # too short to gain
    monkeypatch.setattr(attention, "TILE_K", 128)
    assert chosen("tpu", jnp.bfloat16) == "splash"
    assert chosen("tpu", jnp.bfloat16, heads=2) == "splash"
    assert chosen("tpu", jnp.bfloat16, heads=4) == "xla"  # two heads for four devices
    assert chosen("tpu", jnp.float32) == chosen("cpu", jnp.bfloat16) == "xla"
    assert chosen("gpu", jnp.bfloat16) == "cudnn"


def test_a_config_chooses_the_attention():
    generator = open_generator("pyramid_flow", attention="splash")
    assert generator.config.transformer.attention == "splash"
    with pytest.raises(ValueError, match="unknown attention 'flash'; there are auto, xla"):
        open_generator("pyramid_flow", attention="flash")
