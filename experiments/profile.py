r"""Profiles a search: where its time goes, what is compiled, how much memory it takes.

python -m experiments.profile
python -m experiments.profile --round=2 --trace=traces --output=profile.json
python -m experiments.profile --config=configs/pyramid_flow_flux_384p.py --prompt="..."

Runs the search three times: to compile its programs, to time its rounds, and with one round, by
default the longest, under `jax.profiler`. Prints the rounds; that round's device time by stage and
kind of layer, its longest operations, and the times in which no device did anything; what was
compiled and what came out of the persistent cache; and the memory of the programs and the process.

Stages are advance, estimate, decode, each verifier, expand (branches moved) and prune (scores
compared). The cache has entries of its own for this program, which hold the names of scopes.
It takes as long as three searches and, the first time, as compiling their programs.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from absl import flags
from jax.profiler import TraceAnnotation
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.models import open_search
from experiments.trace import ROUND, Operation, Trace, read_trace
from tts_jax import media
from tts_jax.search import Round, Search, SearchResult, load_preset, plan
from tts_jax.search.programs import Built

HIT = "/jax/compilation_cache/cache_hits"
COMPILED = "/jax/core/compile/backend_compile_duration"


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "prompt",
        "a red circle moving right and a blue square moving up",
        "the prompt",
        flag_values=values,
    )
    flags.DEFINE_integer("round", -1, "the round to trace; -1: the longest", -1, None, values)
    flags.DEFINE_integer("operations", 10, "operations to list", 1, None, values)
    flags.DEFINE_string("trace", "", "keep the profiler's files in this folder", values)
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    config, console = options.config, Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if options.output and not Path(options.output).parent.is_dir():
        raise cli.UsageError(f"the folder of --output={options.output} does not exist")
    cache = cli.use_compilation_cache()
    with watch_compilation() as compilation, _keys_with_scopes():
        memory = {"start": peak_memory()}
        if config.get("executables"):  # compiling is measured
            config.executables = ""
        models, search = open_search(config, [options.prompt])
        preset = load_preset(config.search)
        memory["models loaded"] = peak_memory()
        rounds = len(plan(preset, search.outline).rounds)
        if options.round >= rounds:
            raise cli.UsageError(
                f"--round={options.round}, but the search has the rounds 0 to {rounds - 1}"
            )

        def run(around=None) -> SearchResult:
            return search.run(
                options.prompt,
                preset,
                seed=config.seed,
                stage_prompts=models.stage_prompts(options.prompt),
                keep_frames=False,
                around=around,
            )

        run()
        memory["first search"] = peak_memory()
    seconds = time_rounds(run)
    chosen = options.round if options.round >= 0 else seconds.index(max(seconds))
    with contextlib.ExitStack() as stack:
        folder = options.trace or stack.enter_context(tempfile.TemporaryDirectory())
        result = run(lambda number, _: _traced(folder) if number == chosen else _nothing())
        try:
            trace = read_trace(folder, search.programs.built, models.panel.names)
        except ValueError as error:
            raise cli.RunFault(str(error)) from error
    memory["traced search"] = peak_memory()
    figures = {
        "rounds": [
            {"to": r.to, "branches": len(made), "judges": r.judges, "label": r.label, "seconds": s}
            for r, made, s in zip(result.requests, _by_round(result), seconds, strict=True)
        ],
        "round": chosen,
        **summarise(trace),
        "compilation": compilation.by_component(search.programs.built),
        "cache": cache and str(cache),
        "memory": {"programs": program_memory(search), "process": memory},
    }
    _print(console, figures, options.operations)
    if options.trace:
        console.print(f"the profiler's files are in {options.trace}")
    if options.output:
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        media.write_bytes(Path(options.output), text.encode())
        console.print(f"written to {options.output}")


def _by_round(result: SearchResult) -> list[list]:
    return [[node for node in result.nodes if node.round == r] for r in range(len(result.requests))]


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextlib.contextmanager
def _traced(folder: str) -> Iterator[None]:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions are many and say nothing here
    jax.profiler.start_trace(folder, profiler_options=options)
    try:
        with TraceAnnotation(ROUND):
            yield
    finally:
        jax.profiler.stop_trace()


@contextlib.contextmanager
def _keys_with_scopes() -> Iterator[None]:
    """An executable out of the cache is then one whose text names the present scopes."""
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def time_rounds(run) -> list[float]:
    """Seconds of every round of a search that has been compiled."""
    seconds: list[float] = []

    @contextlib.contextmanager
    def timed(number: int, request: Round):
        start = time.perf_counter()
        yield
        seconds.append(time.perf_counter() - start)

    run(timed)
    return seconds


@dataclass
class Compilation:
    """When something was compiled, and when that came out of the persistent cache.

    Attributes:
      compiled: end and seconds of each, the time by `time.perf_counter`.
      hits: times.
    """

    compiled: list[tuple[float, float]] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)

    def by_component(self, built: Sequence[Built]) -> dict[str, dict[str, float]]:
        """What was compiled for each component of a search, and elsewhere.

        Returns:
          By component `programs`, `cached`, those of them that were in the persistent cache, and
          `seconds`, tracing included but for "elsewhere".
        """
        rows: dict[str, dict[str, float]] = {}

        def add(name: str, programs: int, cached: int, seconds: float):
            row = rows.setdefault(name, {"programs": 0, "cached": 0, "seconds": 0.0})
            row["programs"] += programs
            row["cached"] += cached
            row["seconds"] += seconds

        def inside(time: float, program: Built) -> bool:
            return program.began <= time <= program.began + program.seconds

        for program in built:
            hits = sum(inside(time, program) for time in self.hits)
            add(program.component, len(program.parts), hits, program.seconds)
        rest = [s for t, s in self.compiled if not any(inside(t, p) for p in built)]
        hits = [t for t in self.hits if not any(inside(t, p) for p in built)]
        add("elsewhere", len(rest), len(hits), sum(rest))
        return rows


@contextlib.contextmanager
def watch_compilation() -> Iterator[Compilation]:
    """Notes what is compiled meanwhile."""
    found = Compilation()

    def hit(event: str, **_):
        if event == HIT:
            found.hits.append(time.perf_counter())

    def compiled(event: str, seconds: float, **_):
        if event == COMPILED:
            found.compiled.append((time.perf_counter(), seconds))

    jax.monitoring.register_event_listener(hit)
    jax.monitoring.register_event_duration_secs_listener(compiled)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(hit)
        jax.monitoring.unregister_event_duration_listener(compiled)


def summarise(trace: Trace) -> dict:
    """What a trace says.

    Returns:
      `seconds` of the round under the profiler; `busy`, those in which a device did something;
      `layers`, by stage and kind of layer the `seconds` of all devices together and the number of
      `operations`, most first; `operations`, the same by operation; `gaps`, by place the `seconds`
      in which no device did anything, their `count` and the `longest`.
    """
    gaps = trace.gaps()
    where: dict[str, list[float]] = {}
    for gap in gaps:
        where.setdefault(gap.where, []).append(gap.seconds)
    return {
        "seconds": trace.seconds,
        "busy": trace.seconds - sum(gap.seconds for gap in gaps),
        "layers": _sums(trace.operations, ("stage", "layer")),
        "operations": _sums(trace.operations, ("name", "kind", "stage", "layer")),
        "gaps": [
            {"where": place, "seconds": sum(own), "count": len(own), "longest": max(own)}
            for place, own in sorted(where.items(), key=lambda item: -sum(item[1]))
        ],
    }


def _sums(operations: Sequence[Operation], names: tuple[str, ...]) -> list[dict]:
    rows: dict[tuple, dict] = {}
    for operation in operations:
        key = tuple(getattr(operation, name) for name in names)
        empty = {**dict(zip(names, key, strict=True)), "seconds": 0.0, "count": 0}
        row = rows.setdefault(key, empty)
        row["seconds"] += operation.seconds
        row["count"] += 1
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def program_memory(search: Search) -> dict[str, dict[str, int]]:
    """Bytes on a device by component, of the program that takes most.

    Returns:
      By component `arguments` (parameters included), `results` and `temporaries` as the compiler
      laid them out, and `peak`, their sum less the results that take the place of arguments.
    """
    rows: dict[str, dict[str, int]] = {}
    for program in search.programs.built:
        for part in program.parts:
            sizes = part.memory_analysis()
            if sizes is None:
                continue
            row = {
                "arguments": sizes.argument_size_in_bytes,
                "results": sizes.output_size_in_bytes,
                "temporaries": sizes.temp_size_in_bytes,
            }
            row["peak"] = sum(row.values()) - sizes.alias_size_in_bytes
            rows[program.component] = max(
                row, rows.get(program.component, row), key=lambda row: row["peak"]
            )
    return rows


def peak_memory() -> dict[str, int]:
    """The most bytes so far: of the process, and of the first device if it counts them."""
    found = {}
    with contextlib.suppress(ImportError):  # Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak := (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"):
        found["device"] = peak
    return found


def _print(console: Console, figures: Mapping, listed: int) -> None:
    _print_rounds(console, figures)
    total = sum(row["seconds"] for row in figures["layers"])
    table = _table("device time by stage and layer", "stage", "layer", "seconds", "share", "calls")
    stages: dict[str, list] = {}
    for row in figures["layers"]:
        stages.setdefault(row["stage"], []).append(row)
    for name, rows in sorted(stages.items(), key=lambda s: -sum(r["seconds"] for r in s[1])):
        for i, row in enumerate(rows):
            table.add_row("" if i else name, row["layer"], *_amount(row, total))
    table.add_section()
    count = sum(row["count"] for row in figures["layers"])
    table.add_row("all", "", *_amount({"seconds": total, "count": count}, total))
    console.print(table)

    names = ("operation", "of", "stage", "layer")
    table = _table("longest operations", *names, "seconds", "share", "calls")
    for row in figures["operations"][:listed]:
        row_names = (row["name"], row["kind"], row["stage"], row["layer"])
        table.add_row(*row_names, *_amount(row, total))
    console.print(table)

    title = "times in which no device did anything"
    table = _table(title, "between or within programs", "seconds", "share of round", "count")
    table.add_column("longest, ms", justify="right")
    for row in figures["gaps"][:listed]:
        longest = f"{1e3 * row['longest']:.2f}"
        table.add_row(row["where"], *_amount(row, figures["seconds"]), longest)
    console.print(table)

    table = _table("tracing and compiling", "component", "programs", "from the cache", "seconds")
    for name, row in figures["compilation"].items():
        table.add_row(name, str(row["programs"]), str(row["cached"]), f"{row['seconds']:.2f}")
    console.print(table)
    console.print(f"persistent cache: {figures['cache'] or 'none'}\n")

    sizes = ("arguments", "results", "temporaries", "peak")
    table = _table("memory of the largest program, MB on a device", "component", *sizes)
    for name, row in figures["memory"]["programs"].items():
        table.add_row(name, *(f"{row[size] / 1e6:.2f}" for size in sizes))
    console.print(table)
    table = _table("highest so far, MB", "after", "process", "device")
    for moment, row in figures["memory"]["process"].items():
        cells = (f"{row[kind] / 1e6:.0f}" if kind in row else "" for kind in ("process", "device"))
        table.add_row(moment, *cells)
    console.print(table)


def _print_rounds(console: Console, figures: Mapping) -> None:
    table = _table("rounds of a warm search", "round", "to segment", "branches", "seconds")
    table.add_column("judged by")
    for number, row in enumerate(figures["rounds"]):
        note = " (traced)" if number == figures["round"] else ""
        cells = (str(number), str(row["to"]), str(row["branches"]), f"{row['seconds']:.4f}")
        table.add_row(*cells, (row["judges"] or "") + note)
    console.print(table)
    busy = figures["busy"] / figures["seconds"]
    console.print(
        f"Round {figures['round']} took {figures['seconds']:.4f} s under the profiler; devices "
        f"worked in {figures['busy']:.4f} s of them, {busy:.1%}.\n"
    )


def _amount(row: Mapping, whole: float) -> tuple[str, str, str]:
    share = row["seconds"] / whole if whole else 0.0
    return f"{row['seconds']:.4f}", f"{share:.1%}", f"{row['count']:,}"


_TEXT = ("stage", "layer", "operation", "of", "component", "after", "between or within programs")


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in _TEXT else "right", no_wrap=True)
    return table


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
