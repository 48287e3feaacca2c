"""Searches on disk between two rounds, so that a killed one goes on where it was.

<folder>/<rounds done>/record.json   a checksum, and everything but arrays
                      /arrays        two buffers, videos and states: an orbax checkpoint, or of
                                     a job of several processes {videos,states}/bytes.npy

A save adds a folder, by rename. Frames and latents are written once, by the first save after their
round; of the folders of earlier saves nothing else is kept.
"""

import dataclasses
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tts_jax.search import paths
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.loop import Done
from tts_jax.search.models import SearchFault
from tts_jax.search.pools import Name
from tts_jax.search.results import Saved
from tts_jax.search.tree import Node

_ARRAYS = ("frames", "latents")
PLAIN = "bytes.npy"


class StoreError(SearchFault):
    """A search that cannot be saved, or read, or gone on with; the message is one sentence."""


class RoundStore:
    """Keeps one search in a folder."""

    def __init__(self, folder: Path | str, about: Mapping[str, Any] | None = None):
        """Touches nothing yet.

        Args:
          folder: of this search alone.
          about: plain values that decide what the search does: prompt, seed, configuration,
            versions. A search goes on only if they are the same.
        """
        self.folder = Path(folder).absolute()
        self._about = json.loads(json.dumps(about or {}))
        self._rounds = 0
        self._videos: list[dict] = []

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was.

        Raises:
          StoreError: a file is missing or damaged, or the search is another one.
        """
        saves = saves_in(self.folder)
        if not saves:
            return None
        record = self._read_record(self.folder / f"{saves[-1]}" / "record.json")
        if differing := _differing(record["about"], self._about):
            raise StoreError(
                f"the search saved in {self.folder} had another {', '.join(differing)}; "
                "remove the folder to start anew"
            )
        rounds = [
            Done(entry["label"], [_node(fields) for fields in entry["nodes"]])
            for entry in record["rounds"]
        ]
        for part in record["videos"]:
            arrays = self._read_arrays(part["folder"], "videos", part)
            for (number, index, name), array in zip(part["owners"], arrays, strict=True):
                setattr(rounds[number].nodes[index], name, array)
        leaves = iter(self._read_arrays(saves[-1], "states", record["states"]))
        states = {
            Name(fidelity, paths.from_json(path)): [next(leaves) for _ in range(count)]
            for fidelity, path, count in record["states"]["owners"]
        }
        ledger = Ledger({name: Cost(**cost) for name, cost in record["ledger"].items()})
        self._rounds, self._videos = len(rounds), record["videos"]
        return Saved(rounds, states, ledger)

    def save(self, saved: Saved) -> None:
        """Keeps this instead of what was saved before, atomically.

        Args:
          saved: the search that was loaded or saved before, some rounds later.

        Raises:
          StoreError: the folder cannot be written; what was saved before stays.
        """
        number = len(saved.rounds)
        part = self.folder / f"{number}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*.part"):
                shutil.rmtree(left)
            part.mkdir()
            videos = self._write(part, number, saved)
            part.rename(self.folder / f"{number}")
        except Exception as error:  # orbax passes a full disk on in many ways
            shutil.rmtree(part, ignore_errors=True)
            raise StoreError(
                f"the search cannot be saved in {self.folder}: {_reason(error)}; what was saved "
                "before is still there"
            ) from error
        self._rounds, self._videos = number, videos
        for earlier in saves_in(self.folder)[:-1]:
            folder = self.folder / f"{earlier}"
            holds_videos = any(part["folder"] == earlier for part in videos)
            shutil.rmtree(folder / "arrays" / "states" if holds_videos else folder, True)

    def _write(self, folder: Path, number: int, saved: Saved) -> list[dict]:
        """Writes a save; returns where all videos are."""
        owners = [
            (r, index, name)
            for r in range(self._rounds, number)
            for index, node in enumerate(saved.rounds[r].nodes)
            for name in _ARRAYS
            if getattr(node, name) is not None
        ]
        new = [getattr(saved.rounds[r].nodes[index], name) for r, index, name in owners]
        leaves = [leaf for state in saved.states.values() for leaf in state]
        buffers = {"videos": _joined(new), "states": _joined(leaves)}
        videos = [*self._videos]
        if new:
            videos.append(
                {"folder": number, "owners": owners, **_described(new, buffers["videos"])}
            )
        states = {
            "owners": [
                (name.fidelity, paths.to_json(name.path), len(state))
                for name, state in saved.states.items()
            ],
            **_described(leaves, buffers["states"]),
        }
        rounds = [
            {"label": done.label, "nodes": [_fields(node) for node in done.nodes]}
            for done in saved.rounds
        ]
        record = {
            "about": self._about,
            "rounds": rounds,
            "videos": videos,
            "states": states,
            "ledger": {name: dataclasses.asdict(saved.ledger[name]) for name in saved.ledger},
        }
        if filled := {name: buffer for name, buffer in buffers.items() if buffer.size}:
            _save_orbax(folder / "arrays", filled)
        text = json.dumps(record).encode()
        (folder / "record.json").write_bytes(b"%08x\n" % zlib.crc32(text) + text)
        return videos

    def _read_record(self, file: Path) -> dict:
        try:
            checksum, _, text = file.read_bytes().partition(b"\n")
        except OSError as error:
            raise self._damaged(file, error.strerror) from error
        if checksum != b"%08x" % zlib.crc32(text):
            raise self._damaged(file, "its checksum is wrong")
        return json.loads(text)

    def _read_arrays(self, number: int, kind: str, description: Mapping) -> list[np.ndarray]:
        """The arrays of one buffer of one save."""
        file = self.folder / f"{number}" / "arrays" / kind
        shapes = [(tuple(shape), jnp.dtype(dtype)) for shape, dtype in description["arrays"]]
        ends = np.cumsum([0, *(dtype.itemsize * _size(shape) for shape, dtype in shapes)]).tolist()
        if not ends[-1]:
            return [np.zeros(shape, dtype) for shape, dtype in shapes]
        try:
            buffer = _load_orbax(file)
        except Exception as error:  # a damaged folder fails in many ways
            raise self._damaged(file, _reason(error)) from error
        if zlib.crc32(buffer) != description["checksum"]:
            raise self._damaged(file, "its checksum is wrong")
        return [
            buffer[start:end].view(dtype).reshape(shape)
            for (shape, dtype), start, end in zip(shapes, ends, ends[1:], strict=False)
        ]

    def _damaged(self, file: Path, why: str) -> StoreError:
        return StoreError(
            f"{file} of a saved search is damaged: {why}; remove {self.folder} to start this "
            "search anew"
        )


def saves_in(folder: Path) -> list[int]:
    """Numbers of rounds after which a search was saved in a folder, increasing."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One buffer of all bytes: orbax takes as long for an array as for several megabytes."""
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _described(arrays: Sequence[np.ndarray], buffer: np.ndarray) -> dict:
    return {
        "arrays": [(array.shape, array.dtype.name) for array in arrays],
        "checksum": zlib.crc32(buffer),
    }


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _fields(node: Node) -> dict:
    """A node but for its arrays; JSON keeps every bit of its numbers, NaN and infinity included."""
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    paths_of = {name: paths.to_json(fields[name]) for name in ("path", "parent")}
    return {name: value for name, value in fields.items() if name not in _ARRAYS} | paths_of


