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
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from converters.sources import ConversionError, refuse
from tts_jax import checkpoints

Transform = Callable[[np.ndarray], np.ndarray]
Rules = Mapping[str, tuple[str, Transform]]

FLOATS = tuple(np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))


def as_is(tensor: np.ndarray) -> np.ndarray:
    """The tensor, unchanged."""
    return tensor


def conv_kernel(weight: np.ndarray) -> np.ndarray:
    """Of frames or of clips, [O, I, (kt,) kh, kw] -> [kt, kh, kw, I, O]."""
    if weight.ndim == 4:
        weight = weight[:, :, None]
    return weight.transpose(2, 3, 4, 1, 0)


def patch_kernel(weight: np.ndarray) -> np.ndarray:
    """A convolution of patches as a linear layer, [D, C, (1,) p, p] -> [p*p*C, D]."""
    kernel = conv_kernel(weight)
    return kernel.reshape(-1, kernel.shape[-1])


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
      tensors: published names to arrays, or to anything with `shape` and `dtype` that `np.asarray`
        reads.
      like: nested dictionary whose leaves have the wanted shapes and dtypes.
      rules: pattern to (target template, transform).
      ignored: pattern to the reason why such tensors have no place in the model.
      dtype: of the result; by default the dtype of each leaf of `like`.

    Returns:
      Nested dictionary of numpy arrays with the structure of `like`.

    Raises:
      ConversionError: a tensor or a parameter has no counterpart, has more than one, or another
        shape or kind of number; every problem is in the one message.
    """
    steps = check(tensors, like, rules, ignored)
    return checkpoints.unflatten(dict(stream(tensors, like, steps, dtype=dtype)), like)


def stream(
    tensors: Mapping[str, np.ndarray], like: Mapping, steps: Sequence[Step], *, dtype=None
) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters one after the other, each made when it is asked for.

    Args:
      tensors, like, dtype: as for `convert`.
      steps: what `check` returned for them.

    Yields:
      Flat parameter name and its values.

    Raises:
      ConversionError: a tensor cannot be read, or holds values that are not finite as `dtype`.
    """
    arrivals: dict[str, list[Step]] = {}
    for step in steps:
        arrivals.setdefault(step.target, []).append(step)
    for name, leaf in checkpoints.flatten(like).items():
        buffer = np.empty(leaf.shape, leaf.dtype if dtype is None else dtype)
        for step in arrivals[name]:
            with np.errstate(over="ignore"):
                buffer[step.layer] = step.transform(np.asarray(tensors[step.source]))
            if not np.isfinite(buffer[step.layer]).all():
                raise ConversionError(
                    f"{step.source} holds values that are not finite as {buffer.dtype}"
                )
        yield name, buffer
        del buffer  # before the next one is made


def check(
    tensors: Mapping[str, Sequence[int]],
    like: Mapping,
    rules: Rules,
    ignored: Mapping[str, str] | None = None,
) -> list[Step]:
    """Checks a table against names, shapes and types alone, both ways.

    Args:
      tensors: published names to shapes, e.g. a parsed manifest, or to anything with `shape` and
        `dtype`.
      like: nested dictionary whose leaves have the wanted shapes.
      rules: pattern to (target template, transform).
      ignored: pattern to the reason for leaving such tensors out.

    Returns:
      The steps that fill every parameter.

    Raises:
      ConversionError: as for `convert`.
    """
    steps, faults = inspect(tensors, like, rules, ignored)
    refuse(faults)
    return steps


def inspect(
    tensors: Mapping[str, Sequence[int]],
    like: Mapping,
    rules: Rules,
    ignored: Mapping[str, str] | None = None,
) -> tuple[list[Step], list[str]]:
    """As `check`, but returns the steps and all faults instead of raising."""
    wanted = checkpoints.flatten(like)
    compiled = [(re.compile(pattern), *rule) for pattern, rule in rules.items()]
    left_out = [re.compile(pattern) for pattern in ignored or {}]
    faults: list[str] = []
    steps: list[Step] = []
    for source, tensor in tensors.items():
        matches = [(m, *rest) for p, *rest in compiled if (m := p.fullmatch(source))]
        skips = sum(1 for pattern in left_out if pattern.fullmatch(source))
        if len(matches) + min(skips, 1) > 1:
            fates = [repr(template) for _, template, _ in matches] + ["ignored"] * (skips > 0)
            faults.append(f"{source}: matched more than once ({', '.join(fates)})")
        elif matches:
            step = _step(source, *matches[0])
            faults += _misfits(step, tensor, wanted)
            steps.append(step)
        elif not skips:
            faults.append(f"{source}: no rule takes it")
    return steps, [*faults, *_coverage(steps, {n: tuple(leaf.shape) for n, leaf in wanted.items()})]


def _step(source: str, match: re.Match, template: str, transform: Transform) -> Step:
    target, _, layer = match.expand(template).partition("[")
    return Step(source, target, tuple(int(i) for i in layer.rstrip("]").split(",") if i), transform)


def _misfits(step: Step, tensor, wanted: Mapping) -> Iterator[str]:
    """Why a tensor cannot go where its rule sends it."""
    if step.target not in wanted:
        yield f"{step.source}: its target {step.target} is not a parameter of the model"
        return
    leaf = wanted[step.target]
    shape, dtype = getattr(tensor, "shape", tensor), getattr(tensor, "dtype", None)
    if dtype is not None and leaf.dtype in FLOATS and dtype not in FLOATS:
        yield f"{step.source}: {dtype}, {step.target} wants a floating-point type"
    if shape is not None:
        yield from _misshapes(step, tuple(shape), tuple(leaf.shape))


def _misshapes(step: Step, shape: tuple[int, ...], whole: tuple[int, ...]) -> Iterator[str]:
    depth = len(step.layer)
    if any(i >= size for i, size in zip(step.layer, whole[:depth], strict=False)):
        yield f"{step.source}: layer {list(step.layer)} is beyond {step.target} {list(whole)}"
        return
    try:  # a broadcast zero has the shape but no memory
        given = step.transform(np.broadcast_to(np.zeros((), np.int8), shape)).shape
    except (ValueError, IndexError) as error:
        yield f"{step.source}: shape {list(shape)} does not suit its transform ({error})"
        return
    if given != whole[depth:]:
        yield (
            f"{step.source}: {list(shape)} becomes {list(given)}, "
            f"{step.target} wants {list(whole[depth:])}"
        )


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
