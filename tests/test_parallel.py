"""Meshes and batches of branches on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.parallel import MeshError, branch_mesh, over_branches, replicate, split


def test_a_mesh_has_the_devices_asked_for():
    assert branch_mesh().shape == {"branch": len(jax.devices())}
    assert branch_mesh(3).shape == {"branch": 3}


@pytest.mark.parametrize("devices", [-1, 1000])
def test_a_mesh_that_cannot_be_is_refused(devices):
    with pytest.raises(MeshError, match=f"{devices} devices"):
        branch_mesh(devices)


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
