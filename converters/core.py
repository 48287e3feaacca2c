r"""The engine behind every checkpoint table: strict both ways, all problems in one error.

A table maps published tensor names to our parameters:

    RULES = {
        r"blocks\.(\d+)\.attn\.to_q\.weight": (r"blocks.attention.q.kernel[\1]", LINEAR),
        r"proj_out\.weight": ("out.kernel", LINEAR),
    }
    IGNORED = {r".*\.inv_freq": "recomputed"}

Patterns are used with `re.fullmatch`. A target is a flat parameter name; `[\1]` sends the tensor to
that layer of a stacked parameter, whose leading axis (axes, for `[\1,\2]`) is the stack.
"""

import functools
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tts_jax import checkpoints

Transform = Callable[[np.ndarray], np.ndarray]
Rules = Mapping[str, tuple[str, Transform]]


class ConversionError(ValueError):
    """A checkpoint that does not fit its table or its model, or that cannot be read."""


def as_is(tensor: np.ndarray) -> np.ndarray:
    """The tensor, unchanged."""
    return tensor


def permute(*axes: int) -> Transform:
    """A transform that reorders axes."""
    return functools.partial(np.transpose, axes=axes)


AS_IS = as_is
LINEAR = permute(1, 0)  # [out, in] -> [in, out]
CONV1D = permute(2, 1, 0)  # [O, I, k] -> [k, I, O]
CONV2D = permute(2, 3, 1, 0)  # [O, I, kh, kw] -> [kh, kw, I, O]
CONV3D = permute(2, 3, 4, 1, 0)  # [O, I, kt, kh, kw] -> [kt, kh, kw, I, O]


class Step(NamedTuple):
    """One tensor's way into a parameter; `layer` is its place in the stack, () when not stacked."""

    source: str
    target: str
    layer: tuple[int, ...]
    transform: Transform


def convert(
    tensors: Mapping[str, np.ndarray],
    like: Mapping,
    rules: Rules,
    ignored: Mapping[str, str] | None = None,
    *,
    dtype=None,
) -> dict:
    """Converts a published checkpoint into parameters.

    Tensors are read one at a time, after the whole table has been checked against all shapes.

    Args:
      tensors: published names to arrays, or to anything with `shape` that `np.asarray` reads.
      like: nested dictionary whose leaves have the wanted shapes and dtypes.
      rules: pattern to (target template, transform).
      ignored: pattern to the reason why such tensors have no place in the model.
      dtype: of the result; by default the dtype of each leaf of `like`.

    Returns:
      Nested dictionary of numpy arrays with the structure of `like`.

    Raises:
      ConversionError: a tensor or a parameter has no counterpart, has more than one, or another
        shape; every problem is in the one message.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    steps = check(shapes, like, rules, ignored)
    buffers = {
        name: np.empty(leaf.shape, dtype or leaf.dtype)
        for name, leaf in checkpoints.flatten(like).items()
    }
    for step in steps:
        buffers[step.target][step.layer] = step.transform(np.asarray(tensors[step.source]))
    return checkpoints.unflatten(buffers, like)


def check(
    shapes: Mapping[str, Sequence[int]],
    like: Mapping,
    rules: Rules,
    ignored: Mapping[str, str] | None = None,
) -> list[Step]:
    """Checks a table against names and shapes alone, both ways.

    Args:
      shapes: published names to shapes, e.g. a parsed manifest.
      like: nested dictionary whose leaves have the wanted shapes.
      rules: pattern to (target template, transform).
      ignored: pattern to the reason for leaving such tensors out.

    Returns:
      The steps that fill every parameter.

    Raises:
      ConversionError: as for `convert`.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in checkpoints.flatten(like).items()}
    compiled = [(re.compile(pattern), *rule) for pattern, rule in rules.items()]
    left_out = [re.compile(pattern) for pattern in ignored or {}]
    problems: list[str] = []
    steps: list[Step] = []
    for source, shape in shapes.items():
        matches = [(m, *rest) for p, *rest in compiled if (m := p.fullmatch(source))]
        skips = sum(1 for pattern in left_out if pattern.fullmatch(source))
        if len(matches) + min(skips, 1) > 1:
            fates = [repr(template) for _, template, _ in matches] + ["ignored"] * (skips > 0)
            problems.append(f"{source}: matched more than once ({', '.join(fates)})")
        elif matches:
            step = _step(source, *matches[0])
            problem = _misfit(step, tuple(shape), wanted)
            problems += [problem] if problem else []
            steps.append(step)
        elif not skips:
            problems.append(f"{source}: no rule takes it")
    problems += _coverage(steps, wanted)
    if problems:
        raise ConversionError(
            f"{len(problems)} problem(s) in the conversion:\n  " + "\n  ".join(problems)
        )
    return steps


