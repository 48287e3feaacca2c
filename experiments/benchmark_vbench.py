r"""Measures what VBench's dimensions share, and two of their towers against the torch packages.

python -m experiments.benchmark_vbench
python -m experiments.benchmark_vbench --clips=32 --frames=8 --side=128 --repetitions=2 --programs

Prints, for random clips and for networks of random weights,
- the time of all dimensions that ask networks, together and one dimension at a time, in one
  process after compilation; by how much their scores differ; and the ratio of the operations of
  the networks, below which that of the times hardly falls: apart from the two dimensions that ask
  ViCLIP the same, dimensions share no call of a network;
- with --programs, the time of runs of experiments.vbench, which besides start, read the networks
  and compile, or find what they compiled in an earlier run;
- with --towers, the time of the image towers of CLIP ViT-B/32 and DINO ViT-B/16 at their published
  sizes, and that of the transformers package with torch on the same weights (the converters extra
  and transformers must be there); and by how much their outputs differ.

All networks are smaller than VBench's, so that a CPU is done in minutes. The smaller a network, the
more of the time is what dimensions share. Times are the least of all repetitions. Other work on the
machine slows both sides, and not alike; it counts in seconds, but not in processor seconds.
"""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from rich.console import Console
from rich.table import Table

from converters import cli as converters_cli
from converters.aesthetic import TOWER_IGNORED, TOWER_RULES
from converters.core import convert
from converters.plain_vit import DINO_RULES
from experiments import cli, scoring, vbench
from tts_jax import media
from tts_jax.checkpoints import abstract_params, save_safetensors
from tts_jax.evaluation.vbench import networks as published
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, OF_TEXTS, Networks
from tts_jax.search.flops import count_flops
from tts_jax.verifiers import EMBEDDED, load_verifier, save_verifier
from tts_jax.verifiers.aesthetic import Aesthetic, AestheticConfig, HeadConfig
from tts_jax.verifiers.clip import CLIP
from tts_jax.vision.dino import DINO, DINOConfig
from tts_jax.vision.vit import VisionConfig, VisionTower

PROMPT, ACTION, STYLE = "a person is riding a bike", "riding a bike", "oil painting"
ASKING = tuple(name for name, dimension in DIMENSIONS.items() if dimension.networks)
VERIFIERS = {"clip_b32": "clip", "viclip": "viclip"}


COLUMNS = ("seconds", "ratio", "processor seconds", "ratio")


class Times(NamedTuple):
    """How long something took.

    Attributes:
      seconds: that passed.
      processor: seconds of all cores that it used, those of its own processes included.
    """

    seconds: float
    processor: float


