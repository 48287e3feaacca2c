"""Tensors of published checkpoints: names, shapes and types first, data when it is asked for.

Every fault of a checkpoint is collected, so that one message can hold all of them.
"""

import functools
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "weights")
SUFFIXES = ("safetensors", "bin", "pt", "pth")

_SAFETENSORS_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(bool),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


class ConversionError(ValueError):
    """A checkpoint that does not fit its table or its model, or that cannot be read."""


def refuse(faults: Iterable[str]) -> None:
    """Raises one error with all faults, if there are any.

    Raises:
      ConversionError: there are.
    """
    faults = list(faults)
    if faults:
        lines = "\n  ".join(faults)
        raise ConversionError(f"{len(faults)} problem(s) in the conversion:\n  {lines}")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, read by `np.asarray`.

    Attributes:
      shape: None where the file that should hold the tensor cannot be read.
      dtype: its stored type, or the name of one that numpy does not have; None as for `shape`.
    """

    shape: tuple[int, ...] | None
    dtype: np.dtype | str | None
    read: Callable[[], np.ndarray] = field(repr=False)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        data = self.read()
        return data if dtype is None else data.astype(dtype)


class Source(NamedTuple):
    """What a checkpoint holds, and what is wrong with its files.

    Attributes:
      tensors: by published name. Empty when nothing at all could be read.
      faults: one sentence each.
    """

    tensors: dict[str, StoredTensor]
    faults: list[str]


def read_tensors(path: Path | str) -> dict[str, StoredTensor]:
    """Opens a published checkpoint; data is read only when a tensor is asked for.

    Args:
      path: see `scan`.

    Raises:
      ConversionError: nothing readable there, a file missing or damaged, or torch not installed.
    """
    source = scan(path)
    refuse(source.faults)
    return source.tensors


def scan(path: Path | str) -> Source:
    """Opens a published checkpoint and notes what is wrong with its files.

    Args:
      path: a .safetensors file, a torch .bin/.pt/.pth file of tensors, or a folder with one such
        file or with an `*.index.json` of shards. Safetensors are preferred where both lie. Torch
        files are read with `weights_only=True`: no code of theirs is run. A TorchScript archive, as
        CLIP was first published, is a torch file too; of it the tensors are taken, and no Python.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _scan_folder(path)
        return Source(_read_file(path), [])
    except ConversionError as error:
        return Source({}, [str(error)])


def read_json(path: Path) -> dict:
    """A parsed JSON object.

    Raises:
      ConversionError: it cannot be read, or is no object.
    """
    try:
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError as error:
        raise ConversionError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path} holds no JSON object")
    return value


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"twice in one object: {', '.join(repeated)}")
    return dict(pairs)


def _scan_folder(folder: Path) -> Source:
    for suffix in SUFFIXES:
        indexes = sorted(folder.glob(f"*.{suffix}.index.json"))
        files = sorted(folder.glob(f"*.{suffix}"))
        found = _usual(indexes, f".{suffix}.index.json") or _usual(files, f".{suffix}")
        if found is not None:
            return _scan_shards(found) if found.suffix == ".json" else scan(found)
        if indexes or files:
            names = ", ".join(file.name for file in indexes or files)
            raise ConversionError(f"{folder} holds several checkpoints ({names}): name one file")
    raise ConversionError(f"{folder} holds no safetensors and no torch checkpoint")


def _usual(files: Sequence[Path], ending: str) -> Path | None:
    """The only file, or else the first with one of the usual names."""
    if len(files) == 1:
        return files[0]
    names = {file.name: file for file in files}
    return next((names[stem + ending] for stem in STEMS if stem + ending in names), None)


def _scan_shards(index: Path) -> Source:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
        raise ConversionError(f"{index} has no weight_map of tensor names to file names")
    tensors: dict[str, StoredTensor] = {}
    faults: list[str] = []
    holders: dict[str, list[str]] = {}
    unreadable = set()
    for shard in sorted(set(shard_of.values())):
        try:
            if Path(shard).name != shard:
                raise ConversionError(f"{index} names {shard!r}, which is not beside it")
            if not (index.parent / shard).is_file():
                raise ConversionError(f"{index} names {shard}, which does not exist")
            found = _read_file(index.parent / shard)
        except ConversionError as error:
            faults.append(str(error))
            unreadable.add(shard)
            continue
        tensors |= found
        for name in found:
            holders.setdefault(name, []).append(shard)
    for name, shards in holders.items():
        if len(shards) > 1:
            faults.append(f"{name}: lies in {' and in '.join(shards)}")
        elif name not in shard_of:
            faults.append(f"{name}: lies in {shards[0]}, {index.name} does not name it")
        elif shard_of[name] not in shards and shard_of[name] not in unreadable:
            faults.append(f"{name}: lies in {shards[0]}, {index.name} says {shard_of[name]}")
    for name, shard in shard_of.items():
        if name not in holders:
            tensors[name] = StoredTensor(None, None, functools.partial(_no_data, name))
            if shard not in unreadable:
                faults.append(f"{name}: {index.name} says {shard}, which does not hold it")
    return Source(tensors, faults)


def _no_data(name: str) -> np.ndarray:
    raise ConversionError(f"{name}: the file that should hold it cannot be read")


def _read_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise ConversionError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return _read_torch(path)
    raise ConversionError(f"{path} is neither a safetensors nor a torch checkpoint")


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    def describe(part) -> tuple[tuple[int, ...], np.dtype | str]:
        dtype = part.get_dtype()
        return tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype)

    def read(name: str) -> np.ndarray:
        try:
            with safe_open(path, "np") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ConversionError(f"{name} in {path} cannot be read: {error}") from error

    try:
        with safe_open(path, "np") as file:
            described = {name: describe(file.get_slice(name)) for name in file.keys()}
    except Exception as error:  # damaged headers fail in more ways than the library names
        raise ConversionError(f"checkpoint {path} cannot be read: {error}") from error
    return {n: StoredTensor(*what, functools.partial(read, n)) for n, what in described.items()}


def _is_torchscript(path: Path) -> bool:
    """Whether a torch file is an archive of a compiled module, which has constants of its own."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            f"{path} is a torch file, which needs the converters extra: "
            'pip install "tts_jax[converters]"'
        ) from error

    def dtype(tensor) -> np.dtype | str:
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_quantized or tensor.layout != torch.strided:
            return f"{tensor.layout} {name}"
        try:
            return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)
        except TypeError:
            return name

    def read(tensor) -> np.ndarray:
        if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    try:
        if _is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # torch raises many types for a damaged or an unsafe file
        reason = str(error).strip().partition("\n")[0]
        raise ConversionError(f"checkpoint {path} cannot be read: {reason}") from error
    # How training programs wrap what they save.
    for key in ("generator_ema", "generator", "state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not all(isinstance(name, str) for name in state)
        or not all(torch.is_tensor(tensor) for tensor in state.values())
    ):
        raise ConversionError(f"{path} is not a plain dictionary of tensors")
    return {
        name: StoredTensor(
            tuple(tensor.shape), dtype(tensor), functools.partial(read, tensor.detach())
        )
        for name, tensor in state.items()
    }
