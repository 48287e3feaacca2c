"""Causal convolutions."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.nn import conv
from tts_jax.nn.conv import CausalConv3d, Window


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2)])
def test_large_clips_are_folded_frame_by_frame_with_the_same_result(monkeypatch, strides):
    time, space = strides
    layer = CausalConv3d(3, 5, time_stride=time, space_stride=space, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 6, 4, 3)), jnp.float32)

    def run():
        window = Window()
        first = layer(x[:, :5], window)
        return np.concatenate([first, layer(x[:, 5:], Window(window.kept))], axis=1)

    together = run()
    monkeypatch.setattr(conv, "FOLDED", 0)
    assert together.shape[1] == -(-x.shape[1] // time)
    np.testing.assert_allclose(run(), together, atol=1e-5)
