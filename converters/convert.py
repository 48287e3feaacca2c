"""Converts a published checkpoint into one of ours.

python -m converters.convert --model=NAME --src=DIR --dst=DIR [--dtype=bfloat16] [--dry_run]

DIR of --src is the published directory in the layout of diffusers or transformers: a folder with
`config.json` and weights for every component of the model, safetensors or torch, in one file or in
shards. Of a model with one component it may be that folder itself, or the path of its weights.
Weights of torch may be a TorchScript archive, such as CLIP's own ViT-B-32.pt and ViT-L-14.pt.

Wan 2.1 may also be in the layout of Wan-AI's own directories, which is told by their files.

A model that is published as an adapter, or as a denoiser alone, takes the directory of the model
that it adapts or was trained from as --base.

The folder --dst, which must not exist yet, gets the parameters as one orbax checkpoint, a
`config.json`, and copies of the tokenizers; generators and verifiers take it as their `checkpoint`.
It has another name until it is whole. Tensors pass one at a time: in memory are the parameter that
is being put together, those that wait to be written, an eighth of a component, and a copy of either
while it is written.

With --dry_run everything is checked against names, shapes and types and nothing is written; --src
may then also be a JSON file of names and shapes of a published component.
"""

import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import flags
from rich.console import Console

from converters import cli
from converters.components import INERT, Fields, Opened, open_component
from converters.core import check, stream
from converters.models import MODELS, Model
from converters.registry import COMPONENTS
from converters.sources import ConversionError, read_json, refuse
from converters.writer import Writer, nbytes
from tts_jax.checkpoints import flatten
from tts_jax.report.progress import Bar

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_enum("model", None, list(MODELS), "what to convert", flag_values=values)
    flags.DEFINE_string("src", None, "the published checkpoint", flag_values=values)
    flags.DEFINE_string(
        "base", None, "the model that it adapts or was trained from", flag_values=values
    )
    flags.DEFINE_string("dst", None, "folder to write", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "storage type", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "check everything, write nothing", flag_values=values)
    flags.mark_flags_as_required(["model", "src"], flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Converts what the flags name; returns the exit code."""
    model, source = MODELS[values.model], Path(values.src)
    if not values.dry_run and values.dst is None:
        raise ConversionError("--dst is missing: name a folder, or give --dry_run")
    if values.dry_run and source.suffix == ".json":
        _check_manifest(values.model, model, source)
        return 0
    dtype = DTYPES[values.dtype]
    base = None if values.base is None else Path(values.base)
    opened, entries, copies = open_model(model, source, base)
    for part, found in opened.items():
        print(_summary(part, found))
    if values.dry_run:
        return 0
    entries["converted"] = {
        "model": values.model,
        "dtype": values.dtype,
        "sources": {part: found.fields for part, found in opened.items()},
    }
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _convert(Path(values.dst), opened, entries, copies, dtype)
    print(f"wrote {values.dst}")
    return 0


def open_model(
    model: Model, source: Path, base: Path | None = None
) -> tuple[dict[str, Opened], dict, list[tuple[Path, str]]]:
    """Reads all there is to know of a published model before any tensor is read.

    Args:
      model: what it should be.
      source: its directory, or the weights of its only component.
      base: the directory of the model that it adapts or was trained from, if it is not whole.

    Returns:
      Its components by part, our `config.json`, and files to copy with their places.

    Raises:
      ConversionError: something does not fit; everything that does not is in the one message.
    """
    if not source.exists():
        raise ConversionError(f"{source} does not exist")
    root = source if source.is_dir() else source.parent
    found = model.gather(source, base) if model.gather else None
    gathered, root = ({}, root) if found is None else (found.parts, found.rest)
    if base is not None and found is None:
        raise ConversionError(f"{source} holds no adapter, so that --base has no place")
    if source.is_file() and len(model.parts) - len(gathered) > 1 and root == source.parent:
        raise ConversionError(f"{source} is a file; the model has several components in a folder")
    opened, faults = {}, []
    for name, part in model.parts.items():
        folder = root / part.folder
        own = gathered.get(name)
        if own is None and not folder.is_dir():
            faults.append(f"{root if found else source} has no folder {part.folder}")
            continue
        weights = source if source.is_file() and (name in gathered or not found) else folder
        component, config = model.component(name), folder / "config.json"
        if own is not None:
            component = COMPONENTS.get(own.component, component)
            config = own.config or config
        opened[name] = open_component(component, config, weights, own)
        prefix = f"{part.folder}: " if part.folder else ""
        faults += [
            fault if str(folder) in fault else prefix + fault for fault in opened[name].faults
        ]
    settings = {}
    for name, place in model.settings.items() if found is None or found.settings else ():
        try:
            settings[name] = Fields(read_json(root / place))
        except ConversionError as error:
            faults.append(str(error))
    copies = []
    for place in model.copies:
        folders = [folder for own in gathered.values() for folder in own.folders]
        folders = folders or [root / place]
        files = next(filter(None, map(_tokenizer_files, folders)), [])
        if not files:
            faults.append(f"{folders[0]} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
        copies += [(file, str(Path(place) / file.name)) for file in files]
    copies += [(root / name, name) for name in model.extras if (root / name).is_file()]
    entries = {}
    if not faults:
        try:
            entries = model.entries({n: found.config for n, found in opened.items()}, settings)
        except KeyError as error:
            faults.append(f"{', '.join(model.settings.values())}: field {error} is missing")
        except (ValueError, TypeError) as error:
            faults.append(str(error))
        for name, fields in settings.items():
            unknown = sorted(fields.unread(INERT | model.inert))
            faults += [f"{root / model.settings[name]}: field {f!r} is unknown" for f in unknown]
    refuse(faults)
    return opened, entries, copies


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _convert(
    target: Path,
    opened: Mapping[str, Opened],
    entries: dict,
    copies: Sequence[tuple[Path, str]],
    dtype,
) -> None:
    sizes = [nbytes(found.like, dtype) for found in opened.values()]
    with Writer(target, max(sizes)) as writer:
        _check_room(target, sum(sizes))
        writer.copy(copies)
        done = 0
        with Bar(Console(), sum(sizes)) as bar:
            for part, name, array in _parameters(opened, dtype):
                writer.add(part, name, array)
                done += array.nbytes
                del array  # the writer may let go of it before the next one is made
                bar.update(done, part)
        writer.finish(entries)


def _parameters(opened: Mapping[str, Opened], dtype) -> Iterator[tuple[str, str, np.ndarray]]:
    for part, found in opened.items():
        for name, array in stream(found.tensors, found.like, found.steps, dtype=dtype):
            yield part, name, array


def _check_room(target: Path, wanted: int) -> None:
    free = shutil.disk_usage(target.absolute().parent).free
    if free < wanted:
        raise ConversionError(
            f"{target} needs {wanted / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free"
        )


def _check_manifest(name: str, model: Model, path: Path) -> None:
    if len(model.parts) > 1 and name not in COMPONENTS:
        raise ConversionError(f"{name} has several components: give its directory")
    part, component = name, COMPONENTS.get(name)
    if component is None:
        (part,) = model.parts
        component = model.component(part)
    config = component.published()
    _, like = component.abstract(config)
    shapes = read_json(path)
    try:
        check(shapes, like, component.table(config), component.left_out(config))
    except TypeError as error:
        raise ConversionError(f"{path} holds other things than shapes: {error}") from error
    print(_describe(part, shapes, like))


def _summary(part: str, found: Opened) -> str:
    return _describe(part, found.tensors, found.like)


def _describe(part: str, tensors: Mapping, like: dict) -> str:
    count = sum(int(np.prod(leaf.shape)) for leaf in flatten(like).values())
    return f"{part}: {len(tensors)} tensors, {count:,} parameters, all accounted for"


def program(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run(main, define, __doc__, argv)


if __name__ == "__main__":
    sys.exit(program())
