"""What a search cost, by component."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Cost:
    """The cost of one component.

    Attributes:
      launches: executions of a compiled program.
      calls: branches that were advanced, decoded or scored.
      nfe: denoiser calls made for them; a guided pair counts as 2.
      flops: operations spent on them.
      padding: dead branches that filled programs up to their static shapes.
      padding_nfe, padding_flops: what was spent on those.
      seconds: running time, compilation excluded.
      compilations: programs compiled.
      compile_seconds: time that took.
    """

    launches: int = 0
    calls: int = 0
    nfe: int = 0
    flops: int = 0
    padding: int = 0
    padding_nfe: int = 0
    padding_flops: int = 0
    seconds: float = 0.0
    compilations: int = 0
    compile_seconds: float = 0.0

    def __iadd__(self, other: "Cost") -> "Cost":
        for name, value in dataclasses.asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


# Differ between runs of one command: tree.json must not hold them.
UNREPEATABLE = ("seconds", "compilations", "compile_seconds")
# Of these only seconds matter, and a search that is resumed moves branches in another way.
_UNCOUNTED = ("text", "search", "stage_prompts", "io")


@dataclass
class Ledger:
    """Costs by component.

    These are "text", "stage_prompts", "generator", "draft", "look_ahead", "decode", each verifier's
    name, "search" (moving branches and comparing values) and "io". A program shared by siblings or
    filled up with dead branches is divided evenly among its branches.
    """

    costs: dict[str, Cost] = field(default_factory=dict)

    def __getitem__(self, component: str) -> Cost:
        return self.costs.setdefault(component, Cost())

    def __iter__(self) -> Iterator[str]:
        return iter(self.costs)

    @property
    def total(self) -> Cost:
        """The sum over components."""
        return _sum(self.costs.values())

    def without(self, components: Collection[str]) -> Cost:
        """The sum over all components but these."""
        return _sum(cost for name, cost in self.costs.items() if name not in components)

    def to_json(self, repeatable: bool = False) -> dict[str, dict[str, float]]:
        """The costs as plain numbers, the total included.

        Args:
          repeatable: leaves out what differs between runs of one command.
        """
        hidden = UNREPEATABLE if repeatable else ()
        rows = {
            name: cost
            for name, cost in self.costs.items()
            if not (repeatable and name in _UNCOUNTED)
        }
        rows["total"] = _sum(rows.values())
        return {
            name: {k: v for k, v in dataclasses.asdict(cost).items() if k not in hidden}
            for name, cost in rows.items()
        }


def _sum(costs: Iterable[Cost]) -> Cost:
    total = Cost()
    for cost in costs:
        total += cost
    return total
