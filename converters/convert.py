"""Converts a published checkpoint into one of ours.

python -m converters.convert --model=pyramid_flow_vae --src=DIR --dst=DIR [--dry_run]

DIR of --src holds the published `config.json` and weights, safetensors or torch; it may also be
the path of the weights, when several lie in one folder. The folder --dst gets the part's
safetensors file, and its sizes go into the folder's `config.json` beside those of other parts, so
that the parts of one generator are converted into one folder.

With --dry_run the table is checked against names and shapes alone and nothing is written; --src may
then also be a JSON file of names and shapes of the published checkpoint.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import flags

from converters import cli
from converters.core import ConversionError, check, convert, read_tensors
from converters.registry import MODELS, Model
from tts_jax.checkpoints import save_safetensors

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_enum("model", None, list(MODELS), "what to convert", flag_values=values)
    flags.DEFINE_string("src", None, "the published checkpoint", flag_values=values)
    flags.DEFINE_string("dst", None, "folder to write to", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "storage type", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "check the table, write nothing", flag_values=values)
    flags.mark_flags_as_required(["model", "src"], flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Converts what the flags name; returns the exit code."""
    model, source = MODELS[values.model], Path(values.src)
    if not values.dry_run and values.dst is None:
        raise ConversionError("--dst is missing: name a folder, or give --dry_run")
    if values.dry_run and source.suffix == ".json":
        config, tensors = model.published(), None
        shapes = read_json(source)
    else:
        config = read_config(model, source.parent if source.is_file() else source)
        tensors = read_tensors(source)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
    _, like = model.abstract(config)
    steps = check(shapes, like, model.table(config), model.ignored)
    count = sum(int(np.prod(shapes[step.source])) for step in steps)
    print(f"{values.model}: {len(steps)} tensors, {count:,} parameters, all accounted for")
    if not values.dry_run:
        target = Path(values.dst)
        params = convert(
            tensors, like, model.table(config), model.ignored, dtype=DTYPES[values.dtype]
        )
        write(target, model, config, params, DTYPES[values.dtype])
        print(f"wrote {target / model.part}.safetensors")
    return 0


def read_config(model: Model, folder: Path):
    """The config beside published weights.

    Raises:
      ConversionError: no such file, no such field, or settings that our model does not have.
    """
    path = folder / "config.json"
    try:
        return model.read(read_json(path))
    except KeyError as error:
        raise ConversionError(f"{path} has no field {error}") from error
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error


def read_json(path: Path) -> dict:
    """A parsed JSON file.

    Raises:
      ConversionError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read: {error}") from error


def write(folder: Path, model: Model, config, params: dict, dtype) -> None:
    """Writes one part of a generator; both files appear by atomic rename, the weights first.

    Raises:
      ConversionError: the folder holds another generator.
    """
    path = folder / "config.json"
    entries = read_json(path) if path.is_file() else {}
    generator = entries.setdefault("generator", {"name": model.generator})
    if generator.get("name") != model.generator:
        raise ConversionError(f"{path} is of generator {generator.get('name')!r}")
    generator[model.part] = dataclasses.asdict(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / f"{model.part}.safetensors", params, dtype)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(entries, indent=2) + "\n")
    temporary.replace(path)


def program(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run(main, define, __doc__, argv)


if __name__ == "__main__":
    sys.exit(program())
