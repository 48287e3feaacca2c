"""Parameters as nested dictionaries, and safetensors files of them.

A parameter's flat name is its keys joined by dots: `blocks.attention.q.kernel`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable or of another shape than the model."""


def flatten(params: Mapping) -> dict[str, jax.Array]:
    """Flat names to leaves of a nested parameter dictionary, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {".".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, object], like: Mapping) -> dict:
    """Nested dictionary with the structure of `like` and the leaves of `flat`."""
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    names = [".".join(str(entry.key) for entry in path) for path, _ in paths]
    return jax.tree.unflatten(tree, [flat[name] for name in names])


def abstract_params(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, dict]:
    """Graph and abstract parameters (ShapeDtypeStruct leaves) of a model, allocating nothing.

    Args:
      build: a function that constructs the module, e.g. `lambda: VAE(config, rngs=nnx.Rngs(0))`.
    """
    graph, state = nnx.split(nnx.eval_shape(build))
    return graph, nnx.to_pure_dict(state)


def init_params(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, dict]:
    """Graph and freshly initialised parameters of a model."""
    graph, state = nnx.split(build())
    return graph, nnx.to_pure_dict(state)


def save_safetensors(path: Path | str, params: Mapping, dtype=np.float16) -> None:
    """Writes parameters under their flat names, by atomic rename.

    Args:
      path: the file to write.
      params: nested dictionary of arrays.
      dtype: storage type of floating-point leaves.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    tensors = {name: np.asarray(leaf).astype(dtype) for name, leaf in flatten(params).items()}
    temporary.write_bytes(save(tensors))  # save_file would hide the file from other users
    temporary.replace(path)


def load_safetensors(path: Path | str, like: Mapping, dtype=jnp.float32) -> dict:
    """Reads parameters into the structure of `like`; names and shapes must match exactly.

    Args:
      path: a safetensors file written by `save_safetensors`.
      like: nested dictionary whose leaves have the wanted shapes.
      dtype: type of the returned arrays.

    Raises:
      CheckpointError: the file is missing, truncated, or has other tensors than the model; all
        differences are in the one message.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    wanted = flatten(like)
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in wanted]
    faults += [
        f"{name} has shape {tensors[name].shape}, the model wants {wanted[name].shape}"
        for name in wanted
        if name in tensors and tensors[name].shape != tuple(wanted[name].shape)
    ]
    if faults:
        raise CheckpointError(f"checkpoint {path} does not fit the model: {'; '.join(faults)}")
    return unflatten({name: jnp.asarray(tensors[name], dtype) for name in wanted}, like)
