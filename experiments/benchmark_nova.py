r"""Counts what NOVA's cache, its encoding of visible tokens alone, and shared parents save.

python -m experiments.benchmark_nova
python -m experiments.benchmark_nova --children=5 --output=FILE

Prints, and writes to --output as JSON, operations (two per multiply-add) of the published
nova-d48w1024-osp480 with its published sampler; counted over shapes, nothing is allocated or run:

- The video encoder for all frames of a video: with a cache of keys and values, and reading all
  frames again for each one; and the bytes of the cache in 16-bit numbers.
- The image encoder for all calls of a frame: its first half on the tokens generated so far, as
  published; on as many as the programs have room for, as executed; and on all tokens, the missing
  ones masked.
- Siblings of one parent, together and one by one, for the first frame and a later one.
- A later frame of one sibling with all three, and in the plain form that has none of them.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from converters import cli
from tts_jax import media
from tts_jax.generators.nova.generator import Nova, NovaConfig
from tts_jax.generators.nova.sampler import Condition
from tts_jax.search.flops import count_flops


def _shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


class Counter:
    """A generator over shapes; what it is given a text for is left out."""

    def __init__(self, config: NovaConfig):
        """Shapes of parameters, of a prompt's condition and of a branch."""
        size, sampler = config.transformer, config.sampler
        self.config = config
        self.generator = Nova(config, {config.encoder_name: None})
        self.params = self.generator.abstract_params
        self.condition = Condition(
            _shape(sampler.passes.count, size.prompt_tokens, size.width),
            _shape(len(config.plan.sizes)),
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        self.branch = jax.eval_shape(self.generator.init, self.params, self.condition, key)

    def count(self, function: Callable, *args) -> int:
        """Operations of `function(model, *args)`, with arguments as shapes."""

        def call(params, *args):
            return function(self.generator.network(params, "transformer"), *args)

        return count_flops(call, self.params, *args)


def measure_cache(config: NovaConfig) -> dict:
    """Operations of the video encoder for a video.

    Returns:
      `cached` and `again`: with a cache, and reading all frames again for each one; the same with
      `_frame`: of a later frame; `bytes`: of the cache of a branch, in 16-bit numbers.
    """
    found = {}
    for name, cache in (("cached", True), ("again", False)):
        sampler = dataclasses.replace(config.sampler, cache=cache)
        counter = Counter(dataclasses.replace(config, sampler=sampler))
        args = counter.condition, counter.branch
        first, later = (
            counter.count(
                lambda model, condition, branch, frame=frame, read=counter.generator._read: read(
                    model, condition, branch, frame, frame == 0
                ),
                *args,
            )
            for frame in (0, 1)
        )
        found[name] = first + (sampler.frames - 1) * later
        found[f"{name}_frame"] = later
        if cache:
            found["bytes"] = 2 * (counter.branch.cache.keys.size + counter.branch.cache.values.size)
    return found


def measure_visible(config: NovaConfig) -> dict:
    """Operations of the image encoder for all calls of a frame.

    Returns:
      `visible`, `room` and `masked`: its first half reads the tokens generated so far, as many as
      the sampler's programs have room for, or all.
    """
    counter, size, plan = Counter(config), config.transformer, config.plan
    condition = _shape(config.sampler.passes.count, size.condition_tokens, size.width)

    def encode(known: int) -> int:
        inputs = _shape(known, size.patch_channels), _shape(known, dtype=jnp.int32)
        return counter.count(
            lambda model, *args: model.image(args[0], model.blank[...][0], *args[1:]),
            condition,
            *inputs,
            _shape(known, dtype=bool),
        )

    rooms = {
        step + 1: group.known
        for part in range(config.sampler.segments_per_frame)
        for group in plan.groups(part)
        for step in range(group.begin, group.end)
        if group.known is not None
    }
    starts = plan.starts
    all_tokens, none = encode(size.tokens), encode(0)
    by_room = {room: encode(room) for room in set(rooms.values())}
    return {
        "visible": none + sum(encode(int(starts[step])) for step in rooms),
        "room": none + sum(by_room[room] for room in rooms.values()),
        "masked": (1 + len(rooms)) * all_tokens,
    }


def measure_sharing(config: NovaConfig, children: int) -> dict:
    """Operations of siblings together and one by one, for the first frame and a later one.

    Args:
      config: sizes and settings.
      children: siblings of one parent.

    Returns:
      `first` and `next`: pairs of operations, with sharing and without.
    """
    counter = Counter(config)

    def family(frame: int, count: int) -> int:
        def grow(params, condition, branch, data):
            keys = jax.vmap(jax.random.wrap_key_data)(data)
            advance = counter.generator.advance
            return jax.vmap(lambda key: advance(params, condition, branch, key, frame))(keys)

        args = counter.params, counter.condition, counter.branch
        return count_flops(grow, *args, _shape(count, 2, dtype=jnp.uint32))

    return {
        name: (family(frame, children), children * family(frame, 1))
        for name, frame in (("first", 0), ("next", 1))
    }


def define(values: flags.FlagValues) -> None:
    """The program's flags."""
    flags.DEFINE_integer("children", 5, "siblings of one parent", 2, flag_values=values)
    flags.DEFINE_string("output", "", "also write the figures to this JSON file", values)


def main(options: flags.FlagValues) -> int:
    """Runs the program; returns the exit code."""
    config, console = NovaConfig.d48w1024_osp480(), Console(highlight=False)
    cache = measure_cache(config)
    visible = measure_visible(config)
    sharing = measure_sharing(config, options.children)
    shared, alone = (work // options.children for work in sharing["next"])
    plain = alone + visible["masked"] - visible["room"] + cache["again_frame"]
    plain -= cache["cached_frame"]
    child = {"ours": shared, "plain": plain}
    figures = {"cache": cache, "visible": visible, "sharing": sharing, "child": child}

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(("", "TFLOP", "against", "TFLOP", "ratio")):
        table.add_column(column, justify="right" if i > 1 or i == 1 else "left")

    def row(name: str, less: int, against: str, more: int) -> None:
        table.add_row(
            name, f"{less / 1e12:.2f}", against, f"{more / 1e12:.2f}", f"{less / more:.3f}"
        )

    gigabytes = cache["bytes"] / 1e9
    row(f"video, cache of {gigabytes:.2f} GB", cache["cached"], "all frames", cache["again"])
    row("frame, generated tokens alone", visible["visible"], "masked", visible["masked"])
    row("frame, room for them", visible["room"], "masked", visible["masked"])
    for name, (shared, alone) in sharing.items():
        row(f"{options.children} siblings, {name} frame", shared, "one by one", alone)
    row("frame of a child, all of these", child["ours"], "plain", child["plain"])
    console.print(table)
    if options.output:
        text = json.dumps(figures, indent=2) + "\n"
        media.write_bytes(Path(options.output), text.encode())
        console.print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, define, __doc__))