def _eighth(config, **more):
    """A transformer of an eighth of the width and of the layers."""
    size = dict(width=config.width // 8, mlp=config.mlp // 8, heads=2, layers=config.layers // 8)
    return dataclasses.replace(config, **size, **more)


def _sizes() -> dict:
    """Of every network that can be loaded, one that a CPU runs in a moment."""
    known = published.PUBLISHED
    sizes = {name: _eighth(known[name], size=112) for name in ("dino", "umt")}
    sizes["aesthetic"] = _eighth(known["aesthetic"])
    for name, verifier in VERIFIERS.items():  # their text towers are the embedded ones
        projection = load_verifier(verifier, EMBEDDED)[0].config.vision.projection
        side = 112 if known[name].frames else known[name].size
        sizes[name] = _eighth(known[name], size=side, projection=projection)
    sizes["musiq"] = _eighth(known["musiq"], stem=8, groups=4)
    sizes["raft"] = dataclasses.replace(
        known["raft"], stages=(8, 12, 16), features=32, hidden=16, context=16,
        correlation=(32, 24), motion=(16, 8), joined=16, head=32, iterations=4,
    )  # fmt: skip
    sizes["amt"] = dataclasses.replace(
        known["amt"], stages=(8, 16, 24), features=16, pyramid=(6, 8, 10, 12), side=5,
        correlation=16, motion=5, joined=16, hidden=16, combine=6,
    )  # fmt: skip
    return sizes


def write_networks(root: Path, sizes: Mapping) -> dict[str, Path]:
    """Folders of networks with random weights, as `load_networks` takes them.

    Args:
      root: gets the folders.
      sizes: configs by the names of `tts_jax.evaluation.vbench.networks.LOADERS`, all of them.

    Returns:
      Folders by name.
    """
    for name in published.LOADERS:
        folder = root / name
        folder.mkdir(parents=True)
        if name in VERIFIERS:
            like, _ = load_verifier(VERIFIERS[name], EMBEDDED)
            config = dataclasses.replace(like.config, vision=sizes[name])
            save_verifier(folder, type(like)(config, like.tokenizer), _random(CLIP, config))
            _write_tokenizer(folder / "tokenizer.json")
        elif name == "aesthetic":
            head = HeadConfig(inputs=sizes[name].projection)
            config = AestheticConfig(vision=sizes[name], head=head)
            for part, params in _random(Aesthetic, config).items():
                save_safetensors(folder / f"{part}.safetensors", params)
            entries = {"verifiers": {"aesthetic": dataclasses.asdict(config)}}
            (folder / "config.json").write_text(json.dumps(entries))
        else:
            part, model = published.ALONE[name]
            save_safetensors(folder / f"{part}.safetensors", _random(model, sizes[name]))
        if name == "umt":
            labels = [ACTION, *map(str, range(1, sizes[name].classes))]
            (folder / "labels.json").write_text(json.dumps(labels))
    return {name: root / name for name in published.LOADERS}


def _random(model: Callable, config) -> dict:
    """Small random parameters of a network; variances among them are none below zero."""
    rng = np.random.default_rng(0)
    _, like = abstract_params(model, config)
    return jax.tree.map(lambda leaf: 0.02 * rng.random(leaf.shape), like)


def _write_tokenizer(path: Path) -> None:
    """Writes the embedded tokenizer, with the words of this program's texts in its vocabulary."""
    entries = json.loads((EMBEDDED / "tokenizer.json").read_text())
    vocabulary = entries["model"]["vocab"]
    words = [word for word in dict.fromkeys(f"{PROMPT} {STYLE}".split()) if word not in vocabulary]
    others = [word for word in vocabulary if word.isalpha() and word not in PROMPT.split()]
    names = dict(zip(others, words, strict=False))
    entries["model"]["vocab"] = {names.get(word, word): i for word, i in vocabulary.items()}
    path.write_text(json.dumps(entries))


def write_clips(folder: Path, count: int, frames: int, side: int) -> None:
    """Writes clips of a texture that moves."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.random((-(-side // 8), -(-side // 8), 3)).repeat(8, 0).repeat(8, 1)
        shown = [np.roll(picture, (t, 2 * t), (0, 1))[:side, :side] for t in range(frames)]
        media.write_mp4(folder / f"{PROMPT}-{i}.mp4", np.stack(shown), fps=8, size=0)


INFO = {
    "prompt_en": PROMPT,
    "dimension": ["appearance_style"],
    "auxiliary_info": {"appearance_style": {"appearance_style": STYLE}},
}


def needed(names: Sequence[str], folders: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of the networks that dimensions ask."""
    wanted = {n.removesuffix("_text") for name in names for n in DIMENSIONS[name].networks}
    return {name: folders[name] for name in folders if name in wanted}


def measure(
    folders: Mapping[str, Path], videos: Path, sizes: Mapping, repetitions: int
) -> tuple[dict[str, Times], dict[str, int], float]:
    """Times of all dimensions in one process, with networks read and compiled.

    Args:
      folders: of the networks.
      videos: folder of clips.
      sizes: configs of the networks.
      repetitions: of which the fastest counts.

    Returns:
      Times and the operations of networks, by what was done, and the largest difference between the
      scores.
    """
    with mock.patch.dict(published.PUBLISHED, sizes):
        networks = published.load_networks(folders)
    files, prompts = sorted(videos.iterdir()), scoring.Prompts(entries=[INFO])

    def scores(names: Sequence[str], networks: Networks) -> dict[str, float]:
        found = scoring.evaluate(files, prompts, names, networks, {})
        for name in set(names) - set(found.results):
            raise cli.RunFault(f"no score of {name}: {found.table['not_computed'][name]}")
        return {name: score for name, (score, _) in found.results.items()}

    def apart(networks: Networks) -> dict[str, float]:
        return {name: score for one in ASKING for name, score in scores([one], networks).items()}

    def apart_by_video(networks: Networks) -> dict[str, float]:
        with mock.patch.object(scoring, "GROUP_BYTES", 1):
            return apart(networks)

    runs = {
        "together": functools.partial(scores, ASKING),
        "one dimension at a time": apart,
        "one dimension and one video at a time": apart_by_video,
    }
    operations = {what: Counter() for what in runs}
    found = {what: run(_counting(networks, operations[what])) for what, run in runs.items()}
    whole = found["together"]
    difference = max(abs(one[n] - whole[n]) for one in found.values() for n in whole)
    timed = {what: functools.partial(run, networks) for what, run in runs.items()}
    totals = {what: done.total() for what, done in operations.items()}
    return _fastest(timed, repetitions), totals, difference


def _counting(networks: Networks, done: Counter) -> Networks:
    """Networks that note the operations of their calls; those of texts, a few calls, do not."""

    def note(name: str) -> Callable:
        call = networks[name].call

        @functools.cache
        def operations(*shapes: tuple[int, ...]) -> int:
            return count_flops(call, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))

        def counted(*arrays: np.ndarray) -> np.ndarray:
            done[name] += operations(*(x.shape for x in arrays))
            return call(*arrays)

        return counted

    return {
        name: network if name in OF_TEXTS else dataclasses.replace(network, call=note(name))
        for name, network in networks.items()
    }


