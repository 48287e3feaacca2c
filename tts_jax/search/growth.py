"""How branches come from branches: the host's side of a round, without devices or models."""

from collections.abc import Iterator
from dataclasses import dataclass

from tts_jax.search import paths
from tts_jax.search.paths import Move, Path
from tts_jax.search.rounds import Neighbour, Outline, Round, SearchConfigError, per_parent


@dataclass(frozen=True)
class Growth:
    """One step of several branches of equal depth.

    Attributes:
      depth: segments they have done.
      parents: their paths.
      steps: what each of them is continued by: children's indices, or moves of one kind.
    """

    depth: int
    parents: tuple[Path, ...]
    steps: tuple[tuple[int | Move, ...], ...]

    @property
    def moves(self) -> bool:
        """Whether the steps are moves, which add no segment."""
        return isinstance(self.steps[0][0], Move)

    @property
    def width(self) -> int:
        """Branches made."""
        return sum(map(len, self.steps))


def children(request: Round) -> dict[Path, Path]:
    """The branches a round makes, and the parent of each, in the order of their paths.

    Raises:
      SearchConfigError: `along` holds a path that begins with no parent.
    """
    made = {}
    if request.along:
        for path in request.along:
            parent = max(
                (p.path for p in request.parents if path[: len(p.path)] == p.path),
                key=len,
                default=None,
            )
            if parent is None:
                raise SearchConfigError(f"path {path} begins with no parent of its round")
            made[tuple(path)] = parent
    else:
        counts = per_parent(request.children, request.parents)
        firsts = per_parent(request.first_child, request.parents)
        for parent, count, first in zip(request.parents, counts, firsts, strict=True):
            for index in range(first, first + count):
                begun = (*parent.path, _step(request, parent.depth, index))
                later = request.to - paths.depth(begun)
                made[(*begun, *[0] * later)] = parent.path
    return {path: made[path] for path in sorted(made, key=paths.order)}


def _step(request: Round, depth: int, index: int) -> int | Move:
    propose = request.propose
    if propose is None:
        return index
    if isinstance(propose, Neighbour):
        return Move("neighbour", index, 0, float(propose.strength))
    return Move("renoise", index, propose.to, float(propose.strength))


def growths(made: dict[Path, Path]) -> Iterator[Growth]:
    """The steps that make branches from their parents: shared beginnings once, shallowest first."""
    done = {path: len(parent) for path, parent in made.items()}
    while unfinished := [path for path in made if done[path] < len(path)]:
        kinds = {path: _kind(path, done[path]) for path in unfinished}
        kind = min(kinds.values())
        chosen = [path for path in unfinished if kinds[path] == kind]
        steps: dict[Path, dict] = {}
        for path in chosen:
            steps.setdefault(path[: done[path]], {})[path[done[path]]] = None
            done[path] += 1
        yield Growth(
            paths.depth(next(iter(steps))),
            tuple(steps),
            tuple(tuple(own) for own in steps.values()),
        )


def _kind(path: Path, done: int) -> tuple:
    """What is done together: moves of one kind before segments, then by depth."""
    step, depth = path[done], paths.depth(path[:done])
    if isinstance(step, Move):
        return (0, depth, step.kind, step.to)
    return (1, depth, "", 0)


def check(request: Round, outline: Outline, index: int) -> None:
    """Refuses what the generator cannot do.

    Raises:
      SearchConfigError: in one sentence.
    """

    def fail(text):
        raise SearchConfigError(f"round {index} {text}")

    if not request.parents:
        fail("has no parents")
    if not 0 < request.to <= outline.num_segments:
        fail(f"goes on to segment {request.to} of a video of {outline.num_segments} segments")
    if min(per_parent(request.children, request.parents)) < 1:
        fail("gives a branch no children")
    if isinstance(request.propose, Neighbour) and not 0 <= request.propose.strength <= 1:
        fail(f"wants neighbours of strength {request.propose.strength}, which is not in [0, 1]")
    renoise = request.propose is not None and not isinstance(request.propose, Neighbour)
    if renoise and not outline.renoises:
        fail("noises a state again, but the generator's segments end in finished latents")
    for parent in request.parents:
        if renoise and not 0 < request.propose.to <= parent.depth:
            fail(f"goes back from segment {parent.depth} to {request.propose.to}")
        start = request.propose.to if renoise else parent.depth
        if start > request.to or (start == request.to and not (request.propose or request.along)):
            fail(f"ends at segment {request.to}, where a parent is already")
    if isinstance(request.estimate, int) and outline.look_ahead is None:
        fail("looks ahead, but the generator's segments end in finished latents")
    if request.fidelity == "draft" and outline.draft_nfe is None:
        fail("makes drafts, but the generator has no version of fewer steps")
