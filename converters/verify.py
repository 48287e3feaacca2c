"""Checks converted models against golden folders and prints the largest errors.

python -m converters.verify --golden=DIR

DIR is a golden folder (`config.json`, `weights.safetensors` under published names, and
`io.safetensors` with the inputs and outputs of the original) or a folder of such folders, of which
those named like a model are taken. Everything runs in float32. Exits with 1 when a model errs by
more than its tolerance.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from flax import nnx
from jax import Array

from converters import cli
from converters.convert import read_config
from converters.core import ConversionError, convert, read_tensors
from converters.registry import MODELS
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE


class Case(NamedTuple):
    """One output of a model beside the original's, and the largest difference allowed."""

    name: str
    found: np.ndarray
    wanted: np.ndarray
    tolerance: float


Run = Callable[..., Array]  # (function of the module and inputs, inputs) -> its compiled result


def vae_cases(run: Run, tensors: Mapping[str, np.ndarray]) -> Iterator[Case]:
    """Whole clips through the encoder and the decoder of the Pyramid-Flow VAE."""
    for name in tensors:
        if call := re.fullmatch(r"(enc|dec)_t\d+\.in", name):
            encodes = call[1] == "enc"
            output = name.replace(".in", ".moments" if encodes else ".out")
            function = CausalVideoVAE.encode if encodes else CausalVideoVAE.decode
            found = run(function, channels_last(tensors[name]))
            yield Case(output, found, channels_last(tensors[output]), 1e-5)


CASES: dict[str, Callable[[Run, Mapping[str, np.ndarray]], Iterator[Case]]] = {
    "pyramid_flow_vae": vae_cases,
}


def channels_last(x: np.ndarray) -> np.ndarray:
    """[B, C, T, H, W] to [B, T, H, W, C]."""
    return np.moveaxis(x, 1, -1)


def verify(name: str, folder: Path) -> list[Case]:
    """Converts a golden folder's weights and runs its inputs.

    Args:
      name: one of `CASES`.
      folder: the golden folder.

    Raises:
      ConversionError: the folder is incomplete, or does not fit the table.
    """
    model = MODELS[name]
    config = read_config(model, folder)
    graph, like = model.abstract(config)
    weights = read_tensors(folder / "weights.safetensors")
    params = convert(weights, like, model.table(config), model.ignored)

    def run(function, *inputs):
        return jax.jit(lambda params, *xs: function(nnx.merge(graph, params), *xs))(params, *inputs)

    tensors = {k: np.asarray(v) for k, v in read_tensors(folder / "io.safetensors").items()}
    with jax.default_matmul_precision("highest"):
        return list(CASES[name](run, tensors))


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string("golden", None, "a golden folder, or a folder of them", flag_values=values)
    flags.mark_flag_as_required("golden", flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Verifies every model that has a golden folder; returns the exit code."""
    root = Path(values.golden).resolve()
    single = root.name in CASES and (root / "io.safetensors").is_file()
    folders = {root.name: root} if single else {n: root / n for n in CASES if (root / n).is_dir()}
    if not folders:
        raise ConversionError(f"{root} holds no golden folder of {', '.join(CASES)}")
    failed = False
    for name, folder in folders.items():
        for case in verify(name, folder):
            error = float(np.abs(np.asarray(case.found) - case.wanted).max())
            good = error <= case.tolerance * max(1.0, float(np.abs(case.wanted).max()))
            failed |= not good
            verdict = "ok" if good else f"above {case.tolerance:.0e}"
            print(f"{name:20} {case.name:24} max error {error:.1e}  {verdict}")
    return cli.EXIT_FAILED if failed else 0


def program(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run(main, define, __doc__, argv)


if __name__ == "__main__":
    sys.exit(program())
