"""What a run keeps in memory and when: models are loaded when they are needed, and then freed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
from jax.sharding import Mesh

from tts_jax.checkpoints import flatten
from tts_jax.parallel import shard_shape
from tts_jax.precision import is_quantised

# One after the other; what is resident in none of the later ones has been freed.
PHASES = ("stage prompts", "text", "search")


@dataclass(frozen=True)
class Resident:
    """Parameters of one part.

    Attributes:
      name: of the part.
      numbers, nbytes: how many there are, and the memory that they take on each device.
      dtype: of most of them, by memory.
      phases: of `PHASES`, in which they are held.
    """

    name: str
    numbers: int
    nbytes: int
    dtype: str
    phases: tuple[str, ...]


@dataclass
class MemoryPlan:
    """The parts of all models in the order in which they are loaded.

    Attributes:
      mesh: whose devices share the parameters; None where each holds all.
      parts: so far.
    """

    mesh: Mesh | None = None
    parts: list[Resident] = field(default_factory=list)

    def add(
        self, name: str, params: Mapping, *phases: str, dtype=None, divided: bool = True
    ) -> None:
        """Notes a part.

        Args:
          name: of the part.
          params: nested dictionary of arrays, or of their shapes and dtypes.
          phases: in which they are held.
          dtype: instead of the leaves' own.
          divided: whether the mesh divides them.
        """
        leaves, sizes = flatten(params), {}
        for flat, leaf in leaves.items():
            own, shape = leaf.dtype if dtype is None else dtype, leaf.shape
            if divided and self.mesh is not None:
                shape = shard_shape(flat, shape, self.mesh)
            sizes[own.name] = sizes.get(own.name, 0) + math.prod(shape) * own.itemsize
        numbers = jax.tree.leaves(params, is_leaf=is_quantised)
        self.parts.append(
            Resident(
                name,
                sum(math.prod(leaf.shape) for leaf in numbers),
                sum(sizes.values()),
                max(sizes, key=sizes.get, default=""),
                phases,
            )
        )

    @property
    def generator(self) -> int:
        """Numbers among the generator's parameters, its text encoders included."""
        return sum(part.numbers for part in self.parts if "text" in part.phases)

    def held(self, phase: str) -> int:
        """Bytes of parameters on each device in a phase."""
        return sum(part.nbytes for part in self.parts if phase in part.phases)
