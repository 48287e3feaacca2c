"""Traces of `jax.profiler`, read in this process: what devices did, in which scope, and when not.

The profiler's file says which operation of which compiled module ran when; the texts of the
executables say from which named scope an operation comes. Operations are found on the lines of
accelerators, and on CPU on those of the host's threads. Times in seconds.
"""

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax.profiler import ProfileData

from tts_jax.search.programs import ANNOTATION, Built

ROUND = "tts_jax round"
LAYERS = ("attention", "mlp", "conv", "norm", "modulation")
OTHER = "other"
# Of operations without a scope, which the compiler adds.
_STAGES = {"generator": "advance", "draft": "advance", "look_ahead": "estimate", "search": "expand"}
# They last as long as the operations inside them, which have events of their own.
_CONTAINERS = ("while", "conditional", "call")
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.-]+) = .*?(?<= )([a-z][\w-]*)\((?:.*?op_name=\"([^\"]*)\")?", re.M
)


@dataclass(frozen=True)
class Operation:
    """One execution of one operation of a device.

    Attributes:
      name: in its executable.
      kind: the primitive it comes from, or the compiler's own name of what it does.
      stage, layer: the scopes it comes from.
      start, end: of its execution.
      seconds: without those of operations inside it.
    """

    name: str
    kind: str
    stage: str
    layer: str
    start: float
    end: float
    seconds: float


@dataclass(frozen=True)
class Call:
    """One call of an executable of a search: `component` is what was charged for it."""

    component: str
    start: float
    end: float


@dataclass(frozen=True)
class Gap:
    """A time in which no device did anything; `where` says between or within which programs."""

    where: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.start


@dataclass(frozen=True)
class Trace:
    """One round of a search.

    Attributes:
      start, end: of the round.
      operations: of all devices, by start.
      calls: of executables, by start.
    """

    start: float
    end: float
    operations: list[Operation]
    calls: list[Call]

    @property
    def seconds(self) -> float:
        """How long the round lasted under the profiler."""
        return self.end - self.start

    def gaps(self) -> list[Gap]:
        """The times in which no device did anything, in their order."""
        found, now = [], self.start
        for operation in [*self.operations, None]:
            start = self.end if operation is None else operation.start
            if start > now:
                found.append(Gap(self._where((now + start) / 2), now, start))
            now = max(now, start if operation is None else operation.end)
        return found

    def _where(self, time: float) -> str:
        at = bisect.bisect(self.calls, time, key=lambda call: call.start)
        before, after = self.calls[:at][-1:], self.calls[at : at + 1]
        if before and before[0].end >= time:
            return f"within {before[0].component}"
        names = [call.component for call in (*before, *after)]
        if len(names) == 2:
            return f"{names[0]} to {names[1]}"
        return f"after {names[0]}" if before else f"before {names[0]}" if after else "everywhere"


@dataclass(frozen=True)
class _Event:
    name: str
    start: float
    end: float


def read_trace(folder: Path | str, built: Sequence[Built], verifiers: Sequence[str]) -> Trace:
    """Reads the round that a profile holds.

    Args:
      folder: where `jax.profiler.start_trace` wrote.
      built: the executables of the search, see `Programs.built`.
      verifiers: names, which are names of stages.

    Returns:
      The round. An operation's stage is its outermost scope, or follows from what was charged for
      its program if it has none; its layer is the outermost scope among `LAYERS`.

    Raises:
      ValueError: no profile, or one without a round.
    """
    files = sorted(Path(folder).rglob("*.xplane.pb"))  # their folders are named by time
    if not files:
        raise ValueError(f"the profiler wrote no trace to {folder}")
    lines, numbered, rounds = [], [], []
    for plane in ProfileData.from_file(str(files[-1])).planes:
        for line in _lines(plane):
            lines.append([])
            for event in line.events:
                if event.name.startswith("end: "):
                    continue
                span = event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9
                if event.name == ROUND:
                    rounds.append(span)
                elif event.name == ANNOTATION:
                    numbered.append((*span, dict(event.stats)["number"]))
                elif name := _operation(plane.name, event):
                    lines[-1].append(_Event(name, *span))
    if not rounds:
        raise ValueError("the trace holds no round")
    start, end = rounds[-1]
    numbered.sort()
    scopes = [_scopes(program) for program in built]
    stages = {"advance", "estimate", "decode", "expand", "prune", *verifiers}

    def place(event: _Event, seconds: float) -> Operation | None:
        at = bisect.bisect(numbered, (event.start + event.end) / 2, key=lambda call: call[0]) - 1
        inside = at >= 0 and numbered[at][1] >= event.start
        number = int(numbered[at][2]) if inside else None
        kind, path = scopes[number].get(event.name, ("", ())) if inside else ("", ())
        if kind in _CONTAINERS:
            return None
        stage = next((s for s in path if s in stages), None)
        if stage is None:
            component = built[number].component if inside else "outside programs"
            stage = _STAGES.get(component, component)
        layer = next((s for s in path if s in LAYERS), OTHER)
        kind = path[-1] if path else kind or event.name
        return Operation(event.name, kind, stage, layer, event.start, event.end, seconds)

    made = [place(*own) for line in lines for own in _own_times(line)]
    operations = [o for o in made if o and start <= o.start < end]
    calls = [Call(built[int(n)].component, a, b) for a, b, n in numbered if start <= a < end]
    return Trace(start, end, sorted(operations, key=lambda o: o.start), calls)


def _lines(plane) -> Iterator:
    """A plane's lines; of a device that has a line of operations, only that."""
    lines = list(plane.lines)
    if plane.name.startswith("/device:"):
        lines = [line for line in lines if line.name == "XLA Ops"] or lines
    return iter(lines)


def _operation(plane: str, event) -> str | None:
    """The name of the operation that an event tells of, if it does."""
    name = dict(event.stats).get("hlo_op")
    if name or not plane.startswith("/device:"):
        return name
    return event.name.split(" = ")[0].lstrip("%")


def _own_times(events: Iterable[_Event]) -> Iterator[tuple[_Event, float]]:
    """Events of one line, each with its seconds less those of the events inside it."""
    open_: list[tuple[_Event, list[float]]] = []

    def close():
        event, inner = open_.pop()
        seconds = event.end - event.start
        if open_:
            open_[-1][1].append(seconds)
        return event, max(0.0, seconds - sum(inner))

    for event in sorted(events, key=lambda e: (e.start, -e.end)):
        while open_ and open_[-1][0].end <= event.start:
            yield close()
        open_.append((event, []))
    while open_:
        yield close()


def _scopes(program: Built) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By operation of an executable, what it is and the scopes that it comes from."""
    text = program.parts[0].as_text()
    return {
        name: (opcode, tuple(map(_bare, scopes.split("/"))) if scopes else ())
        for name, opcode, scopes in _INSTRUCTION.findall(text)
    }


def _bare(scope: str) -> str:
    """A scope without the transformations around it: "vmap(vmap(advance))" is "advance"."""
    while wrapped := re.fullmatch(r"\w+\((.*)\)", scope):
        scope = wrapped[1]
    return scope
