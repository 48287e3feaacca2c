"""A search on shapes: its programs traced for a machine that is not there, and counted.

W branches  M chips.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tts_jax.generators.protocol import Generator
from tts_jax.nn import attention
from tts_jax.parallel import BRANCH, divides_branches_only, place
from tts_jax.planning.jaxprs import Work, work_of
from tts_jax.search import Budget, Plan, Search
from tts_jax.search.ledger import Cost
from tts_jax.search.models import Encoded
from tts_jax.search.presets import Preset
from tts_jax.search.programs import Programs
from tts_jax.verifiers.panel import Panel

PROMPT = "a red circle moving right and a blue square moving up"


@dataclass
class Program:
    """One executable of a search.

    Attributes:
      name: what it does.
      traced: as `jax.jit` gives it.
      work: its operations, on all chips together.
      held: bytes of its parameters on each chip.
      calls: in the search that was sketched last.
    """

    name: str
    traced: jax.stages.Traced
    work: Work
    held: int
    calls: int = 0


class Recorder(Programs):
    """Prices calls, and remembers their programs.

    Attributes:
      programs: by function and shapes, in the order of their first calls.
    """

    def __init__(self, mesh: Mesh):
        """Begins with none; results lie on `mesh`."""
        super().__init__()
        self._spread = NamedSharding(mesh, PartitionSpec(BRANCH))
        self.programs: dict[Hashable, Program] = {}

    def price(self, cost: Cost, key: Hashable, build: Any, *args: Any, **options: Any) -> Any:
        """As `Programs.price`; the shapes it gives have the sharding of the result."""
        made = super().price(cost, key, build, *args, **options)
        name = key, tuple((x.shape, x.dtype) for x in jax.tree.leaves(args))
        if name not in self.programs:
            traced, _ = self._traced[name]
            held = chip_bytes(args[0]) if isinstance(args[0], Mapping) else 0
            self.programs[name] = Program(_label(key), traced, work_of(traced.jaxpr), held)
        self.programs[name].calls += 1
        where = options.get("out") or self._spread
        return jax.tree.map(lambda x: x.update(sharding=where), made)

    def forget_calls(self) -> None:
        """Counts calls from zero again."""
        for program in self.programs.values():
            program.calls = 0


class _ShapesPanel(Panel):
    """A panel whose queries are shapes."""

    def queries(self, params, prompt: str, stage_prompts: Sequence[str]) -> list[dict]:
        return jax.eval_shape(lambda p: Panel.queries(self, p, prompt, stage_prompts), params)

    @classmethod
    def like(cls, panel: Panel) -> "_ShapesPanel":
        return cls(
            panel.verifiers,
            [float(w) for w in panel.weights],
            panel.aggregation,
            panel.guards,
            panel.held_out,
        )


class Sketch:
    """A configured search on a mesh of absent chips.

    Attributes:
      search: on shapes; it can plan and nothing else.
      recorder: of its programs.
      texts: the program that encodes a prompt, on one chip or on those that share parameters.
    """

    def __init__(
        self,
        generator: Generator,
        params: Mapping[str, Any],
        panel: Panel,
        verifier_params: Mapping[str, Mapping],
        *,
        mesh: Mesh,
        micro_batch: int = 0,
    ):
        """Traces the text encoders.

        Args:
          generator: makes the videos.
          params: shapes of its parameters, by part, the text encoders' included.
          panel: judges them.
          verifier_params: shapes, by verifier.
          mesh: of a topology, with the axis `branch`.
          micro_batch: as for `Search`.
        """
        self.platform = mesh.devices.flat[0].platform
        texts = getattr(generator, "text_parts", ())
        parts = {name: own for name, own in params.items() if name not in texts}
        versions = {"full": generator, "draft": getattr(generator, "draft", lambda: None)()}
        encoders = dict(params)
        if divides_branches_only(mesh):
            alone = jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
            encoders = jax.tree.map(lambda x: x.update(sharding=alone), encoders)
        else:
            encoders = place(encoders, mesh)
        conditions = {}
        with attention.on_platform(self.platform):
            traced = jax.jit(lambda p: generator.encode(p, [PROMPT])).trace(encoders)
            for fidelity, version in versions.items():
                if version is not None:
                    found = jax.eval_shape(lambda p, v=version: v.encode(p, [PROMPT]), encoders)
                    found = jax.tree.map(lambda x: x.update(shape=x.shape[1:]), found)
                    conditions[fidelity, PROMPT] = Encoded(found, 0.0)
        used = _used(traced.jaxpr, jax.tree.leaves(encoders))
        held = chip_bytes(used)
        self.texts = Program("text", traced, work_of(traced.jaxpr), held, calls=1)
        self.search = Search(
            generator,
            parts,
            _ShapesPanel.like(panel),
            dict(verifier_params),
            mesh=mesh,
            micro_batch=micro_batch,
            exact=False,
            conditions=conditions,
        )
        self.search.programs = self.recorder = Recorder(mesh)

    @property
    def held(self) -> int:
        """Bytes of parameters on each chip while it searches."""
        return chip_bytes((self.search.params, self.search.verifier_params))

    def plan(
        self, preset: Preset, budget: Budget | None = None, panel: Panel | None = None
    ) -> Plan:
        """What a search takes; afterwards the recorder's calls are those of this search.

        Args:
          preset: the search.
          budget: limits on it.
          panel: judges it instead, of the same verifiers.
        """
        self.recorder.forget_calls()
        search = self.search if panel is None else self.search.judged_by(_ShapesPanel.like(panel))
        with attention.on_platform(self.platform):
            return search.plan(PROMPT, preset, budget)


def _used(jaxpr, leaves: Sequence[Any]) -> list:
    """Those arguments of a traced function that it does something with."""
    needed = {id(x) for equation in jaxpr.eqns for x in equation.invars}
    return [leaf for x, leaf in zip(jaxpr.jaxpr.invars, leaves, strict=True) if id(x) in needed]


def chip_bytes(tree: Any) -> int:
    """Bytes of shapes on each chip."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        own = getattr(leaf, "sharding", None)
        shape = leaf.shape if own is None else own.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def _label(key: Hashable) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    return " ".join(_word(p) for p in parts if p is not None and not isinstance(p, bool))


def _word(part: Hashable) -> str:
    if not dataclasses.is_dataclass(part):
        return str(part)
    fields = ((f.name, getattr(part, f.name)) for f in dataclasses.fields(part))
    return " ".join(f"{name}={value}" for name, value in fields if value is not None)
