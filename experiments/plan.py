r"""What a search would take on a TPU topology, told before one is rented: no TPU is needed.

python -m experiments.plan --config=configs/cogvideox_5b.py --topology=v5e:4x4 --output=DIR

Compiles every program of the configured search ahead of time, by the compiler in libtpu (extra
`plan`), from the sizes of the models alone: a checkpoint that is not there is taken to be the
published one of that name. Says of each program what it holds on every chip, whether that fits and
which mesh would, its operations (by the ledger's count, since the compiler counts a loop's body
once), bytes, and seconds by the compiler's own estimate, loops included; and what a prompt costs in
device-seconds, for the configured search and for the best of N; of a config of experiments.sweep
also what its grid takes in device-hours. The GPU column is no estimate of a
compiler but a roofline: the data sheet's peak and bandwidth of an H100.

Programs of full size take minutes each; every one that is compiled is told on stderr. With
--memory_only the compiler makes the least effort, and seconds are rooflines. Writes
<output>/plan.json and plan.txt, if an output is given.
"""

import datetime
import io
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.models import axes_of, open_models, weights_of
from experiments.runs import to_json
from experiments.sweep import LINEAR, read_panels, read_studies, read_weights
from tts_jax import precision
from tts_jax.media import write_bytes
from tts_jax.parallel import BRANCH, make_mesh
from tts_jax.planning import chips, executable
from tts_jax.planning.chips import GIB, H100, Chip
from tts_jax.planning.sketch import Program, Sketch
from tts_jax.search import Budget, load_preset

COUNTS = (1, 2, 4, 8, 16, 32)
# Of a chip's memory, what programs can use: the runtime keeps the rest.
USABLE = 0.96


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("topology", "v5e:4x4", "chip and shape of the slice", flag_values=values)
    flags.DEFINE_string("dtype", "bfloat16", "of parameters as converted", flag_values=values)
    flags.DEFINE_string(
        "only", "", "compile programs whose name has this in it (a regex); all by default", values
    )
    flags.DEFINE_bool(
        "memory_only", False, "compile with the least effort and give seconds by roofline", values
    )
    flags.DEFINE_string("output", "", "folder for plan.json and plan.txt", flag_values=values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    try:
        dtype, wanted = jnp.dtype(options.dtype), re.compile(options.only)
        chip, devices = chips.tpu_devices(options.topology)
        found = make_plan(
            options.config,
            options.topology,
            chip,
            devices,
            dtype,
            wanted,
            memory_only=options.memory_only,
        )
    except chips.TopologyError as error:
        raise cli.UsageError(str(error)) from error
    except (TypeError, re.error) as error:
        raise cli.UsageError(f"--dtype or --only cannot be read: {error}") from error
    found["config"] = Path(options["config"].config_filename).stem
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    show(console, found)
    if options.output:
        folder, text = Path(options.output), io.StringIO()
        show(Console(file=text, width=160), found)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "plan.json", to_json(found))
        write_bytes(folder / "plan.txt", text.getvalue().encode())
        print(f"written to {folder}")


