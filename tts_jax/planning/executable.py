"""What the TPU compiler says of one program: memory, cycles, bytes moved, collectives.

XLA's cost analysis counts the body of a loop once. The text of a compiled program holds the
compiler's estimate for every instruction and how often every loop runs; both are multiplied here.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import jax

_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CONSTANT = re.compile(r"\bs32\[\].* constant\((\d+)\)")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_ESTIMATE = 2**63 - 1  # what the compiler writes where it has none

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# They name arrays and move none.
_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier async-done async-update domain iota".split()
)


class DoesNotFit(RuntimeError):
    """A program whose arrays exceed the chip's memory.

    Attributes:
      needed: bytes, as far as the compiler says.
    """

    def __init__(self, message: str, needed: float):
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each chip.

    Attributes:
      arguments, outputs, temporaries, code: of the program.
      aliased: outputs that take the memory of arguments.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    aliased: int

    @property
    def peak(self) -> int:
        """The most that is held at once, the arguments included."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def compile_for(lowered: jax.stages.Lowered, *, quick: bool = False) -> jax.stages.Compiled:
    """Compiles for the topology of a program's shardings.

    Args:
      lowered: the program.
      quick: with the least effort of the compiler, for what a program holds: the same memory within
        a few per cent, convolutions in a quarter of the time, code that is several times slower.

    Raises:
      DoesNotFit: the chip's memory is too small.
    """
    settings = {"jax_persistent_cache_min_compile_time_secs": float("inf")}  # none can be read here
    if quick:
        settings["jax_exec_time_optimization_effort"] = -1.0
    kept = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        found = re.search(r"(?:Used |\()([\d.]+)([KMGT]?)", text)
        needed = 0.0
        if found:
            needed = float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")
        raise DoesNotFit(text.splitlines()[0], needed) from error
    finally:
        for name, value in kept.items():
            jax.config.update(name, value)


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """What a program holds on each chip."""
    stats = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
    )


