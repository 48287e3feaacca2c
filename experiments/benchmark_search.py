r"""Measures what batches, sharing and the loop itself cost and save, on the embedded world.

python -m experiments.benchmark_search

Prints ratios, each from one run on one machine: both sides of a ratio of times run in turns.

- The search of the config in batches against the same search branch by branch, compiled and warm.
- A whole warm search against the bare sum of its generator, decode and verifier programs.
- The denoiser's operations for siblings that share their parent's history against those of
  siblings made one by one, for every unit: of the config's generator, and of the published
  miniFLUX at 384p and 768p, traced over shapes with nothing allocated. "Exact" is for a history
  of the unit's own length; "executed" is for the program that serves the unit and those beside it,
  whose history is padded to that of the last of them, as the ledger counts it. "Original" is for
  siblings made one by one as Pyramid-Flow's own code does: text, history and clip are one sequence
  in which products that causality masks are computed too; ours leaves them out, shared or not.
- What travels from the host to the devices in a round.

About 5 minutes on 2 CPU cores with a warm compilation cache, of which 3 go into tracing.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.models import Models, load_models, load_search, mesh_of
from tts_jax import media
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.pyramid_flow import denoiser
from tts_jax.generators.pyramid_flow import transformer as miniflux
from tts_jax.generators.pyramid_flow.denoiser import Layout
from tts_jax.generators.pyramid_flow.draws import draw_block_noises, draw_noise
from tts_jax.generators.pyramid_flow.sampler import Condition, sample_unit
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.transformer import Transformer, TransformerConfig
from tts_jax.language.stage_prompts import StagePrompts
from tts_jax.nn.attention import attend
from tts_jax.search import Ledger, Search, SearchResult, load_preset
from tts_jax.search.flops import count_flops
from tts_jax.search.presets import Preset

PUBLISHED = {"384p": SamplerConfig.published_384p, "768p": SamplerConfig.published_768p}
PUBLISHED_TEXT = 128  # tokens of a prompt
HOST_WORK = ("text", "stage_prompts", "search", "io")


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "prompt",
        "a red circle moving right and a blue square moving up",
        "the prompt",
        flag_values=values,
    )
    flags.DEFINE_integer("repetitions", 7, "timed runs of each search", 1, flag_values=values)
    flags.DEFINE_integer("children", 5, "siblings whose operations are counted", 2, None, values)
    flags.DEFINE_list(
        "published", list(PUBLISHED), "published shapes to count, of 384p and 768p", values
    )
    flags.DEFINE_integer(
        "units", 0, "units of each shape to count, from the first on; 0 for all", 0, None, values
    )
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    config, console = options.config, Console(highlight=False)
    if unknown := set(options.published) - set(PUBLISHED):
        raise cli.UsageError(f"--published is of {', '.join(PUBLISHED)}, not {min(unknown)!r}")
    cli.use_compilation_cache()
    models = load_models(config)
    models.check([options.prompt])
    devices = mesh_of(config).size
    figures = {"search": json.loads(config.search.to_json()), "devices": devices}
    figures["times"] = measure_times(config, models, options.prompt, options.repetitions)
    _print_times(console, figures["times"])
    figures["transfers"] = measure_transfers(config, models, options.prompt)
    _print_transfers(console, figures["transfers"])
    own = models.generator.config
    shapes = {"embedded": (own.transformer, own.sampler, own.text.length)} | {
        name: (TransformerConfig.flux(), PUBLISHED[name](), PUBLISHED_TEXT)
        for name in options.published
    }
    figures["sharing"] = {}
    for name, shape in shapes.items():
        found = measure_sharing(*shape, children=options.children, units=options.units)
        figures["sharing"][name] = found
        _print_sharing(console, name, options.children, found)
    if options.output:
        text = json.dumps(figures, indent=2) + "\n"
        media.write_bytes(Path(options.output), text.encode())
        console.print(f"written to {options.output}")


@dataclass(frozen=True)
class Task:
    """One search, to be run again and again.

    Attributes:
      search: the models.
      preset: the search's rounds.
      prompt: the text.
      stage_prompts: splits it.
      seed: of everything random.
    """

    search: Search
    preset: Preset
    prompt: str
    stage_prompts: StagePrompts
    seed: int

    def run(self, preset: Preset | None = None) -> tuple[SearchResult, float]:
        """The result, and the seconds it took."""
        start = time.perf_counter()
        result = self.search.run(
            self.prompt,
            preset or self.preset,
            seed=self.seed,
            stage_prompts=self.stage_prompts(self.prompt),
            keep_frames=False,
        )
        return result, time.perf_counter() - start


def load_task(config: ConfigDict, models: Models, prompt: str, *, exact: bool) -> Task:
    """The search of a config; in batches unless `exact`, which is branch by branch."""
    search = load_search(config, models, exact)
    return Task(search, load_preset(config.search), prompt, models.stage_prompts, config.seed)


def measure_times(config: ConfigDict, models: Models, prompt: str, repetitions: int) -> dict:
    """Times of a search in batches and branch by branch, run in turns.

    Args:
      config: names the search.
      models: the models.
      prompt: the text.
      repetitions: runs of each, after one that compiles.

    Returns:
      `speedup`, the median over turns of the time branch by branch over that in batches; for both,
      `seconds`, the median and the least; `overhead`, the median of a run's time over the sum of
      its generator, decode and verifier programs; and `parts`, the median seconds of each
      component of the ledger, with `host` for what no component has.
    """
    names = "batches", "branch_by_branch"
    tasks = {
        name: load_task(config, models, prompt, exact=exact)
        for name, exact in zip(names, (False, True), strict=True)
    }
    for task in tasks.values():
        task.run()
    runs = {name: [] for name in names}
    for _ in range(repetitions):
        for name, task in tasks.items():
            result, seconds = task.run()
            runs[name].append((seconds, _parts(result.ledger, seconds)))
            if any(cost.compilations for cost in result.ledger.costs.values()):
                raise RuntimeError("a warm search compiles programs")
    seconds = {name: [s for s, _ in found] for name, found in runs.items()}
    figures = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "least_seconds": min(seconds[name]),
            "overhead": statistics.median(s / _work(parts) for s, parts in found),
            "parts": {part: statistics.median(p[part] for _, p in found) for part in found[0][1]},
        }
        for name, found in runs.items()
    }
    slow, fast = seconds["branch_by_branch"], seconds["batches"]
    speedup = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    return {"speedup": speedup, **figures}


def _parts(ledger: Ledger, seconds: float) -> dict[str, float]:
    parts = {name: cost.seconds for name, cost in ledger.costs.items()}
    return {**parts, "host": seconds - sum(parts.values())}


def _work(parts: Mapping[str, float]) -> float:
    return sum(s for name, s in parts.items() if name not in (*HOST_WORK, "host"))


@dataclass
class Transfers:
    """Arrays that went from the host to devices, and their bytes, copies included."""

    arrays: int = 0
    bytes: int = 0


@contextlib.contextmanager
def count_transfers() -> Iterator[Transfers]:
    """Counts what `jax.device_put` takes from the host."""
    found, put = Transfers(), jax.device_put

    def counted(tree, device=None, **options):
        for leaf in jax.tree.leaves(tree):
            if not isinstance(leaf, jax.Array):
                copies = device.num_devices if getattr(device, "is_fully_replicated", False) else 1
                found.arrays += 1
                found.bytes += np.asarray(leaf).nbytes * copies
        return put(tree, device, **options)

    with mock.patch.object(jax, "device_put", counted):
        yield found


def measure_transfers(config: ConfigDict, models: Models, prompt: str) -> dict:
    """What travels from the host to devices in a warm search in batches.

    No other transfer than those counted can happen inside a round: jax refuses it.

    Returns:
      For the prompt before any round and for each round, the number of arrays and bytes.
    """
    task = load_task(config, models, prompt, exact=False)
    result, _ = task.run()
    marks: list[tuple[int, int]] = []
    with count_transfers() as found:

        def watched(outline, rng):
            rounds, answer = task.preset(outline, rng), None
            while True:
                try:
                    request = rounds.send(answer)
                except StopIteration as stop:
                    return stop.value
                marks.append((found.arrays, found.bytes))
                with jax.transfer_guard_host_to_device("disallow"):
                    answer = yield request

        result, _ = task.run(watched)
    marks = [*marks[-len(result.requests) :], (found.arrays, found.bytes)]
    rounds = [
        dict(zip(("arrays", "bytes"), np.subtract(b, a).tolist(), strict=True))
        for a, b in itertools.pairwise(marks)
    ]
    return {"prompt": dict(zip(("arrays", "bytes"), marks[0], strict=True)), "rounds": rounds}


def measure_sharing(
    transformer: TransformerConfig,
    sampler: SamplerConfig,
    text: int,
    *,
    children: int,
    units: int = 0,
) -> dict:
    """Operations of the denoiser for siblings that share their parent's history, and that do not.

    Args:
      transformer: the denoiser.
      sampler: how a video is sampled.
      text: tokens of a prompt.
      children: siblings of a unit.
      units: how many, from the first on; 0 for all.

    Returns:
      `units`: for each, `exact` and `executed`, pairs of operations with sharing and without, and
      `original`, such a pair for an exact history and the form of the original code.
      `total`: their sums.
    """
    graph, params = abstract_params(Transformer, transformer)

    @functools.cache
    def count(first, history, together):
        padded = dataclasses.replace(sampler, history=history)
        unit = 0 if first else 1
        return sibling_flops(graph, params, transformer, padded, text, unit, children, together)

    rows = []
    for unit in range(units or sampler.num_units):
        first, history = unit == 0, sampler.unit_start(unit)
        exact, executed = (
            tuple(count(first, frames, together) for together in (True, False))
            for frames in (history, sampler.history_of(unit))
        )
        with in_one_sequence():
            original = exact[0], count.__wrapped__(first, history, False)
        rows.append({"exact": exact, "original": original, "executed": executed})
    total = {kind: [sum(row[kind][i] for row in rows) for i in (0, 1)] for kind in rows[0]}
    return {"units": rows, "total": total}


@contextlib.contextmanager
def in_one_sequence() -> Iterator[None]:
    """Makes miniFLUX attend as the original does: every token to every other, then a mask.

    The mask, which costs no operations, is left out: programs traced here are to be counted only.
    """

    def attend_jointly(context, own, layout: Layout, implementation: str):
        joint = [jnp.concatenate(pair, axis=1) for pair in zip(context, own, strict=True)]
        heads = attend(*joint, implementation=implementation)
        return jnp.split(heads, [context[0].shape[1]], axis=1)

    with (
        mock.patch.object(denoiser, "attend_causally", attend_jointly),
        mock.patch.object(miniflux, "attend_causally", attend_jointly),
    ):
        yield


def sibling_flops(
    graph: nnx.GraphDef,
    params: dict,
    transformer: TransformerConfig,
    sampler: SamplerConfig,
    text: int,
    unit: int,
    children: int,
    together: bool,
) -> int:
    """Operations for the children of one parent.

    Args:
      graph, params: of the denoiser; shapes are enough.
      transformer: its sizes.
      sampler: how a video is sampled, and what the history is padded to.
      text: tokens of a prompt.
      unit: the children's.
      children: how many.
      together: in one call that maps over keys and leaves the parent unmapped, or in `children`
        calls with a key each.
    """
    first = unit == 0
    frames = sampler.unit_frames(first)

    def child(params, condition, latents, unit, key):
        return sample_unit(
            nnx.merge(graph, params),
            sampler,
            latents,
            0 if first else unit,
            condition,
            draw_noise(key, sampler, frames),
            draw_block_noises(key, sampler, frames),
            first,
        )[-1]

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    pair = 2 if sampler.guided else 1
    args = (
        params,
        Condition(
            shape(pair, text, transformer.text_width),
            shape(pair, text),
            shape(pair, transformer.pooled_width),
            shape(2),
        ),
        shape(sampler.frames, sampler.height, sampler.width, sampler.channels),
        shape(dtype=jnp.int32),
    )
    if not together:
        key = jax.eval_shape(lambda: jax.random.key(0))
        return children * count_flops(child, *args, key)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), children))
    return count_flops(jax.vmap(child, (None, None, None, None, 0)), *args, keys)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _print_times(console: Console, times: Mapping) -> None:
    kinds = "batches", "branch_by_branch"
    table = _table("one warm search, median seconds", ["", *(k.replace("_", " ") for k in kinds)])
    for part in times["batches"]["parts"]:
        table.add_row(part, *(f"{times[kind]['parts'].get(part, 0):.4f}" for kind in kinds))
    table.add_row("whole", *(f"{times[kind]['seconds']:.4f}" for kind in kinds))
    table.add_row("whole, least", *(f"{times[kind]['least_seconds']:.4f}" for kind in kinds))
    console.print(table)
    console.print(f"branch by branch over batches: {times['speedup']:.2f}")
    for kind in kinds:
        name, overhead = kind.replace("_", " "), times[kind]["overhead"]
        console.print(f"whole over generator, decode and verifier programs, {name}: {overhead:.3f}")


def _print_transfers(console: Console, transfers: Mapping) -> None:
    table = _table("from the host to the devices", ["", "arrays", "bytes"])
    rows = {"prompt": transfers["prompt"]} | {
        f"round {i}": row for i, row in enumerate(transfers["rounds"])
    }
    for name, row in rows.items():
        table.add_row(name, str(row["arrays"]), str(row["bytes"]))
    console.print(table)


def _print_sharing(console: Console, name: str, children: int, found: Mapping) -> None:
    rows = {str(i): row for i, row in enumerate(found["units"])} | {"all": found["total"]}
    unit, size = ("T", 1e12) if found["total"]["exact"][1] > 1e12 else ("G", 1e9)
    kinds = "exact", "original", "executed"
    columns = (f"{kind}\n{what}" for kind in kinds for what in ("shared", "alone", "ratio"))
    title = f"{name}: {unit}FLOP of the denoiser for {children} siblings"
    table = _table(title, ["\nunit", *columns])
    for label, row in rows.items():
        cells = []
        for shared, alone in (row[kind] for kind in kinds):
            cells += [f"{shared / size:.1f}", f"{alone / size:.1f}", f"{shared / alone:.3f}"]
        table.add_row(label, *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
