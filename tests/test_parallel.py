"""The mesh: what lies where on it, and that nothing computed on it is another number."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from tts_jax import parallel
from tts_jax.checkpoints import abstract_params, flatten
from tts_jax.generators.cogvideox import transformer as cogvideox
from tts_jax.generators.pyramid_flow import transformer as flux
from tts_jax.generators.pyramid_flow.denoiser import Clip
from tts_jax.parallel import (
    MeshError,
    branch_mesh,
    devices_of_a_model,
    make_mesh,
    over_branches,
    place,
    replicate,
    rule,
    split,
)
from tts_jax.search import expansion

WIDTHS = dict(heads=4, head_size=16, latent_channels=4, text_width=64)


def test_a_mesh_has_the_devices_asked_for():
    count = len(jax.devices())
    assert branch_mesh().shape == {"branch": count, "model": 1, "sequence": 1}
    assert branch_mesh(3).shape["branch"] == 3
    assert make_mesh(0, 2, 2).shape == {"branch": count // 4, "model": 2, "sequence": 2}
    assert make_mesh(1, 0, 2).shape == {"branch": 1, "model": count // 2, "sequence": 2}
    assert make_mesh(0, 0, 3).shape == {"branch": count // 3, "model": 1, "sequence": 3}
    ids = np.vectorize(lambda device: device.id)(make_mesh(2, 2, 2).devices)
    np.testing.assert_array_equal(ids, np.arange(8).reshape(2, 2, 2))


def test_parameters_are_divided_over_the_fewest_devices_that_leave_room():
    for searching, loading, count in (
        (8, 14, 1),  # half of the memory, and nine tenths
        (9, 14, 2),
        (8, 15, 2),
        (33, 33, 8),
        (1000, 1000, 16),  # none is enough
    ):
        assert devices_of_a_model(searching, loading, 16, 16) == count
    assert devices_of_a_model(9, 9, 16, 1) == 1
    assert devices_of_a_model(1000, 1000, 16, 12) == 4  # the rest would have no branches


@pytest.mark.parametrize(
    ("sizes", "devices"), [((-1,), -1), ((1000,), 1000), ((0, 3, 3), 9), ((2, 2, 3), 12)]
)
def test_a_mesh_that_cannot_be_is_refused(sizes, devices):
    with pytest.raises(MeshError, match=f"a mesh of {devices} devices .* but 8 exist"):
        make_mesh(*sizes)


def test_branches_are_divided_and_parameters_copied():
    mesh = branch_mesh(8)
    params, branches = replicate(jnp.ones(5), mesh), split(jnp.ones((16, 3)), mesh)
    assert {s.data.shape for s in params.addressable_shards} == {(5,)}
    assert [s.data.shape for s in branches.addressable_shards] == [(2, 3)] * 8


def test_each_device_runs_its_share():
    mesh = branch_mesh(8)
    shapes = []

    def scale(factor, branches):
        shapes.append(branches.shape)
        return {"scaled": factor * branches}

    batch = np.arange(48.0, dtype=np.float32).reshape(16, 3)
    result = jax.jit(over_branches(scale, mesh, shared=1))(2.0, split(batch, mesh))["scaled"]
    np.testing.assert_array_equal(result, 2 * batch)
    assert set(shapes) == {(2, 3)}
    assert len(result.sharding.device_set) == 8


def test_only_survivors_cross_devices():
    """Of a pool of 64 branches on four devices, what is gathered: eight."""
    mesh = make_mesh(4)
    pool, slots = split(np.zeros((64, 16)), mesh), replicate(np.zeros(8, np.int32), mesh)
    program = jax.jit(expansion.take, out_shardings=NamedSharding(mesh, PartitionSpec("branch")))
    text = program.lower(pool, slots).compile().as_text()
    moved = re.findall(r"f32\[([\d,]+)\]\S* (?:all-|collective-|reduce-scatter)[\w-]*\(", text)
    assert moved and set(moved) == {"8,16"}


def test_a_rule_divides_the_columns_of_a_matrix_and_the_rows_of_the_next():
    assert tuple(rule("dit.blocks.attention.q.kernel", (9, 64, 128), 4)) == (None, None, "model")
    assert tuple(rule("dit.blocks.attention.out.kernel", (9, 128, 64), 4)) == (None, "model")
    assert tuple(rule("vae.up.0.conv.kernel", (3, 3, 3, 128, 64), 4)) == (*[None] * 3, "model")
    assert tuple(rule("head.kernel", (64, 129), 4)) == ("model",)  # 129 columns are no multiple
    for name, shape in (("blocks.q.kernel", (9, 63, 129)), ("blocks.q.bias", (9, 4096))):
        assert tuple(rule(name, shape, 4)) == ()
    assert tuple(rule("blocks.q.kernel", (9, 64, 128), 1)) == ()


@pytest.fixture(scope="module")
def published():
    """Every published network by name, as shapes."""
    from converters.registry import COMPONENTS

    networks = "pyramid_flow_flux", "cogvideox_5b_transformer", "nova_vae"
    texts, judges = ("t5_v1_1_xxl_encoder", "clip_l_text"), ("viclip", "videoscore")
    return {
        name: COMPONENTS[name].abstract(COMPONENTS[name].published())[1]
        for name in (*networks, *texts, *judges)
    }


def test_published_networks_of_every_kind_are_nearly_all_divided(published):
    mesh = make_mesh(1, 4, 1)
    for name, params in published.items():
        placed = flatten(place(params, mesh)).values()
        held = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in placed)
        assert held < 0.265 * sum(x.size for x in placed), name


def filled(abstract):
    rng = np.random.default_rng(0)
    fan = {2: 1.0, 3: 1.0}
    return jax.tree.map(
        lambda x: (
            rng.normal(size=x.shape).astype(np.float32)
            * (x.shape[-2] ** -0.5 if len(x.shape) in fan and min(x.shape[-2:]) > 9 else 0.3)
        ),
        abstract,
    )


def cogvideox_denoiser():
    config = cogvideox.TransformerConfig(layers=2, time_width=64, rotary=True, **WIDTHS)
    graph, params = abstract_params(cogvideox.Transformer, config)

    def denoise(params, text, latents):
        time = jnp.full(1, 321.0)
        return nnx.merge(graph, params)(latents[None], text[None], time)[0]

    return denoise, filled(params), (4, 64)


def pyramid_flow_denoiser():
    sizes = dict(double_blocks=1, single_blocks=1, rope_axes=(4, 6, 6), pooled_width=64)
    config = flux.TransformerConfig(**sizes, **WIDTHS)
    graph, params = abstract_params(flux.Transformer, config)

    def denoise(params, text, latents):
        model, mask = nnx.merge(graph, params), jnp.array([[1, 1, 1, 0]])
        past = Clip(0.5 * latents[None, :1], jnp.arange(1), jnp.ones(1, bool))
        own = latents[None, 1:]
        time = jnp.full(1, 321.0)
        return model(own, jnp.arange(1, 3), (past,), text[None], mask, text[:1], time)[0]

    return denoise, filled(params), (4, 64)


@pytest.mark.parametrize("make", [cogvideox_denoiser, pyramid_flow_denoiser])
def test_divided_parameters_and_sequences_give_the_same_numbers(make, monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 1)
    denoise, params, text = make()
    rng = np.random.default_rng(1)
    text = rng.normal(size=text).astype(np.float32)
    latents = rng.normal(size=(2, 3, 8, 8, 4)).astype(np.float32)
    each = jax.vmap(denoise, (None, None, 0))
    wanted = jax.jit(each)(params, text, latents)

    mesh = make_mesh(2, 2, 2)
    placed = place(params, mesh)
    program = jax.jit(over_branches(each, mesh, shared=2)).lower(
        placed, replicate(text, mesh), split(latents, mesh)
    )
    compiled = program.compile()
    found = compiled(placed, replicate(text, mesh), split(latents, mesh))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)
    assert "all-to-all" in compiled.as_text()