def measure_programs(
    folders: Mapping[str, Path], videos: Path, root: Path
) -> dict[str, dict[str, Times]]:
    """Times of runs of experiments.vbench, that compile and that find what was compiled.

    Args:
      folders: of networks of `_sizes`.
      videos: folder of clips.
      root: gets the runs.

    Returns:
      Times by what was done, of the first runs and of the second ones.
    """
    (root / "info.json").write_text(json.dumps([INFO]))

    def run(names: Sequence[str], what: str) -> None:
        networks = needed(names, folders)
        argv = [
            f"--videos={videos}",
            f"--info={root / 'info.json'}",
            f"--dimensions={','.join(names)}",
            f"--networks={','.join(f'{n}={folder}' for n, folder in networks.items())}",
            f"--workdir={root / what}",
        ]
        code = "import sys; from experiments import benchmark_vbench as b; sys.exit(b.child())"
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "xla" / what.partition("/")[0]),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise cli.RunFault(f"a run of {', '.join(names)} failed: {done.stderr[-500:]}")

    def apart(turn: str) -> None:
        for name in ASKING:
            run([name], f"apart/{name}/{turn}")

    found = {}
    for turn in ("first", "second"):
        runs = {
            "together": lambda turn=turn: run(ASKING, f"together/{turn}"),
            "one dimension at a time": lambda turn=turn: apart(turn),
        }
        found[f"{turn} runs"] = _fastest(runs, 1)
    return found


def child() -> int:
    """experiments.vbench, with the networks of `_sizes` taken for VBench's."""
    with mock.patch.dict(published.PUBLISHED, _sizes()):
        return cli.run(vbench.main, doc=vbench.__doc__, define=vbench.define)


# Names of transformers' ViT as DINO's own.
_VIT_NAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.q_proj", "attn.q"),
    ("attention.k_proj", "attn.k"),
    ("attention.v_proj", "attn.v"),
    ("attention.o_proj", "attn.proj"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layernorm", "norm"),
    ("encoder.layer.", "blocks."),
    ("layers.", "blocks."),
)


def _dino_name(name: str) -> str:
    for theirs, ours in _VIT_NAMES:
        name = name.replace(theirs, ours)
    return name


def measure_clip(config: VisionConfig, batch: int, repetitions: int) -> tuple[Times, Times, float]:
    """CLIP's image tower and that of the transformers package.

    Args:
      config: its sizes.
      batch: images in one call.
      repetitions: of which the fastest counts.

    Returns:
      Times of ours and of theirs, and the largest difference over the largest value.
    """
    import transformers

    theirs = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.mlp,
            projection_dim=config.projection,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.size,
            patch_size=config.patch,
        )
    )
    graph, like = abstract_params(VisionTower, config)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = convert(tensors, like, TOWER_RULES, TOWER_IGNORED)
    embed = jax.jit(lambda params, x: nnx.merge(graph, params).embed(x))
    return _against(
        lambda x: embed(params, x), lambda x: theirs(x).image_embeds, params, config.size,
        batch, repetitions,
    )  # fmt: skip