def _node(fields: Mapping) -> Node:
    paths_of = {name: paths.from_json(fields[name]) for name in ("path", "parent")}
    return Node(**{**fields, **paths_of})


def _differing(theirs: Mapping, ours: Mapping) -> list[str]:
    return [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]


def _save_orbax(path: Path, buffers: Mapping[str, np.ndarray]) -> None:
    if jax.process_count() > 1:  # orbax would have all processes save the same
        for name, buffer in buffers.items():
            (path / name).mkdir(parents=True)
            np.save(path / name / PLAIN, buffer)
        return
    from orbax.checkpoint import v1 as ocp  # half a second that other programs need not wait

    context = ocp.Context()
    context.array.saving.use_compression = False  # which would take twice the time
    with context:
        ocp.save_checkpointables(path, {name: {"bytes": b} for name, b in buffers.items()})


def _load_orbax(path: Path) -> np.ndarray:
    if (path / PLAIN).is_file():
        return np.load(path / PLAIN)
    from orbax.checkpoint import v1 as ocp

    return np.asarray(ocp.load_checkpointables(path.parent, {path.name: None})[path.name]["bytes"])


def _reason(error: Exception) -> str:
    text = str(error)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return "no space is left on the device"
    first = text.strip().partition("\n")[0]
    first = first or type(error).__name__
    return f"{first[:200]}..." if len(first) > 200 else first
