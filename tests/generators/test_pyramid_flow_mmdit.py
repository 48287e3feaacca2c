"""What is peculiar to the SD3 denoiser; its parity is tested beside miniFLUX's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.generators.pyramid_flow.mmdit import MMDiT, MMDiTConfig
from tts_jax.nn.embeddings import position_table

SMALL = MMDiTConfig(
    heads=2,
    head_size=8,
    blocks=1,
    latent_channels=4,
    text_width=6,
    pooled_width=5,
    table_size=8,
    base_size=4,
)


@pytest.fixture(scope="module")
def model():
    return MMDiT(SMALL, rngs=nnx.Rngs(0))


def places(model, grid, own_grid):
    """What is added to the tokens of a clip with this grid, [rows, columns, D]."""
    latents = jnp.zeros((1, 1, 2 * grid[0], 2 * grid[1], SMALL.latent_channels))
    tokens = model.embed_clip(latents, own_grid) - model.latent_embed.bias[...]
    return np.asarray(tokens).reshape(*grid, SMALL.width)


def test_the_table_is_the_published_one(golden):
    folder = golden("pyramid_flow_mmdit")
    config = MMDiTConfig.from_reference(json.loads((folder / "config.json").read_text()))
    published = load_file(folder / "weights.safetensors")["pos_embed.pos_embed"]
    table = position_table(config.table_size, config.width, config.base_size)
    np.testing.assert_allclose(table.reshape(published.shape), published, atol=1e-5)


def test_clips_share_the_middle_of_the_table(model):
    table = np.asarray(model.positions)
    own = places(model, (4, 6), (4, 6))
    np.testing.assert_allclose(own, table[2:6, 1:7], atol=1e-6)
    half = places(model, (2, 3), (4, 6))
    np.testing.assert_allclose(half, own.reshape(2, 2, 3, 2, -1).mean((1, 3)), atol=1e-6)
    whole = places(model, (8, 8), (8, 8))
    quarter = places(model, (2, 2), (8, 8))
    inner = whole.reshape(2, 4, 2, 4, -1)[:, 1:3, :, 1:3].mean((1, 3))
    np.testing.assert_allclose(quarter, inner, atol=1e-6)


def test_a_clip_larger_than_the_table_is_refused(model):
    with pytest.raises(ValueError, match="table has 8"):
        places(model, (10, 4), (10, 4))


def test_one_block_is_enough(model):
    rng = np.random.default_rng(0)
    graph, params = nnx.split(model)
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params)
    clip = Clip(rng.standard_normal((1, 1, 4, 4, 4), np.float32), jnp.arange(1), jnp.ones(1, bool))
    own, text = np.ones((1, 1, 8, 8, 4), np.float32), np.ones((1, 3, 6), np.float32)
    inputs = own, jnp.arange(1, 2), (clip,), text, np.ones((1, 3)), np.ones((1, 5)), np.ones(1)
    velocity = jax.jit(lambda p, *xs: nnx.merge(graph, p)(*xs))(params, *inputs)
    assert velocity.shape == own.shape and np.isfinite(velocity).all() and np.ptp(velocity) > 0


def test_settings_that_no_checkpoint_has_are_refused(golden):
    fields = json.loads((golden("pyramid_flow_mmdit") / "config.json").read_text())
    for name, value in (("patch_size", 4), ("qk_norm", None), ("temp_pos_embed_type", "sincos")):
        with pytest.raises(ValueError, match=name):
            MMDiTConfig.from_reference({**fields, name: value})
