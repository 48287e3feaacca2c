"""Executables of a search in a folder, so that a later process neither compiles nor traces them.

jax's own cache of compiled programs is asked by their text, for which a process must trace them
first. Here they are asked for by name, so that what they are made of, which a name does not tell,
must be known to be the same: the package's source, versions, devices, settings and checkpoints, the
`Surroundings` of a folder's part. A file holds machine code, and Python objects as `pickle` writes
them: give no folder that others may write to.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pickle
import platform
import tempfile
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from tts_jax.parallel import side_by_side

PACKAGE = Path(__file__).parent.parent
# Settings of jax with these words in their names change no executable.
_INERT = (
    "cache",
    "log",
    "profil",
    "traceback",
    "dump",
    "compiler_detailed",
    "hijax_",
    "distributed",
)


@dataclass(frozen=True)
class Stored:
    """An executable in the place of a traced function.

    Attributes:
      run: takes the arguments.
      flops: operations of all devices.
      out_info: shapes and dtypes of its results.
    """

    run: Callable
    flops: int
    out_info: Any


class Executables:
    """A folder of executables; those of equal surroundings share a part of it."""

    def __init__(self, folder: Path | str, mesh: Mesh, surroundings: Mapping[str, str]):
        """Warns, in a sentence, where the folder has parts but none of these surroundings.

        Args:
          folder: is made if it does not exist.
          mesh: of the search, of devices of this process.
          surroundings: see `surroundings`.

        Raises:
          OSError: a folder that cannot be made.
        """
        self._mesh = mesh
        text = json.dumps(surroundings, indent=2, sort_keys=True) + "\n"
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not self.folder.is_dir():
            _tell_difference(Path(folder), surroundings)
            self.folder.mkdir(parents=True)
            _write(self.folder / "surroundings.json", text.encode())

    def load(self, name: Hashable, args: Sequence[Any]) -> Stored | None:
        """An executable, or None where there is none that can be read.

        Args:
          name: as it was saved.
          args: its arguments, arrays or their shapes.
        """
        path = self._path(name, args)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            apart, parts, flops, (out_info, results) = pickle.loads(content)
            inputs, outputs = jax.tree.structure((tuple(args), {})), jax.tree.structure(results)
            by_id = {device.id: device for device in self._mesh.local_devices}
            programs = {}
            for ids, payload in parts:
                own = tuple(by_id[index] for index in ids)
                programs[own[0]] = serialize_executable.deserialize_and_load(
                    payload, inputs, outputs, backend=own[0].client, execution_devices=own
                )
        except Exception as error:  # a damaged file fails in many ways
            tell(f"the executable {path} cannot be read ({one_line(error)}); compiling it again")
            return None
        run = side_by_side(programs, self._mesh) if apart else next(iter(programs.values()))
        shapes = [jax.ShapeDtypeStruct(*info) for info in out_info]
        return Stored(run, flops, jax.tree.unflatten(outputs, shapes))

    def save(self, name: Hashable, args: Sequence[Any], stored: Stored) -> None:
        """Keeps an executable; says so in a sentence where it cannot be kept."""
        path, apart = self._path(name, args), hasattr(stored.run, "programs")
        leaves, tree = jax.tree.flatten(stored.out_info)
        # Structures cannot be kept, but what has them can.
        outputs = [(x.shape, x.dtype) for x in leaves], jax.tree.unflatten(tree, range(len(leaves)))
        try:
            parts = []
            for program in stored.run.programs.values() if apart else [stored.run]:
                devices = program.runtime_executable().local_devices()
                payload = serialize_executable.serialize(program)[0]
                parts.append(([device.id for device in devices], payload))
            _write(path, pickle.dumps((apart, parts, stored.flops, outputs)))
        except (ValueError, NotImplementedError, TypeError, OSError, pickle.PicklingError) as error:
            tell(f"an executable cannot be kept in {self.folder} ({one_line(error)})")

    def _path(self, name: Hashable, args: Sequence[Any]) -> Path:
        text = repr((name, str(jax.tree.structure(tuple(args)))))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.bin"


@contextlib.contextmanager
def compiling_anew() -> Iterator[None]:
    """Leaves out jax's cache of compiled programs: on CPU, what comes from it cannot be kept."""
    before = jax.config.jax_enable_compilation_cache

    def switch(on: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", on)
        compilation_cache.reset_cache()  # whether there is one is asked once

    switch(False)
    try:
        yield
    finally:
        switch(before)


def surroundings(settings: Any, mesh: Mesh) -> dict[str, str]:
    """All that decides what the programs of a search compute, beside their names and shapes.

    Args:
      settings: of the models, nested lists and dictionaries; names in it of files or folders that
        exist stand for what these hold, by size and time of their last change.
      mesh: on which they run.

    Returns:
      By kind, short texts.
    """
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "numpy")
    ]
    switches = {
        name: str(value)
        for name, value in jax.config.values.items()
        if not any(word in name for word in _INERT)
    }
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    places = [f"{device.device_kind} {device.id}" for device in mesh.devices.flat]
    client = mesh.devices.flat[0].client
    files = {path: _state(Path(path)) for path in sorted(_paths(settings))}
    return {
        "versions": ", ".join(versions),
        "source of tts_jax": _digest(
            {str(p.relative_to(PACKAGE)): _contents(p) for p in sorted(PACKAGE.rglob("*.py"))}
        ),
        "embedded checkpoints": _digest(_state(PACKAGE / "assets")),
        "devices": f"{client.platform} {client.platform_version}: {', '.join(places)}",
        "processor": _processor() if client.platform == "cpu" else "",
        "mesh": str(dict(mesh.shape)),
        "settings of jax": _digest({**switches, **flags}),
        "settings of the models": _digest(settings),
        "checkpoints": _digest(files),
    }


def tell(sentence: str) -> None:
    """Warns of something that costs time alone."""
    warnings.warn(sentence, stacklevel=3)


def one_line(error: Exception) -> str:
    """What an error says, short enough for a warning."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _tell_difference(folder: Path, wanted: Mapping[str, str]) -> None:
    """Says what has changed since the last executables were kept in a folder."""
    kept = sorted(folder.glob("*/surroundings.json"), key=lambda path: path.stat().st_mtime)
    if not kept:
        return
    try:
        found = json.loads(kept[-1].read_text())
        changed = [name for name in wanted if found.get(name) != wanted[name]]
    except (OSError, ValueError, AttributeError):
        changed = list(wanted)
    shown = [
        f"{name} ({found[name]}, now {wanted[name]})" if name in ("versions", "devices") else name
        for name in changed
    ]
    tell(f"the executables in {folder} were made with other {', '.join(shown)}; compiling again")


def _paths(settings: Any) -> set[str]:
    if isinstance(settings, Mapping):
        return set().union(*map(_paths, settings.values()), set())
    if isinstance(settings, list | tuple):
        return set().union(*map(_paths, settings), set())
    return (
        {settings} if isinstance(settings, str) and settings and Path(settings).exists() else set()
    )


def _state(path: Path) -> list:
    """Names, sizes and times of files."""
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in found]


def _contents(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    """What machine code may rely on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()} {_digest(sorted(known))}"


def _write(path: Path, content: bytes) -> None:
    """By atomic rename, whoever else writes the same file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
