import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.checkpoints import (
    CheckpointError,
    abstract_params,
    flatten,
    init_params,
    load_safetensors,
    save_safetensors,
    unflatten,
)


class Net(nnx.Module):
    def __init__(self, layers, *, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs) for _ in range(layers)])


def test_names_are_the_keys_joined_by_dots():
    _, params = init_params(Net, 2)
    assert list(flatten(params)) == [
        "layers.0.bias",
        "layers.0.kernel",
        "layers.1.bias",
        "layers.1.kernel",
    ]
    again = unflatten(flatten(params), params)
    assert jax.tree.structure(again) == jax.tree.structure(params)


def test_abstract_parameters_have_the_shapes_of_real_ones():
    graph, abstract = abstract_params(Net, 2)
    _, params = init_params(Net, 2)
    assert jax.tree.map(lambda x: x.shape, abstract) == jax.tree.map(lambda x: x.shape, params)
    assert len(nnx.merge(graph, params).layers) == 2


def test_a_saved_file_loads_to_the_same_numbers(tmp_path):
    _, params = init_params(Net, 2)
    save_safetensors(tmp_path / "net.safetensors", params, np.float32)
    loaded = load_safetensors(tmp_path / "net.safetensors", params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o044


def test_all_differences_are_in_one_error(tmp_path):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, {"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(CheckpointError) as error:
        load_safetensors(path, {"a": jnp.ones(4), "c": jnp.ones(1)})
    for part in ("missing c", "unexpected b", "a has shape (2,), the model wants (4,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_truncated_file_is_named(tmp_path, size):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, {"a": jnp.ones(100)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"net\.safetensors cannot be read"):
        load_safetensors(path, {"a": jnp.ones(100)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_safetensors(tmp_path / "none.safetensors", {})