def make_plan(
    config: ConfigDict,
    topology: str,
    chip: Chip,
    devices,
    dtype=jnp.bfloat16,
    wanted: re.Pattern = re.compile(""),
    *,
    memory_only: bool = False,
) -> dict:
    """Sketches a config's search and compiles its programs.

    Args:
      config: of an experiment.
      topology: its name.
      chip, devices: as `chips.tpu_devices` gives them.
      dtype: of parameters as converted.
      wanted: programs to compile, by name.
      memory_only: whether they are compiled for what they hold alone, with the least effort.

    Returns:
      The plan as JSON has it; bytes and seconds.
    """
    opened = generator, params, panel, verifier_params = open_models(config, dtype)
    mesh = make_mesh(**axes_of(config, opened, chip.memory, len(devices)), devices=devices)
    weights = weights_of(config)
    sketch = Sketch(
        generator, params, panel, verifier_params, mesh=mesh, micro_batch=config.micro_batch
    )
    preset, budget = load_preset(config.search), Budget(**config.budget)
    sketch.plan(preset, budget)
    programs = [sketch.texts, *sketch.recorder.programs.values()]
    figures = {}
    for program in programs:
        on = mesh.size // (mesh.shape[BRANCH] if program is sketch.texts else 1)
        held = program.held if program is sketch.texts else sketch.held
        compiled = bool(wanted.search(program.name))
        figures[id(program)] = _figures(
            program, chip, on, held, compile_it=compiled, memory_only=memory_only
        )

    def seconds(program: Program) -> float:
        if id(program) not in figures:  # moves other numbers of branches: nothing to compute
            figures[id(program)] = _figures(program, chip, mesh.size, 0, compile_it=False)
        return figures[id(program)]["seconds"]

    def cost() -> dict:
        searching = sum(p.calls * seconds(p) for p in sketch.recorder.programs.values())
        return {
            "seconds": searching + seconds(sketch.texts),
            "device_seconds": (searching + seconds(sketch.texts)) * mesh.size,
        }

    searches = {config.search.preset: cost()}
    rows = [figures[id(program)] for program in programs]
    for count in COUNTS:
        try:
            sketch.plan(load_preset(ConfigDict({"preset": "random_linear", "branches": count})))
        except ValueError:  # a budget or a generator that allows none
            continue
        searches[f"random_linear, N={count}"] = cost()
    grid = _grid(config, sketch, cost) if "sweep" in config else None
    return {
        "topology": topology,
        "chip": {"name": chip.name, "memory": chip.memory, "flops": chip.flops}
        | {"bandwidth": chip.bandwidth},
        "mesh": dict(mesh.shape),
        "chips": mesh.size,
        "dtype": jnp.dtype(dtype).name if weights == precision.STORED else weights,
        "date": datetime.date.today().isoformat(),
        "versions": {name: _version(name) for name in ("tts_jax", "jax", "jaxlib", "libtpu")},
        "held": {"text": sketch.texts.held, "search": sketch.held},
        "programs": rows,
        "searches": searches,
        "grid": grid,
    }