def _step(source: str, match: re.Match, template: str, transform: Transform) -> Step:
    target, _, layer = match.expand(template).partition("[")
    return Step(source, target, tuple(int(i) for i in layer.rstrip("]").split(",") if i), transform)


def _misfit(step: Step, shape: tuple[int, ...], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Why a tensor cannot go where its rule sends it; empty when it can."""
    if step.target not in wanted:
        return f"{step.source}: its target {step.target} is not a parameter of the model"
    whole, depth = wanted[step.target], len(step.layer)
    if any(i >= size for i, size in zip(step.layer, whole[:depth], strict=False)):
        return f"{step.source}: layer {list(step.layer)} is beyond {step.target} {list(whole)}"
    try:  # a broadcast zero has the shape but no memory
        given = step.transform(np.broadcast_to(np.zeros((), np.int8), shape)).shape
    except (ValueError, IndexError) as error:
        return f"{step.source}: shape {list(shape)} does not suit its transform ({error})"
    if given != whole[depth:]:
        return (
            f"{step.source}: {list(shape)} becomes {list(given)}, "
            f"{step.target} wants {list(whole[depth:])}"
        )
    return ""


def _coverage(steps: Sequence[Step], wanted: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Parameters that no tensor fills, wholly or in part, and those that two tensors fill."""
    arrivals: dict[str, dict[tuple[int, ...], list[str]]] = {name: {} for name in wanted}
    for step in steps:
        if step.target in arrivals:
            arrivals[step.target].setdefault(step.layer, []).append(step.source)
    for name, layers in arrivals.items():
        for layer, sources in layers.items():
            if len(sources) > 1:
                place = name + (str(list(layer)) if layer else "")
                yield f"{place}: filled by {' and by '.join(sources)}"
        depths = {len(layer) for layer in layers}
        if not layers:
            yield f"{name} {list(wanted[name])}: no tensor fills it"
        elif len(depths) > 1:
            yield f"{name}: filled both whole and by layers"
        else:
            stack = wanted[name][: depths.pop()]
            missing = [list(i) for i in np.ndindex(*stack) if i not in layers]
            if missing:
                yield f"{name}: no tensor fills layer(s) {', '.join(map(str, missing))}"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape is known, its data is read by `np.asarray`."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray] = field(repr=False)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        data = self.read()
        return data if dtype is None else data.astype(dtype)


def read_tensors(path: Path | str) -> dict[str, StoredTensor]:
    """Opens a published checkpoint; data is read only when a tensor is asked for.

    Args:
      path: a .safetensors file, a torch .bin/.pt/.pth file of tensors, or a folder with one such
        file or with an `*.index.json` of shards. Safetensors are preferred where both lie. Torch
        files are read with `weights_only=True`: no code of theirs is run.

    Raises:
      ConversionError: nothing readable there, a file missing or damaged, or torch not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ConversionError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return _read_torch(path)
    raise ConversionError(f"{path} is neither a safetensors nor a torch checkpoint")


def _read_folder(folder: Path) -> dict[str, StoredTensor]:
    for suffix in ("safetensors", "bin"):
        indexes = sorted(folder.glob(f"*.{suffix}.index.json"))
        files = sorted(folder.glob(f"*.{suffix}"))
        if len(indexes) > 1 or (not indexes and len(files) > 1):
            names = ", ".join(file.name for file in indexes or files)
            raise ConversionError(f"{folder} holds several checkpoints ({names}): name one file")
        if indexes:
            return _read_shards(indexes[0])
        if files:
            return read_tensors(files[0])
    raise ConversionError(f"{folder} holds no safetensors and no .bin checkpoint")


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    shard_of = json.loads(index.read_text())["weight_map"]
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(shard_of.values())):
        tensors |= read_tensors(index.parent / shard)
    differing = sorted(set(tensors) ^ set(shard_of))
    if differing:
        raise ConversionError(f"{index} and its shards disagree on {', '.join(differing)}")
    return tensors


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    def read(name: str) -> np.ndarray:
        with safe_open(path, "np") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"checkpoint {path} cannot be read: {error}") from error
    return {n: StoredTensor(shape, functools.partial(read, n)) for n, shape in shapes.items()}


def _read_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            f"{path} is a torch file, which needs the converters extra: "
            'pip install "tts_jax[converters]"'
        ) from error

    def read(tensor) -> np.ndarray:
        if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises many types for a damaged or an unsafe file
        raise ConversionError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, Mapping) or not all(torch.is_tensor(t) for t in state.values()):
        raise ConversionError(f"{path} is not a plain dictionary of tensors")
    return {
        name: StoredTensor(tuple(tensor.shape), functools.partial(read, tensor.detach()))
        for name, tensor in state.items()
    }
