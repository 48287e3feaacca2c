"""Writes a converted checkpoint, batch by batch, under a temporary name until it is whole."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from converters.sources import ConversionError
from tts_jax.checkpoints import ORBAX

_CHUNK = 64 << 20  # bytes; what a device reads when it wants a part of an array
_LEAST, _MOST = 1 << 20, 256 << 20  # bytes written at once, but for larger parameters


class Writer:
    """A folder with an orbax checkpoint, a `config.json` and copied files; a context manager.

    All of it is written to `<folder>.part`, which is removed when the context ends before `finish`
    and replaced when a conversion is started again.
    """

    def __init__(self, folder: Path, largest: int):
        """Writes nothing yet.

        Args:
          folder: the checkpoint; must not exist, or be empty.
          largest: bytes of its largest part; an eighth of that is held before it is written.

        Raises:
          ConversionError: there is something already, or no room for a folder.
        """
        self._folder = folder.absolute()
        self._temporary = self._folder.with_name(self._folder.name + ".part")
        self._params = self._temporary / ORBAX
        self._limit = min(max(largest // 8, _LEAST), _MOST)
        self._held: dict[str, dict[str, np.ndarray]] = {}
        self._bytes = 0
        if self._folder.exists() and not (
            self._folder.is_dir() and not any(self._folder.iterdir())
        ):
            raise ConversionError(f"{folder} exists already: remove it or name another folder")

    def __enter__(self) -> "Writer":
        logging.set_verbosity(logging.ERROR)  # orbax tells of every batch
        try:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
        except OSError as error:
            raise ConversionError(f"{self._temporary} cannot be made: {error}") from error
        return self

    def __exit__(self, *error) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, part: str, name: str, array: np.ndarray) -> None:
        """Takes one parameter of a part; it is on disk at the latest after `finish`."""
        if self._bytes + array.nbytes > self._limit:
            self._flush()
        self._held.setdefault(part, {})[name] = array
        self._bytes += array.nbytes

    def copy(self, files: Iterable[tuple[Path, str]]) -> None:
        """Copies files to places in the folder."""
        with self._writing():
            for source, place in files:
                target = self._temporary / place
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def finish(self, entries: dict) -> None:
        """Writes what is left and `config.json`, and gives the folder its name."""
        self._flush()
        with self._writing():
            ocp.partial.finalize(self._params)
            (self._temporary / "config.json").write_text(json.dumps(entries, indent=2) + "\n")
            os.replace(self._temporary, self._folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk fails in many ways inside orbax
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ConversionError(f"{self._folder} cannot be written: {reason}") from error

    def _flush(self) -> None:
        if not self._held:
            return
        saving = ocp.options.ArrayOptions.Saving(
            use_compression=False,  # weights hardly shrink, and it takes long
            storage_options=ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=_CHUNK),
        )
        options = ocp.options.ArrayOptions(saving=saving)
        with self._writing(), ocp.Context(array_options=options):
            ocp.partial.save(self._params, self._held)
        self._held, self._bytes = {}, 0


def nbytes(like: dict, dtype) -> int:
    """Bytes of a nested dictionary of (abstract) arrays in another type."""
    return sum(leaf.size for leaf in jax.tree.leaves(like)) * np.dtype(dtype).itemsize