def _grid(config: ConfigDict, sketch: Sketch, cost: Callable[[], dict]) -> dict:
    """What all searches of a sweep take of one prompt and seed, and of its whole grid."""
    panels = read_panels(read_weights(config.sweep.panels), sketch.search.panel)
    searches = {}
    for study in read_studies(config.sweep.searches, sketch.search.outline):
        linear = study.preset == LINEAR  # the largest N holds all others, for every panel
        for name, panel in (
            {"all panels": sketch.search.panel}.items() if linear else panels.items()
        ):
            total = 0.0
            for point in study.points[:1] if linear else study.points:
                sketch.plan(point.preset, point.budget, panel)
                total += cost()["device_seconds"]
            searches[f"{study.name}, {name}"] = total
    runs = config.sweep.captions * len(config.sweep.seeds)
    return {
        "device_seconds": searches,
        "runs": runs,
        "device_hours": runs * sum(searches.values()) / 3600,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _figures(
    program: Program,
    chip: Chip,
    on: int,
    held: int,
    *,
    compile_it: bool,
    memory_only: bool = False,
) -> dict:
    """One program's entry; `held` are the parameters on each chip while it runs."""
    work = program.work
    own = work.flops / on
    row = {
        "name": program.name,
        "calls": program.calls,
        "chips": on,
        "flops": work.flops,
        "matmul_share": work.share,
        "float32_share": work.wide / max(work.flops, 1),
        "held": held,
        "compiled": False,
    }
    moved = float(program.held)
    if compile_it:
        start = time.perf_counter()
        try:
            compiled = executable.compile_for(program.traced.lower(), quick=memory_only)
        except executable.DoesNotFit as error:
            row |= {"fits": False, "peak": error.needed, "refused": str(error)}
        else:
            memory = executable.memory_of(compiled)
            others = max(memory.arguments - program.held, 0)
            peak = memory.peak - memory.arguments + held + others
            row |= {
                "compiled": True,
                "arguments": memory.arguments,
                "temporaries": memory.temporaries,
                "outputs": memory.outputs,
                "peak": peak,
                "fits": peak <= USABLE * chip.memory,
            }
            if not memory_only:
                text = executable.read(compiled.as_text())
                kernels = chip.roofline(work.kernels / on, 0)
                copies = chip.roofline(0, text.unestimated)
                moved = text.moved
                row |= {
                    "kernels": text.kernels,
                    "unestimated": text.unestimated,
                    "collectives": text.collectives,
                    "compiler_seconds": text.cycles / chip.clock + kernels + copies,
                }
        row["compile_seconds"] = time.perf_counter() - start
        took = f"{row['compile_seconds']:.0f} s to compile"
        print(f"{program.name}: {row['peak'] / GIB:.2f} GiB, {took}", file=sys.stderr, flush=True)
    row |= {
        "moved": moved,
        "roofline_seconds": chip.roofline(own, moved),
        "compute_seconds": own / chip.flops,
        "gpu_roofline_seconds": H100.roofline(work.flops, moved * on),
    }
    row["seconds"] = row.get("compiler_seconds") or row["roofline_seconds"]
    if row.get("fits") is False:
        row["model_axis"] = _model_axis(row, chip)
    return row


def _model_axis(row: Mapping, chip: Chip) -> int | None:
    """The least power of two among which the parameters must be divided for all to fit."""
    rest = row["peak"] - row["held"]
    room = USABLE * chip.memory - rest
    if room <= 0:
        return None
    return 1 << math.ceil(math.log2(max(row["held"] / room, 1)))


def show(console: Console, found: Mapping) -> None:
    """Prints a plan.

    Args:
      console: where to.
      found: as `make_plan` gives it, with the name of its config.
    """
    chip, held = found["chip"], found["held"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items())
    console.print(f"{found['config']} on {found['topology']}, mesh {mesh}, {found['dtype']}")
    console.print(
        f"parameters on each chip: {held['search'] / GIB:.2f} GiB while it searches, "
        f"{held['text'] / GIB:.2f} GiB before, of {chip['memory'] / GIB:.0f} GiB"
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("program", "calls", "TFLOP", "GB moved", "temp GiB", "peak GiB", "fits"):
        table.add_column(name, justify="left" if name in ("program", "fits") else "right")
    for name in ("seconds", "of roofline", "H100 roofline s"):
        table.add_column(name, justify="right")
    for row in found["programs"]:
        table.add_row(*_cells(row))
    console.print(table)
    costs = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("search", "seconds a prompt", "device-seconds"):
        costs.add_column(name, justify="left" if name == "search" else "right")
    for name, cost in found["searches"].items():
        costs.add_row(name, f"{cost['seconds']:.3g}", f"{cost['device_seconds']:.4g}")
    console.print(costs)
    if found["grid"]:
        _show_grid(console, found["grid"])
    console.print(
        "TFLOP: on all chips together; GB, GiB and seconds: of each chip. Seconds are the "
        "compiler's estimate, Pallas kernels by their peak; in brackets, by roofline; >, the "
        "compiler has none for some instructions, which count by the bytes they move."
    )
    console.print(f"{found['date']}; {versions}")


def _show_grid(console: Console, grid: Mapping) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("search of the grid, panel", "device-seconds a prompt"):
        table.add_column(name, justify="left" if "grid" in name else "right")
    for name, seconds in grid["device_seconds"].items():
        table.add_row(name, f"{seconds:.4g}")
    console.print(table)
    console.print(
        f"the grid of {grid['runs']} prompts and seeds: {grid['device_hours']:.4g} device-hours, "
        "before rounds that searches share"
    )


def _cells(row: Mapping) -> list[str]:
    def gib(name):
        return f"{row[name] / GIB:.2f}" if name in row else "-"

    fits = {True: "yes", False: "no", None: "-"}[row.get("fits")]
    if row.get("model_axis"):
        fits = f"no; with model={row['model_axis']}"
    estimated = row.get("compiler_seconds")
    least = ">" if row.get("unestimated") else ""
    seconds = f"({row['seconds']:.3g})" if not estimated else f"{least}{estimated:.3g}"
    share = f"{row['roofline_seconds'] / estimated:.0%}" if estimated else "-"
    return [
        row["name"],
        str(row["calls"]),
        f"{row['flops'] / 1e12:.4g}",
        f"{row['moved'] / 1e9:.3g}",
        gib("temporaries"),
        gib("peak"),
        fits,
        seconds,
        share,
        f"{row['gpu_roofline_seconds']:.3g}",
    ]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    sys.exit(cli.run(main, doc=__doc__, define=define))
