"""Runs our ports on recorded inputs and prints how far they are from the recorded outputs.

python -m converters.verify --golden=DIR [--checkpoint=DIR] [--rtol=0.02]

DIR of --golden is a golden folder (`config.json`, `weights.safetensors` under published names, and
`io.safetensors` with the inputs and outputs of the original), or a folder of such folders, of which
those named like a case are taken. With --checkpoint the weights are those of a converted
checkpoint instead, and the golden folder needs `io.safetensors` only.

Activations are float32. The relative error of an output is its largest difference over its largest
value. Exits with 1 when a difference is beyond the tolerance of its case, or, with --rtol, when a
relative error is beyond that. How to record a golden folder: docs/recording_golden.md.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from converters import cases, cli, judge_cases
from converters.cases import Case, Output, Run, Tensors
from converters.components import interpret
from converters.models import MODELS
from converters.sources import ConversionError, read_json, read_tensors, refuse
from tts_jax.checkpoints import ORBAX, CheckpointError, load_orbax

CASES = {**cases.CASES, **judge_cases.CASES}


def load_converted(case: Case, folder: Path) -> Run | None:
    """The model of a converted checkpoint in float32, None if it lacks the case.

    Raises:
      ConversionError: no converted checkpoint, or a damaged one.
    """
    record = read_json(folder / "config.json").get("converted")
    if not isinstance(record, dict) or record.get("model") not in MODELS:
        raise ConversionError(f"{folder} was not written by converters.convert")
    model = MODELS[record["model"]]
    for name, part in model.parts.items():
        if part.component == case.component:
            fields = record.get("sources", {}).get(name, {})
            _, graph, like, faults = interpret(model.component(name), fields)
            refuse(f"{folder / 'config.json'}: {fault}" for fault in faults)
            try:
                params = load_orbax(folder / ORBAX, {name: like}, jnp.float32, partial=True)
            except CheckpointError as error:
                raise ConversionError(str(error)) from error
            return Run(graph, params[name], fields)
    return None


def verify(case: Case, path: Path, tensors: Tensors, run: Run) -> list[Output]:
    """Runs the inputs of a golden folder.

    Args:
      case: what they are inputs of.
      path: the file of inputs and outputs.
      tensors: what it holds.
      run: the model.

    Raises:
      ConversionError: the file has no inputs, or such that the model cannot take.
    """
    run = dataclasses.replace(run, params=jax.tree.map(jnp.asarray, run.params))
    try:
        with jax.default_matmul_precision("highest"):
            outputs = list(case.outputs(run, tensors))
    except KeyError as error:
        raise ConversionError(f"{path} has no tensor {error}") from error
    except ConversionError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(f"{path} does not fit the model: {reason}") from error
    if not outputs:
        raise ConversionError(f"{path} holds no input of {case.component}")
    return outputs


def _outputs(folder: Path, found: Sequence[Case], checkpoint: str | None) -> Iterator[Output]:
    """Of the cases that a golden folder has recorded and a checkpoint, if there is one, holds."""
    path = folder / "io.safetensors"
    tensors = {name: np.asarray(tensor) for name, tensor in read_tensors(path).items()}
    for case in found:
        if not case.wants or case.wants in tensors:
            run = (
                case.load(folder) if checkpoint is None else load_converted(case, Path(checkpoint))
            )
            if run is not None:
                yield from verify(case, path, tensors, run)


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string("golden", None, "a golden folder, or a folder of them", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "a converted checkpoint", flag_values=values)
    flags.DEFINE_float(
        "rtol", None, "largest relative error, instead of the cases' tolerances", flag_values=values
    )
    flags.mark_flag_as_required("golden", flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Verifies every case that has a golden folder; returns the exit code."""
    root = Path(values.golden).resolve()
    if not root.is_dir():
        raise ConversionError(f"{root} is not a folder")
    single = root.name in CASES and (root / "io.safetensors").is_file()
    folders = {root.name: root} if single else {n: root / n for n in CASES if (root / n).is_dir()}
    checked = failed = 0
    for name, folder in folders.items():
        for output in _outputs(folder, CASES[name], values.checkpoint):
            good = output.good if values.rtol is None else output.relative_error <= values.rtol
            checked, failed = checked + 1, failed + (not good)
            verdict = "ok" if good else "FAILED"
            print(
                f"{name:21} {output.name:28} relative error {output.relative_error:.1e}  "
                f"largest difference {output.difference:.1e}  {verdict}",
                flush=True,
            )
    if not checked:
        of = "" if values.checkpoint is None else f" for {values.checkpoint}"
        raise ConversionError(f"{root} holds no golden folder{of} of {', '.join(CASES)}")
    return cli.EXIT_FAILED if failed else 0


def program(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run(main, define, __doc__, argv)


if __name__ == "__main__":
    sys.exit(program())