def measure_dino(config: DINOConfig, batch: int, repetitions: int) -> tuple[Times, Times, float]:
    """DINO's tower and the same transformer of the transformers package; see `measure_clip`."""
    import transformers

    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.size,
            patch_size=config.patch,
            layer_norm_eps=config.epsilon,
        ),
        add_pooling_layer=False,
    )
    graph, like = abstract_params(DINO, config)
    tensors = {_dino_name(name): t.numpy() for name, t in theirs.state_dict().items()}
    params = convert(tensors, like, DINO_RULES)
    run = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    return _against(
        lambda x: run(params, x), lambda x: theirs(x).last_hidden_state[:, 0], params, config.size,
        batch, repetitions,
    )  # fmt: skip


def _against(
    ours: Callable, theirs: Callable, params: dict, size: int, batch: int, repetitions: int
) -> tuple[Times, Times, float]:
    import torch

    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    given = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    images = jnp.asarray(images)
    with torch.inference_mode():
        runs = {"ours": lambda: np.asarray(ours(images)), "theirs": lambda: theirs(given).numpy()}
        found, wanted = (run() for run in runs.values())
        times = _fastest(runs, repetitions)
    return *times.values(), float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _fastest(runs: Mapping[str, Callable], repetitions: int) -> dict[str, Times]:
    """Least times of each, in turn."""
    times = dict.fromkeys(runs, Times(math.inf, math.inf))
    for _ in range(repetitions):
        for what, run in runs.items():
            start, used = time.perf_counter(), sum(os.times()[:4])
            run()
            taken = time.perf_counter() - start, sum(os.times()[:4]) - used
            times[what] = Times(*map(min, times[what], taken))
    return times


def _row(table: Table, what: str, ours: Times, other: Times) -> None:
    """Adds times, and what part of them ours are."""
    pairs = zip(ours, other, strict=True)
    cells = [cell for a, b in pairs for cell in (f"{b:.2f}", f"{a / b:.3f}")]
    table.add_row(what, *cells)


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_integer("clips", 32, "to score", 1, flag_values=values)
    flags.DEFINE_integer("frames", 8, "of a clip", 3, flag_values=values)
    flags.DEFINE_integer("side", 128, "of a frame, pixels", 128, flag_values=values)
    flags.DEFINE_integer("batch", 8, "images in one call of a tower", 1, flag_values=values)
    flags.DEFINE_integer("repetitions", 2, "of a timed call", 1, flag_values=values)
    flags.DEFINE_bool("process", True, "time dimensions in one process", flag_values=values)
    flags.DEFINE_bool("programs", False, "time runs of the program", flag_values=values)
    flags.DEFINE_bool("towers", False, "time towers against torch", flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Runs what the flags ask for; returns the exit code."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if values.process or values.programs:
            sizes = _sizes()
            folders = write_networks(root / "networks", sizes)
            write_clips(root / "videos", values.clips, values.frames, values.side)
            shape = f"{values.clips} clips of {values.frames} frames of {values.side} pixels"
        if values.process:
            times, operations, difference = measure(
                folders, root / "videos", sizes, values.repetitions
            )
            table = Table(f"{len(ASKING)} dimensions", *COLUMNS, title=shape)
            for what, taken in times.items():
                _row(table, what, times["together"], taken)
            share = operations["together"] / operations["one dimension at a time"]
            table.caption = (
                f"ratio of the operations of the networks, together and one dimension at a time: "
                f"{share:.3f}; largest difference of the scores: {difference:.1e}"
            )
            console.print(table)
        if values.programs:
            runs = measure_programs(folders, root / "videos", root)
            for turn, times in runs.items():
                table = Table(f"{turn} of the program", *COLUMNS, title=shape)
                for what, taken in times.items():
                    _row(table, what, times["together"], taken)
                console.print(table)
    if values.towers:
        for name, measured in (
            ("CLIP ViT-B/32", (measure_clip, VisionConfig.clip_vit_base_patch32())),
            ("DINO ViT-B/16", (measure_dino, DINOConfig.dino_vitb16())),
        ):
            ours, theirs, error = measured[0](measured[1], values.batch, values.repetitions)
            table = Table(name, *COLUMNS, title=f"{values.batch} images")
            _row(table, "ours", ours, ours)
            _row(table, "torch", ours, theirs)
            table.caption = f"largest difference over the largest value: {error:.1e}"
            console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(converters_cli.run(main, define, __doc__))
