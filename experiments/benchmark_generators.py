r"""Measures the networks of the published generators beside the PyTorch originals.

python -m experiments.benchmark_generators
python -m experiments.benchmark_generators --network=t5 --size=mid --repetitions=9 --output=FILE
python -m experiments.benchmark_generators --nospeed --nocompilation

Prints, and writes to --output as JSON:
- The time of a warm forward call, ours and the original's in turns, on the same weights and inputs,
  float32, in this process with as many threads; and by how much their outputs differ. The originals
  are those of diffusers and transformers. Pyramid-Flow's own classes are in no package: without a
  history its denoisers compute what Flux and Stable Diffusion 3 do, and stand beside those; its
  VAE stands alone, and so does all of Open-Sora.
- The processor time to compile a network of few layers and of many.
- The memory that decoding a published video takes beside weights, input and output, whole and in
  pieces; as the compiler lays it out, with nothing allocated.

Other work on the machine slows both sides: the ratio is that of the least times.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jax.experimental.compilation_cache import compilation_cache
from rich import box
from rich.console import Console
from rich.table import Table

from converters import cli
from experiments.networks import NETWORKS, SIZES, decoders, layered
from experiments.networks.pairs import Network
from tts_jax import media


def measure_speed(network: Network, repetitions: int) -> dict:
    """Times of forward calls, ours and the original's in turns, after one that is not counted.

    Args:
      network: what to run.
      repetitions: timed calls of each.

    Returns:
      `parameters`; for `ours`, and for `original` if there is one, `least` and `median` seconds;
      then also `ratio`, our least time over the original's, and `error`, the largest difference of
      the outputs over the original's largest value.
    """
    compiled = network.compile()
    runs = {"ours": lambda: np.asarray(compiled(network.params, *network.inputs))}
    if network.original is not None:
        runs["original"] = network.original
    outputs = {name: run() for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    figures = {
        name: {"least": min(found), "median": statistics.median(found)}
        for name, found in seconds.items()
    }
    if network.original is not None:
        wanted = outputs["original"]
        if outputs["ours"].shape != wanted.shape:
            raise ValueError(f"shapes differ: {outputs['ours'].shape} and {wanted.shape}")
        figures["ratio"] = figures["ours"]["least"] / figures["original"]["least"]
        figures["error"] = float(np.abs(outputs["ours"] - wanted).max() / np.abs(wanted).max())
    return {"parameters": network.parameters, **figures}


@contextmanager
def uncached() -> Iterator[None]:
    """Compiles everything anew."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def measure_compilation(names: Sequence[str], layers: Sequence[int], repetitions: int) -> dict:
    """Least processor seconds to trace and compile, by network and number of layers, in turns."""
    networks = {count: layered(count) for count in layers}
    found = {}
    with uncached():
        for name in names:
            if name not in networks[layers[0]]:
                continue
            seconds = {count: [] for count in layers}
            for _ in range(repetitions):
                for count in layers:
                    jax.clear_caches()
                    start = time.process_time()
                    networks[count][name].compile()
                    seconds[count].append(time.process_time() - start)
            found[name] = {count: min(times) for count, times in seconds.items()}
    return found


def measure_memory(sizes: Mapping[str, Network]) -> dict:
    """Bytes that the compiler reserves for what is neither an argument nor a result."""
    return {
        name: network.compile().memory_analysis().temp_size_in_bytes
        for name, network in sizes.items()
    }


def define(values: flags.FlagValues) -> None:
    """The program's flags."""
    flags.DEFINE_multi_enum("network", list(NETWORKS), list(NETWORKS), "what to run", values)
    flags.DEFINE_multi_enum("size", list(SIZES), SIZES, "sizes whose speed is measured", values)
    flags.DEFINE_integer("repetitions", 7, "timed calls of each", 1, flag_values=values)
    flags.DEFINE_integer("threads", 2, "of either side", 1, flag_values=values)
    flags.DEFINE_list("layers", ["4", "42"], "layers to compile", values)
    flags.DEFINE_bool("speed", True, "measure forward calls", values)
    flags.DEFINE_bool("compilation", True, "measure compilations", values)
    flags.DEFINE_bool("memory", True, "measure the memory of decoders", values)
    flags.DEFINE_bool("small", False, "measure the memory on small videos", values)
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> int:
    """Runs the program; returns the exit code."""
    console, figures = Console(highlight=False), {}
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if options.speed:
        _use_threads(options.threads)
        figures["speed"] = {}
        for name in options.network:
            for size in options.size:
                with jax.default_matmul_precision("highest"):
                    found = measure_speed(NETWORKS[name](size), options.repetitions)
                figures["speed"].setdefault(name, {})[size] = found
                print(f"{name} {size}: {_describe(found)}", file=sys.stderr, flush=True)
        _print_speed(console, figures["speed"])
    if options.compilation:
        layers = [int(count) for count in options.layers]
        found = measure_compilation(options.network, layers, min(options.repetitions, 3))
        figures["compilation"] = found
        _print_compilation(console, found, layers)
    if options.memory:
        figures["memory"] = measure_memory(decoders(small=options.small))
        _print_memory(console, figures["memory"])
    if options.output:
        text = json.dumps(figures, indent=2) + "\n"
        media.write_bytes(Path(options.output), text.encode())
        console.print(f"written to {options.output}")
    return 0


def _use_threads(count: int) -> None:
    """As many threads for either side; XLA takes as many as the process may have cores."""
    import torch

    torch.set_num_threads(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _describe(found: Mapping) -> str:
    times = [f"{who} {found[who]['least']:.3f} s" for who in ("ours", "original") if who in found]
    return ", ".join(times)


def _print_speed(console: Console, speed: Mapping) -> None:
    table = _table(
        "warm forward call, least milliseconds",
        ["", "size", "parameters", "ours", "original", "ratio", "error"],
    )
    for name, sizes in speed.items():
        for size, found in sizes.items():
            cells = [f"{1e3 * found['ours']['least']:.1f}", "", "", ""]
            if "original" in found:
                cells[1:] = [
                    f"{1e3 * found['original']['least']:.1f}",
                    f"{found['ratio']:.2f}",
                    f"{found['error']:.1e}",
                ]
            table.add_row(name, size, f"{found['parameters'] / 1e6:.1f} M", *cells)
    console.print(table)


def _print_compilation(console: Console, found: Mapping, layers: Sequence[int]) -> None:
    table = _table(
        "compilation, processor seconds", ["", *(f"{n} layers" for n in layers), "ratio"]
    )
    for name, seconds in found.items():
        ratio = seconds[layers[-1]] / seconds[layers[0]]
        table.add_row(name, *(f"{seconds[n]:.2f}" for n in layers), f"{ratio:.2f}")
    console.print(table)


def _print_memory(console: Console, memory: Mapping) -> None:
    table = _table("decoding a video", ["", "GB"])
    for name, size in memory.items():
        table.add_row(name, f"{size / 1e9:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(cli.run(main, define, __doc__))
