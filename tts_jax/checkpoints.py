"""Parameters as nested dictionaries, and files of them: safetensors, or an orbax checkpoint.

A parameter's flat name is its keys joined by dots: `blocks.attention.q.kernel`. The package's own
models are small safetensors files, one per part. Converted models are one orbax checkpoint, the
folder `params`, whose tree is {part: {flat name: array}}; it is read straight onto devices.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from tts_jax import precision

ORBAX = "params"


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable or of another shape than the model."""


def flatten(params: Mapping) -> dict[str, jax.Array]:
    """Flat names to leaves of a nested parameter dictionary, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {_name(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, object], like: Mapping) -> dict:
    """Nested dictionary with the structure of `like` and the leaves of `flat`."""
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(tree, [flat[_name(path)] for path, _ in paths])


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


class _OneKey:
    """Stands in for `nnx.Rngs` where no number is drawn: counting draws takes long to trace."""

    def __init__(self, key):
        self._key = key

    def params(self):
        return self._key


@lru_cache(maxsize=256)
def _abstract(model, config):
    network = nnx.eval_shape(lambda: model(config, rngs=_OneKey(jax.random.key(0))))
    for _, node in nnx.iter_graph(network):
        if isinstance(node, nnx.Param):  # whatever type it is held in, modules read numbers
            node.set_metadata(on_get_value=precision.readable)
    graph, state = nnx.split(network)
    return graph, nnx.to_pure_dict(state)


def abstract_params(model: Callable, config: Hashable) -> tuple[nnx.GraphDef, dict]:
    """Graph and abstract parameters (ShapeDtypeStruct leaves) of a model, allocating nothing.

    Args:
      model: the module's class, or a function of a config and `rngs`.
      config: of the model; equal ones are traced once.
    """
    graph, params = _abstract(model, config)
    return graph, jax.tree.map(lambda x: x, params)


def init_params(model: Callable, config: Any, seed: int = 0) -> tuple[nnx.GraphDef, dict]:
    """Graph and freshly initialised parameters of a model; arguments as of `abstract_params`."""
    graph, state = nnx.split(model(config, rngs=nnx.Rngs(seed)))
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
    _refuse(path, differences(tensors, wanted))
    found = {name: tensors[name].astype(dtype) for name in wanted}  # not a program of each shape
    return unflatten(jax.device_put(found), like)


def differences(found: Mapping, wanted: Mapping) -> list[str]:
    """How the arrays of a checkpoint differ from a model's, by flat name and shape."""
    faults = [f"missing {name}" for name in wanted if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in wanted]
    return faults + [
        f"{name} has shape {tuple(found[name].shape)}, the model wants {tuple(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in found and tuple(found[name].shape) != tuple(leaf.shape)
    ]


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        raise CheckpointError(f"checkpoint {path} does not fit the model: {'; '.join(faults)}")


def load_parts(
    folder: Path | str, likes: Mapping[str, Mapping], dtype=None, weights: str = precision.STORED
) -> dict[str, dict]:
    """Reads the parameters of a model's parts, in either form of checkpoint.

    Args:
      folder: holds `params`, or else one safetensors file per part.
      likes: for each part, a nested dictionary whose leaves have the wanted shapes and, where they
        have one, sharding.
      dtype: type of the returned arrays; by default float32 for safetensors files, and the type
        in which the parameters are stored for `params`.
      weights: in what they are held, see `tts_jax.precision`; each part is converted before the
        next one is read.

    Raises:
      CheckpointError: something is missing, unreadable, or has other arrays than the model.
    """
    folder, dtype = Path(folder), precision.read_as(weights, dtype)
    if (folder / ORBAX).is_dir():
        return load_orbax(folder / ORBAX, likes, dtype, weights=weights)
    return {
        part: precision.hold(
            load_safetensors(folder / f"{part}.safetensors", like, dtype or jnp.float32), weights
        )
        for part, like in likes.items()
    }


def orbax_alone():
    """A context in which orbax waits for no other process of a job."""
    from orbax.checkpoint import v1 as ocp  # half a second that the embedded models need not wait

    context = ocp.Context()
    if jax.process_count() > 1:
        own = jax.process_index()
        context.multiprocessing.primary_host = own
        context.multiprocessing.active_processes = {own}
        context.multiprocessing.barrier_sync_key_prefix = f"process{own}"
    return context


def load_orbax(
    path: Path | str,
    likes: Mapping[str, Mapping],
    dtype=None,
    *,
    partial: bool = False,
    weights: str = precision.STORED,
) -> dict[str, dict]:
    """Reads parts of an orbax checkpoint; names and shapes must match exactly.

    Args:
      path: a checkpoint {part: {flat name: array}}.
      likes: as for `load_parts`.
      dtype: type of the returned arrays; by default the stored one.
      partial: whether the checkpoint may have parts that are not in `likes`; they are not read.
      weights: as for `load_parts`.

    Raises:
      CheckpointError: as for `load_parts`; all differences are in the one message.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        with orbax_alone():
            stored = ocp.metadata(path).metadata
        names = {f"{part}.{name}": leaf for part in stored for name, leaf in stored[part].items()}
    except Exception as error:  # a damaged folder fails in many ways
        raise CheckpointError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error
    wanted = {f"{part}.{n}": leaf for part in likes for n, leaf in flatten(likes[part]).items()}
    skipped = [part for part in stored if part not in likes] if partial else []
    found = {n: leaf for n, leaf in names.items() if n.partition(".")[0] not in skipped}
    _refuse(path, differences(found, wanted))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(part: str, name: str, leaf, asked: Sequence[str]):
        if part not in asked:
            return ocp.PLACEHOLDER
        sharding = getattr(wanted[f"{part}.{name}"], "sharding", None) or here
        return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)

    def read(asked: Sequence[str]) -> dict:
        tree = {
            part: {n: abstract(part, n, leaf, asked) for n, leaf in leaves.items()}
            for part, leaves in stored.items()
        }
        try:
            with orbax_alone():
                return ocp.load(path, tree)
        except Exception as error:
            line = _first_line(error)
            raise CheckpointError(f"checkpoint {path} cannot be read: {line}") from error

    if weights != precision.INT8:  # already of the type that was asked for
        loaded = read(list(likes))
        return {part: unflatten(loaded[part], like) for part, like in likes.items()}
    return {
        part: precision.hold(unflatten(read([part])[part], like), weights)
        for part, like in likes.items()
    }


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def parse(config_class: type, fields: Mapping) -> Any:
    """A configuration from its JSON form: dataclasses nested in dataclasses, lists for tuples.

    Raises:
      TypeError: an unknown or a missing field.
    """
    declared = typing.get_type_hints(config_class)
    return config_class(
        **{name: _value(declared.get(name), value) for name, value in fields.items()}
    )


def _value(declared: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    kinds = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return parse(kind, value)
    return value
