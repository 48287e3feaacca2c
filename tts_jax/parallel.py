"""Meshes, and how a batch of branches lies on them.

The mesh axis `branch` divides branches; parameters and conditions are copied to every device.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BRANCH = "branch"


class MeshError(ValueError):
    """A mesh that the machine cannot give."""


def branch_mesh(devices: int = 0) -> Mesh:
    """A mesh whose only axis is `branch`.

    Args:
      devices: how many devices share the branches; 0 takes all there are.

    Raises:
      MeshError: fewer devices exist, or the number is negative.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise MeshError(f"a mesh of {devices} devices, but {len(available)} exist")
    devices = devices or len(available)
    return jax.make_mesh(
        (devices,), (BRANCH,), axis_types=(AxisType.Auto,), devices=available[:devices]
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every leaf on every device of the mesh."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def split(tree: Any, mesh: Mesh) -> Any:
    """Leaves [B, ...] divided over the branch axis; B is a multiple of its size."""
    return _put(tree, NamedSharding(mesh, PartitionSpec(BRANCH)))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays where they shall lie; for devices that are not there, shapes with the sharding."""
    if sharding.mesh.devices.flat[0] in jax.devices():
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def first_copy(tree: Any) -> Any:
    """Of leaves that every device holds whole, what the first of this process holds.

    Shapes, which no device holds, stay what they are.
    """

    def first(x):
        return x if isinstance(x, jax.ShapeDtypeStruct) else x.addressable_shards[0].data

    return jax.tree.map(first, tree)


def over_branches(function: Callable, mesh: Mesh, shared: int) -> Callable:
    """Runs a function on each device's share of the branches, as one program for all devices.

    Args:
      function: takes `shared` arguments that all branches share, then arguments with a leading
        branch axis; its outputs have a leading branch axis.
      mesh: a mesh with the axis `branch`.
      shared: number of leading arguments that are copied rather than divided.

    Returns:
      The function of whole batches, to be traced and compiled.
    """

    def mapped(*args):
        divided = len(args) - shared
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(PartitionSpec(),) * shared + (PartitionSpec(BRANCH),) * divided,
            out_specs=PartitionSpec(BRANCH),
            check_vma=False,
        )(*args)

    return mapped


class DeviceByDevice:
    """A function of each device's share of the branches, run as the program of a lone device.

    A branch then has the same bits on every mesh; a program that is partitioned for several
    devices is rounded differently from that of one. The price is a compilation per device.
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

        def run(*args):
            leaves, tree = jax.tree.flatten(args)
            held = [{part.device: part.data for part in x.addressable_shards} for x in leaves]
            results = [
                program(*jax.tree.unflatten(tree, [parts[device] for parts in held]))
                for device, program in programs.items()
            ]
            return jax.tree.map(self._join, *results)

        run.programs = programs
        return run

    def _join(self, *parts):
        shape = len(parts[0]) * self.devices, *parts[0].shape[1:]
        sharding = NamedSharding(self._mesh, PartitionSpec(BRANCH))
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)
