r"""What siblings of causal Wan share, by the TPU compiler: memory of a chunk, cost of a tree.

python -m experiments.benchmark_causal_wan
python -m experiments.benchmark_causal_wan --topology=v5e:2x2
python -m experiments.benchmark_causal_wan --siblings=4 --config.generator.frames=33 --output=FILE

No TPU is needed: programs are compiled ahead of time by the compiler in libtpu (extra `plan`), at
full size and without weights, for one chip. Prints, and writes to --output as JSON:
- What the program holds that advances siblings by the last chunk, where each sees the most of the
  past: all of one parent, whose keys and values they share, and each of a parent of its own.
- What a Tree-of-Frames takes of the denoiser that gives one parent so many children at every chunk,
  advanced together and each alone: denoiser calls and operations by the ledger's count, and bytes
  that matrix products and kernels read and write.
"""

import datetime
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.models import open_models
from tts_jax.generators.causal_wan.generator import CausalWan, Condition
from tts_jax.generators.causal_wan.sampler import visible
from tts_jax.media import write_bytes
from tts_jax.nn import attention
from tts_jax.parallel import make_mesh
from tts_jax.planning import chips, executable
from tts_jax.planning.chips import GIB
from tts_jax.planning.jaxprs import operand_bytes
from tts_jax.planning.sketch import Sketch, chip_bytes
from tts_jax.search import load_preset

DTYPE = jnp.bfloat16


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("topology", "v5p:2x2x1", "chip and shape of the slice", values)
    flags.DEFINE_integer("siblings", 8, "children of a parent", 2, flag_values=values)
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    try:
        chip, devices = chips.tpu_devices(options.topology)
    except chips.TopologyError as error:
        raise cli.UsageError(str(error)) from error
    config = options.config
    if config.generator.name != CausalWan.name or config.generator.segment != "chunk":
        raise cli.UsageError(f"--config is no {CausalWan.name} whose segments are chunks")
    config.verifiers = (dict(name="flicker", checkpoint=""),)
    mesh = make_mesh(devices=devices[:1])
    found = {
        "topology": options.topology,
        "siblings": options.siblings,
        "dtype": jnp.dtype(DTYPE).name,
        "date": datetime.date.today().isoformat(),
        "memory": measure_memory(config, mesh, options.siblings),
        "tree": measure_tree(config, mesh, options.siblings),
    }
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    show(console, found, chip.memory)
    if options.output:
        write_bytes(Path(options.output), (json.dumps(found, indent=2) + "\n").encode())
        print(f"written to {options.output}")


def measure_memory(config: ConfigDict, mesh: Mesh, siblings: int) -> dict:
    """Bytes of the program that advances siblings by the last chunk, on one chip.

    Args:
      config: of an experiment with causal Wan.
      mesh: of one device.
      siblings: how many.

    Returns:
      `parameters` of the denoiser; keys and values of the `past` that the chunk sees, and those of
      the `chunk`; and of the programs `shared` and `unshared`: `temporaries`, `peak`, the
      parameters included, and what they have `moved`.
    """
    generator, params, _, _ = open_models(config, DTYPE)
    alone = SingleDeviceSharding(mesh.devices.flat[0])

    def placed(tree, lead=()):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=alone), tree
        )

    params = placed({"transformer": params["transformer"]})
    sampler, transformer = generator.config.sampler, generator.config.transformer
    text = jax.ShapeDtypeStruct((1, sampler.text_length, transformer.text_width), DTYPE)
    last, chunks = generator.num_segments - 1, generator.config.chunks
    condition = placed(Condition(text))
    branch = jax.eval_shape(lambda: generator.init(None, None, None))
    keys = placed(jax.ShapeDtypeStruct((2,), np.uint32), (siblings,))

    def advance(params, condition, branch, key):
        key = jax.random.wrap_key_data(key)
        return generator.advance(params, condition, branch, key, last)

    def compiled(shared: bool) -> dict:
        family = jax.vmap(advance, (None, None, None if shared else 0, 0))
        parents = placed(branch, () if shared else (siblings,))
        with attention.on_platform(mesh.devices.flat[0].platform):
            traced = jax.jit(family).trace(params, condition, parents, keys)
        try:
            program = executable.compile_for(traced.lower())
        except executable.DoesNotFit as error:
            return {"temporaries": error.needed, "peak": error.needed, "refused": str(error)}
        memory, text = executable.memory_of(program), executable.read(program.as_text())
        return {
            "temporaries": memory.temporaries,
            "peak": memory.peak,
            "moved": text.moved,
        }

    frame = math.prod(generator.config.latent_shape[1:3]) // transformer.patch**2
    token = 2 * transformer.layers * transformer.width * jnp.dtype(DTYPE).itemsize
    past = visible(chunks, sampler.window, sampler.sink)[-1]
    return {
        "parameters": chip_bytes(params),
        "past": len(past) * frame * token,
        "chunk": chunks[-1] * frame * token,
        "shared": compiled(True),
        "unshared": compiled(False),
    }


def measure_tree(config: ConfigDict, mesh: Mesh, siblings: int) -> dict:
    """Denoising of a Tree-of-Frames that keeps one of so many children at every chunk.

    Args:
      config, mesh, siblings: as of `measure_memory`.

    Returns:
      For children advanced `together` and each `alone`: `nfe`, `flops`, and `bytes` as
      `operand_bytes` counts them.
    """
    found = {}
    for name, micro_batch in (("together", siblings), ("alone", 1)):
        sketch = Sketch(*open_models(config, DTYPE), mesh=mesh, micro_batch=micro_batch)
        depths = sketch.search.outline.num_segments
        preset = dict(
            preset="tree_of_frames",
            branching=(siblings,) * depths,
            judge_depths=tuple(range(depths - 1)),
            keep=(1,) * (depths - 1),
            rule="top_k",
        )
        nfe = sketch.plan(load_preset(ConfigDict(preset))).nfe
        programs = [p for p in sketch.recorder.programs.values() if p.name.startswith("advance")]
        found[name] = {
            "nfe": nfe,
            "flops": sum(p.calls * p.work.flops for p in programs),
            "bytes": sum(p.calls * operand_bytes(p.traced.jaxpr) for p in programs),
        }
    return found


def show(console: Console, found: Mapping, room: int) -> None:
    """Prints what was found, on a chip of so many bytes."""
    memory, count = found["memory"], found["siblings"]
    console.print(
        f"{count} siblings at the last chunk on a chip of {found['topology']}, {found['dtype']}: "
        f"parameters {memory['parameters'] / GIB:.2f} GiB, keys and values of the past "
        f"{memory['past'] / GIB:.2f} GiB, of a chunk {memory['chunk'] / GIB:.2f} GiB"
    )
    table = _table("the program", ("past", "temporaries, GiB", "peak, GiB", "fits", "moved, GB"))
    for name in ("shared", "unshared"):
        own = memory[name]
        sizes = [f"{own[field] / GIB:.2f}" for field in ("temporaries", "peak")]
        fits = "no" if "refused" in own or own["peak"] > room else "yes"
        table.add_row(name, *sizes, fits, f"{own['moved'] / 1e9:.0f}" if "moved" in own else "-")
    console.print(table)
    table = _table(f"a tree of {count} children a chunk", ("children", "NFE", "PFLOP", "TB"))
    for name, own in found["tree"].items():
        sizes = f"{own['flops'] / 1e15:.2f}", f"{own['bytes'] / 1e12:.2f}"
        table.add_row(name, str(own["nfe"]), *sizes)
    console.print(table)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    sys.exit(cli.run(main, doc=__doc__, define=define, config="causal_wan_1_3b.py"))
