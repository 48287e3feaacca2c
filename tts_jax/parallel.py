"""One mesh of three axes, and how parameters and branches lie on it.

`branch` divides branches; `model` divides the parameters of every network, by rules on their names;
`sequence` divides the tokens of long sequences, see `tts_jax.nn.attention`. Functions of branches
are `jax.shard_map`ped over `branch`, and the compiler divides what is left over the other two.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BRANCH, MODEL, SEQUENCE = AXES = "branch", "model", "sequence"

# Which axis of a parameter the devices of `model` divide, by the first pattern that fits its flat
# name. The columns of a matrix, then the rows of the one that follows it, need one sum between
# devices; what fits no pattern is stored divided and gathered when it is used (fsdp). The integers
# of int8 weights, `.qvalue`, are divided like the numbers that they stand for; scales are not.
COLUMNS, ROWS, WIDEST, WHOLE = -1, -2, "widest", None
RULES = (
    (r"(.*\.)?(q|k|v|up|gate|fc1|mlp|head)\.kernel(\.qvalue)?", COLUMNS),
    (r"(.*\.)?(out|down|fc2)\.kernel(\.qvalue)?", ROWS),
    (r"(.*\.)?token\.embedding(\.qvalue)?", COLUMNS),
    (r"(.*\.)?(bias|scale|positions?|table)", WHOLE),
    (r".*", WIDEST),
)
# Smaller parameters are not worth a transfer.
SMALL = 2**12
# Of a device's memory, what parameters may take beside a search, and where nothing else is large.
SEARCHING, LOADING = 0.5, 0.9


class MeshError(ValueError):
    """A mesh that the machine cannot give."""


def make_mesh(branch: int = 0, model: int = 1, sequence: int = 1, *, devices=None) -> Mesh:
    """A mesh of the axes `branch`, `model` and `sequence`.

    Neighbouring devices share parameters and sequences, distant ones only branches.

    Args:
      branch, model, sequence: devices along each axis; the first that is 0 takes all that the
        others leave, a second one 1.
      devices: those to choose from, in order; all there are by default.

    Raises:
      MeshError: fewer devices exist, or a number is negative.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [branch, model, sequence]
    if 0 in sizes:
        given = math.prod(size for size in sizes if size)
        sizes[sizes.index(0)] = max(1, len(devices) // given) if given > 0 else 1
        sizes = [size or 1 for size in sizes]
    count = math.prod(sizes)
    if min(sizes) < 1 or count > len(devices):
        named = ", ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise MeshError(f"a mesh of {count} devices ({named}), but {len(devices)} exist")
    # 8 of the 4 x 4 chips of a torus are no whole sides
    chosen = mesh_utils.create_device_mesh(sizes, devices[:count], allow_split_physical_axes=True)
    return Mesh(chosen, AXES, axis_types=(AxisType.Auto,) * 3)


def devices_of_a_model(searching: int, loading: int, memory: int, devices: int) -> int:
    """How many devices parameters should be divided over: the fewest that leave a search room.

    Args:
      searching: bytes of all parameters that a search holds.
      loading: bytes of those that are held before it, when prompts are encoded.
      memory: bytes of a device.
      devices: how many there are.

    Returns:
      A power of two that divides the devices; the largest one where none is enough.
    """
    counts = [
        count for count in (1 << i for i in range(devices.bit_length())) if devices % count == 0
    ]
    enough = (
        count
        for count in counts
        if searching <= SEARCHING * memory * count and loading <= LOADING * memory * count
    )
    return next(enough, counts[-1])


def branch_mesh(devices: int = 0) -> Mesh:
    """A mesh that divides branches only, over some devices; 0 takes all there are."""
    return make_mesh(devices)


def divides_branches_only(mesh: Mesh) -> bool:
    """Whether every device holds whole parameters and sequences."""
    return mesh.size == mesh.shape[BRANCH]


def is_shared(mesh: Mesh) -> bool:
    """Whether a mesh has devices of several processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def rule(name: str, shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """How a parameter is divided.

    Args:
      name: its flat name.
      shape: its shape; layers that are stacked come first.
      devices: along `model`.

    Returns:
      That of the first of `RULES` that fits; where the axis is not a multiple of the devices, that
      of the wider of the last two axes that is.
    """
    axis = next(axis for pattern, axis in RULES if re.fullmatch(pattern, name))
    if devices == 1 or axis is WHOLE or len(shape) < 2 or math.prod(shape) < SMALL:
        return PartitionSpec()
    if axis == WIDEST or shape[axis] % devices:
        wide = [own for own in (COLUMNS, ROWS) if shape[own] % devices == 0]
        if not wide:
            return PartitionSpec()
        axis = max(wide, key=lambda own: shape[own])
    return PartitionSpec(*[None] * (len(shape) + axis), MODEL)


def parameter_shardings(params: Any, mesh: Mesh) -> Any:
    """How the parameters of networks lie on a mesh.

    Args:
      params: nested dictionary of arrays, or of their shapes and dtypes.
      mesh: of this module's axes.

    Returns:
      A sharding for each leaf.
    """

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return NamedSharding(mesh, rule(name, leaf.shape, mesh.shape.get(MODEL, 1)))

    return jax.tree_util.tree_map_with_path(sharding, params)


def shard_shape(name: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
    """What every device of a mesh holds of a parameter."""
    return NamedSharding(mesh, rule(name, shape, mesh.shape.get(MODEL, 1))).shard_shape(shape)


def place(params: Any, mesh: Mesh) -> Any:
    """Parameters where `RULES` say; shapes instead of them, or for devices that are not there, give
    shapes that say where they would be."""
    return jax.tree.map(_put, params, parameter_shardings(params, mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every leaf on every device of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def split(tree: Any, mesh: Mesh) -> Any:
    """Leaves [B, ...] divided over the branch axis; B is a multiple of its size."""
    sharding = NamedSharding(mesh, PartitionSpec(BRANCH))
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x: Any, sharding: NamedSharding) -> Any:
    absent = sharding.mesh.devices.flat[0] not in jax.devices()  # those of a plan
    if absent or isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    if sharding.is_fully_addressable or getattr(x, "sharding", None) == sharding:
        return jax.device_put(x, sharding)
    host = np.asarray(x)  # the same in every process, each of which gives its devices theirs
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def first_copy(tree: Any) -> Any:
    """Arrays that all lie whole on every device as those of one of this process; others as is."""
    if not all(getattr(x, "is_fully_replicated", False) for x in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


def fetch(tree: Any) -> Any:
    """Arrays on the host, whole, also what devices of other processes hold; all processes ask."""

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        return _gather(x.sharding.mesh)(x).addressable_shards[0].data

    return jax.device_get(jax.tree.map(whole, tree))


@cache
def _gather(mesh: Mesh) -> Callable:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def over_branches(function: Callable, mesh: Mesh, shared: int) -> Callable:
    """Runs a function on each device's share of the branches, as one program for all devices.

    Devices with the same share divide the work on it as the compiler finds best.

    Args:
      function: takes `shared` arguments that all branches share, then arguments with a leading
        branch axis; its outputs have a leading branch axis.
      mesh: as of `make_mesh`.
      shared: number of leading arguments that are not divided by branches, such as parameters.

    Returns:
      The function of whole batches, to be traced and compiled.
    """

    axes = set(mesh.axis_names if divides_branches_only(mesh) else (BRANCH,))

    def mapped(*args):
        divided = len(args) - shared
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(PartitionSpec(),) * shared + (PartitionSpec(BRANCH),) * divided,
            out_specs=PartitionSpec(BRANCH),
            axis_names=axes,
            check_vma=False,
        )(*args)

    return mapped


class DeviceByDevice:
    """A function of each device's share of the branches, run as the program of a lone device.

    Of a mesh that divides branches only. A branch then has the same bits on every such mesh; a
    program that is partitioned for several devices is rounded differently from that of one. The
    price is a compilation per device.
    """

    def __init__(self, function: Callable, mesh: Mesh, shared: int):
        """Takes what `over_branches` takes."""
        self._function, self._mesh, self._shared = jax.jit(function), mesh, shared

    def trace(self, *args: Any) -> "TracedDeviceByDevice":
        """Traces it for arguments of whole batches, arrays or their shapes."""
        devices = self._mesh.shape[BRANCH]

        def share(x):
            return jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype)

        divided = jax.tree.map(share, args[self._shared :])
        return TracedDeviceByDevice(self._function, self._mesh, (*args[: self._shared], *divided))


class TracedDeviceByDevice:
    """Like the traced function of `jax.jit`.

    Attributes:
      jaxpr: of one device.
      devices: how many run it.
    """

    def __init__(self, function: Callable, mesh: Mesh, args: tuple):
        """Traces a jitted function for the arguments of one device."""
        self._function, self._mesh = function, mesh
        self._args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
        self._traced = function.trace(*self._args)
        self.jaxpr, self.devices = self._traced.jaxpr, mesh.shape[BRANCH]

    @property
    def out_info(self) -> Any:
        """Shapes and dtypes of the results of a whole batch."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0] * self.devices, *x.shape[1:]), x.dtype),
            self._traced.out_info,
        )

    def compile(self) -> Callable:
        """The executable of whole batches, which this process's devices run side by side.

        Its attribute `programs` holds the executable of each device.
        """
        programs = {}
        for device in self._mesh.local_devices:
            own = jax.sharding.SingleDeviceSharding(device)
            args = jax.tree.map(lambda x, own=own: x.update(sharding=own), self._args)
            programs[device] = self._function.trace(*args).lower().compile()

        return side_by_side(programs, self._mesh)


def side_by_side(programs: Mapping[jax.Device, Callable], mesh: Mesh) -> Callable:
    """A function of whole batches of which every device runs its share.

    Args:
      programs: of a share, by device of this process.
      mesh: divides branches only.

    Returns:
      The function; its attribute `programs` holds those given.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BRANCH))

    def join(*parts):
        shape = len(parts[0]) * mesh.shape[BRANCH], *parts[0].shape[1:]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def run(*args):
        leaves, tree = jax.tree.flatten(args)
        held = [{part.device: part.data for part in x.addressable_shards} for x in leaves]
        results = [
            program(*jax.tree.unflatten(tree, [parts[device] for parts in held]))
            for device, program in programs.items()
        ]
        return jax.tree.map(join, *results)

    run.programs = programs
    return run
