"""What a search may spend, and which part of a round fits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.rounds import Round, SearchConfigError, per_parent
from tts_jax.search.selection import ranked


@dataclass(frozen=True)
class Budget:
    """Limits on a search for one prompt; 0 is no limit.

    Attributes:
      nfe: denoiser calls, those of look-aheads and drafts included.
      flops: operations of all components, padding included.
      seconds: running time of all programs, compilation excluded.
    """

    nfe: int = 0
    flops: float = 0
    seconds: float = 0

    def __post_init__(self):
        for name, limit in vars(self).items():
            if limit < 0:
                raise SearchConfigError(f"budget.{name} is {limit}, but 0 is the least: no limit")

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def allows(self, cost: Cost) -> bool:
        """Whether so much may be spent."""
        spent = vars(spending(cost))
        return all(not limit or spent[name] <= limit for name, limit in vars(self).items())

    def describe(self, cost: Cost) -> str:
        """The limits beside what something takes, in words."""
        spent = vars(spending(cost))
        return ", ".join(
            f"{spent[name]:.6g} {name} of {limit:.6g}"
            for name, limit in vars(self).items()
            if limit
        )


def spending(cost: Cost) -> Budget:
    """A cost in the terms of a budget."""
    return Budget(cost.nfe, cost.flops + cost.padding_flops, cost.seconds)


def total(*ledgers: Ledger) -> Cost:
    """The sum of everything in some ledgers but reading and writing."""
    result = Cost()
    for ledger in ledgers:
        for component in ledger:
            if component not in ("io", "stage_prompts"):
                result += ledger[component]
    return result


def largest_part(request: Round, fits: Callable[[Round], bool]) -> Round | None:
    """The largest beginning of a round that fits; None if nothing of it does.

    Children are taken in turn, the first child of every parent, then the second of each; in each
    turn better parents come first.

    Args:
      request: the round.
      fits: whether a part of it can be afforded; a part of what fits must fit.
    """
    if fits(request):
        return request
    least, most = 0, _size(request)
    while most - least > 1:
        middle = (least + most) // 2
        if fits(first_children(request, middle)):
            least = middle
        else:
            most = middle
    return first_children(request, least) if least else None


def _size(request: Round) -> int:
    return len(request.along) or sum(per_parent(request.children, request.parents))


def first_children(request: Round, count: int) -> Round:
    """A round of so many of its children."""
    if request.along:
        return replace(request, along=request.along[:count])
    children = per_parent(request.children, request.parents)
    standing = {id(node): place for place, node in enumerate(ranked(request.parents))}
    turns = sorted(
        (turn, standing[id(request.parents[i])], i)
        for i, own in enumerate(children)
        for turn in range(own)
    )
    left = [0] * len(children)
    for *_, i in turns[:count]:
        left[i] += 1
    first = per_parent(request.first_child, request.parents)
    chosen = [i for i, own in enumerate(left) if own]
    return replace(
        request,
        parents=[request.parents[i] for i in chosen],
        children=[left[i] for i in chosen],
        first_child=[first[i] for i in chosen],
    )
