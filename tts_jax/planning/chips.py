"""Chips, and topologies of them for which programs are compiled with no chip present.

Figures are those of the makers' data sheets: for bfloat16 without sparsity, of one chip.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util

import numpy as np

GIB = 2**30

# jax asks for this package when it compiles for TPU.
COMPILER = "libtpu"
INSTALL = 'pip install -e ".[plan]"'


class TopologyError(ValueError):
    """A topology that is not known, or no compiler for it."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator.

    Attributes:
      name: as topologies call it.
      kind: as jax calls the device.
      memory: bytes of HBM.
      flops: peak, bfloat16, per second.
      bandwidth: of HBM, bytes per second.
      clock: of the matrix units, per second; 0 where the compiler's cycles are not used.
    """

    name: str
    kind: str
    memory: int
    flops: float
    bandwidth: float
    clock: float = 0.0

    def roofline(self, flops: float, moved: float) -> float:
        """The fewest seconds that operations and bytes to and from HBM can take."""
        return max(flops / self.flops, moved / self.bandwidth)


# Clocks follow from the peak: v5e has 4 matrix units of 128 x 128, v5p 8, v6e 2 of 256 x 256 with
# two results a cycle.
TPUS = (
    Chip(
        name="v5e",
        kind="TPU v5 lite",
        memory=16 * GIB,
        flops=197e12,
        bandwidth=819e9,
        clock=1.5e9,
    ),
    Chip(
        name="v5p",
        kind="TPU v5",
        memory=95 * GIB,
        flops=459e12,
        bandwidth=2765e9,
        clock=1.75e9,
    ),
    Chip(
        name="v6e",
        kind="TPU v6 lite",
        memory=32 * GIB,
        flops=918e12,
        bandwidth=1638e9,
        clock=1.75e9,
    ),
)
H100 = Chip(name="H100", kind="H100 SXM", memory=80 * 10**9, flops=989e12, bandwidth=3.35e12)


def tpu_devices(topology: str) -> tuple[Chip, np.ndarray]:
    """The chip and the devices of a TPU topology, for which programs can be compiled.

    Args:
      topology: chip and shape, "v5e:4x4".

    Raises:
      TopologyError: an unknown chip or shape, or libtpu is not installed.
    """
    name, _, shape = topology.partition(":")
    chips = {chip.name: chip for chip in TPUS}
    if name not in chips or not shape:
        raise TopologyError(
            f"topology {topology!r} is not CHIP:SHAPE, such as v5e:4x4, with a chip of "
            f"{', '.join(chips)}"
        )
    if util.find_spec(COMPILER) is None:
        raise TopologyError(f"compiling for {topology} needs {COMPILER}: {INSTALL}")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing here holds a chip
    try:
        with _without_noise():
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # jax raises what libtpu says, of several types
        lines = str(error).splitlines() or [type(error).__name__]
        raise TopologyError(f"topology {topology} is refused by {COMPILER}: {lines[0]}") from error
    return chips[name], np.asarray(found.devices).reshape(-1)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Keeps libtpu's warnings about host names off stderr."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
