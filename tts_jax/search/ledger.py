"""What a search cost, by component."""

import dataclasses
from collections.abc import Iterator
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


@dataclass
class Ledger:
    """Costs by component: "text", "generator", "decode", each verifier's name, and "search".

    A program shared by siblings or filled up with dead branches is divided evenly among its
    branches. Operations are counted for generator, decode and verifiers alone.
    """

    costs: dict[str, Cost] = field(default_factory=dict)

    def __getitem__(self, component: str) -> Cost:
        return self.costs.setdefault(component, Cost())

    def __iter__(self) -> Iterator[str]:
        return iter(self.costs)

    @property
    def total(self) -> Cost:
        """The sum over components."""
        total = Cost()
        for cost in self.costs.values():
            total += cost
        return total

    def to_json(self, repeatable: bool = False) -> dict[str, dict[str, float]]:
        """The costs as plain numbers, the total included.

        Args:
          repeatable: leaves out what differs between runs of one command.
        """
        hidden = UNREPEATABLE if repeatable else ()
        rows = {**self.costs, "total": self.total}
        return {
            name: {k: v for k, v in dataclasses.asdict(cost).items() if k not in hidden}
            for name, cost in rows.items()
        }
