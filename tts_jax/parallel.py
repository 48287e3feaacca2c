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
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(tree: Any, mesh: Mesh) -> Any:
    """Leaves [B, ...] divided over the branch axis; B is a multiple of its size."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(BRANCH)))


def over_branches(function: Callable, mesh: Mesh, shared: int) -> Callable:
    """Runs a function on each device's share of the branches.

    Every device runs the one program that a single device would run on a batch of its share's
    size, so a branch's bits do not depend on how many devices there are.

    Args:
      function: takes `shared` arguments that all branches share, then arguments with a leading
        branch axis; its outputs have a leading branch axis.
      mesh: a mesh with the axis `branch`.
      shared: number of leading arguments that are copied rather than divided.

    Returns:
      The function of whole batches.
    """

    def mapped(*args):
        specs = [PartitionSpec()] * shared + [PartitionSpec(BRANCH)] * (len(args) - shared)
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=PartitionSpec(BRANCH),
            check_vma=False,
        )(*args)

    return mapped


def branch_devices(mesh: Mesh) -> int:
    """Devices along the branch axis."""
    return mesh.shape[BRANCH]