@dataclass(frozen=True)
class Instruction:
    """One line of a compiled program.

    Attributes:
      name, shape, opcode: of its result.
      operands: names.
      line: the whole of it.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    line: str

    @property
    def collective(self) -> str | None:
        """Which of `COLLECTIVES` it begins, if any."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 if none stands there."""
        found = _CYCLES.search(self.line)
        return int(found[1]) if found else 0

    def called(self, role: str) -> list[str]:
        """Names of computations that it calls in a role: body, calls, to_apply, ..."""
        found = re.search(rf"\b{role}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.line)
        if not found:
            return []
        return [found[1]] if found[1] else _OPERAND.findall(found[2])


@dataclass(frozen=True)
class Text:
    """A compiled program as text.

    Attributes:
      computations: name to instructions.
      entry: name of the first one.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @cached_property
    def runs(self) -> dict[str, float]:
        """How often every computation runs; what fusions call is not run by itself."""
        counts: dict[str, float] = {}

        def visit(name: str, times: float) -> None:
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations[name].values():
                if instruction.opcode == "while":
                    trips = self._trips(*instruction.called("condition"))
                    for body in instruction.called("body"):
                        visit(body, times * trips)
                elif instruction.opcode in ("call", "async-start"):
                    for body in instruction.called("to_apply") + instruction.called("calls"):
                        visit(body, times)
                elif instruction.opcode == "conditional":
                    names = ("branch_computations", "true_computation", "false_computation")
                    branches = [b for name in names for b in instruction.called(name)]
                    for branch in branches[-1:]:  # `lax.cond`'s true branch is the last
                        visit(branch, times)

        visit(self.entry, 1)
        return counts

    def _trips(self, condition: str) -> int:
        """How often a loop runs: its condition compares a count from 0 on with a constant."""
        found, names = [1], [condition]
        for name in names:
            for instruction in self.computations.get(name, {}).values():
                names += instruction.called("calls")
                if constant := _CONSTANT.search(instruction.line):
                    found.append(int(constant[1]))
        return max(found)

    def _sum(self, value: Callable[[str, Instruction], float]) -> float:
        return sum(
            times * value(name, instruction)
            for name, times in self.runs.items()
            for instruction in self.computations[name].values()
        )

    @cached_property
    def cycles(self) -> float:
        """The compiler's estimate for all instructions that it has one for."""
        return self._sum(lambda _, i: i.cycles if i.cycles < _NO_ESTIMATE else 0)

    @cached_property
    def unestimated(self) -> float:
        """Bytes that instructions move, as in `moved`, for which the compiler could not say."""
        return self._sum(lambda n, i: self._moved(n, i) if i.cycles >= _NO_ESTIMATE else 0)

    @cached_property
    def kernels(self) -> float:
        """Calls of hand-written kernels, for which the compiler estimates nothing."""
        return self._sum(lambda _, i: "tpu_custom_call" in i.line)

    @cached_property
    def moved(self) -> float:
        """Bytes that instructions read from and write to the chip's main memory."""
        return self._sum(self._moved)

    @cached_property
    def collectives(self) -> dict[str, float]:
        """Bytes that each kind of collective gives, on each chip.

        Also of those that the compiler has fused with other work; the pieces of one that it has
        spread over several fusions have one channel.
        """
        found: dict[str, float] = {}
        for name, times in self.runs.items():
            channels = {}
            for where, instruction in self._with_fused(name):
                if instruction.collective:
                    channel = _CHANNEL.search(instruction.line)
                    channels[channel[1] if channel else instruction.name] = where, instruction
            for where, instruction in channels.values():
                given = times * self._result(where, instruction, anywhere=True)
                found[instruction.collective] = found.get(instruction.collective, 0) + given
        return found

    def _with_fused(self, name: str) -> Iterator[tuple[str, Instruction]]:
        """Instructions of a computation and of the fusions in it, with the computations' names."""
        for instruction in self.computations.get(name, {}).values():
            yield name, instruction
            if instruction.opcode == "fusion":
                for called in instruction.called("calls"):
                    yield from self._with_fused(called)

    def _moved(self, name: str, instruction: Instruction) -> float:
        """Bytes that one instruction reads and writes."""
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            return 0
        table = self.computations[name]
        read = sum(
            self._read(instruction, place, table[operand].shape)
            for place, operand in enumerate(instruction.operands)
            if operand in table
        )
        return read + self._written(name, instruction)

    def _read(self, instruction: Instruction, place: int, shape: str) -> float:
        """Bytes of an operand that are read: a fusion may take a slice of it."""
        if instruction.opcode in ("dynamic-slice", "slice") and place == 0:
            return nbytes(instruction.shape)
        if instruction.opcode == "dynamic-update-slice" and place == 0:
            return 0
        bodies = instruction.called("calls") if instruction.opcode == "fusion" else []
        if not bodies or bodies[0] not in self.computations:
            return nbytes(shape)
        body = self.computations[bodies[0]]
        inner = next(
            (
                i.name
                for i in body.values()
                if i.opcode == "parameter" and f" parameter({place})" in i.line
            ),
            None,
        )
        return nbytes(shape) * self._share(body, inner) if nbytes(shape) else 0

    def _share(self, body: dict[str, Instruction], name: str | None) -> float:
        """Which share of an array inside a fusion is needed: what is converted or laid out anew,
        and then sliced, is so for the slice alone."""
        uses = [(i, n) for i in body.values() for n, o in enumerate(i.operands) if o == name]
        if not uses:
            return 1
        whole, needed = nbytes(body[name].shape, anywhere=True), 0.0
        for instruction, place in uses:
            read = 1.0
            if instruction.opcode in ("dynamic-slice", "fusion", "dynamic-update-slice"):
                read = self._read(instruction, place, body[name].shape) / max(whole, 1)
            if read >= 1 and _count(instruction.shape) == _count(body[name].shape):
                read = self._share(body, instruction.name)
            needed += read
        return min(1.0, needed)

    def _written(self, name: str, instruction: Instruction) -> float:
        """Bytes of the result that are written: an update in place writes its slice."""
        if instruction.opcode == "dynamic-update-slice":
            return 0
        if instruction.opcode == "fusion":
            for called in instruction.called("calls"):
                last = list(self.computations.get(called, {}).values())[-1:]
                if last and last[0].opcode == "dynamic-update-slice":
                    update = self.computations[called].get(last[0].operands[1])
                    return nbytes(update.shape, anywhere=True) if update else 0
        return self._result(name, instruction)

    def _result(self, name: str, instruction: Instruction, *, anywhere: bool = False) -> float:
        """Bytes of a result; what begins an asynchronous move has its operands in there, too.

        All but "all-reduce-start", which gives what "all-reduce" does.
        """
        whole = nbytes(instruction.shape, anywhere=anywhere)
        if instruction.opcode.endswith("-start") and instruction.collective != "all-reduce":
            table = self.computations[name]
            given = [table[o].shape for o in instruction.operands if o in table]
            whole -= sum(nbytes(shape, anywhere=anywhere) for shape in given)
        return max(whole, 0)


def nbytes(shape: str, *, anywhere: bool = False) -> float:
    """Bytes of a shape's text; arrays outside the main memory count if `anywhere`."""
    total = 0.0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if not anywhere and re.search(r"S\(\d+\)", layout):
            continue
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * _itemsize(kind)
    return total


def _count(shape: str) -> int:
    """Numbers in all arrays of a shape's text."""
    sizes = [re.findall(r"\d+", found) for _, found, _ in _ARRAY.findall(shape)]
    return sum(math.prod(map(int, own)) for own in sizes)


def _itemsize(kind: str) -> float:
    if kind in _SIZES:
        return _SIZES[kind]
    bits = re.match(r"[a-z]+(\d+)", kind)
    return int(bits[1]) / 8 if bits else 0


def read(text: str) -> Text:
    """Reads the text that `Compiled.as_text` gives."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line == "}":  # kernels have texts of several lines, with braces
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            opcode = _OPCODE.search(" " + found[2])
            if opcode is None:
                continue
            start = max(opcode.start() - 1, 0)
            operands = tuple(_operands(found[2][opcode.end() - 1 :]))
            current[found[1]] = Instruction(found[1], found[2][:start], opcode[1], operands, line)
    return Text(computations, entry)


def _operands(text: str) -> Iterator[str]:
    """Names in the parentheses that a text begins inside of."""
    depth = 1
    for end, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            text = text[:end]
            break
    return iter(_OPERAND.findall(text))
