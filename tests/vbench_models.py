"""Weights and inputs of the networks of the VBench goldens, drawn again by their recipe."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def draw(key: str, shape, mult: float = 1.0, add: float = 0.0) -> np.ndarray:
    """The recipe: a key's own normal numbers, scaled and moved in float64, then float32."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    return np.asarray(add + mult * random.standard_normal(shape), np.float32)


@dataclass(frozen=True)
class Models:
    """A golden folder's networks.

    Attributes:
      manifest: the parsed `models_manifest.json`.
      outputs: the arrays of `models.npz`.
      clips: those of `clips.npz`, uint8.
    """

    manifest: dict
    outputs: dict[str, np.ndarray]
    clips: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> "Models":
        manifest = json.loads((folder / "models_manifest.json").read_text())
        with np.load(folder / "models.npz") as outputs, np.load(folder / "clips.npz") as clips:
            return cls(manifest, dict(outputs), dict(clips))

    def config(self, model: str) -> dict:
        """The sizes of a network."""
        return self.manifest[model]["config"]

    def tensors(self, model: str) -> dict[str, np.ndarray]:
        """A network's tensors by published name; a name that repeats another has its values."""
        rules = self.manifest[model]["params"]
        prefix = f"{model}{self.manifest['seed']}/"
        result = {
            name: draw(prefix + name, rule["shape"], rule["mult"], rule["add"])
            for name, rule in rules.items()
            if "same_as" not in rule
        }
        same = {name: rule["same_as"] for name, rule in rules.items() if "same_as" in rule}
        return {**result, **{name: result[other] for name, other in same.items()}}

    def input(self, model: str, name: str, shape) -> np.ndarray:
        """A network's input by its name in the manifest."""
        return draw(self.manifest[model]["inputs"][name], shape)

    def frames(self, model: str) -> tuple[np.ndarray, ...]:
        """The frames that a flow network reads, [1, H, W, 3] each: levels as float32."""
        about = self.manifest[model]["inputs"]
        (height, width), times = about["crop"], about["pixel_repeat"]
        frames = self.clips[about["clip"]][about["frames"]].astype(np.float32)
        frames = frames.repeat(times, axis=1).repeat(times, axis=2)[:, :height, :width]
        return tuple(frames[:, None])

    def tolerance(self, model: str) -> float:
        """Ten times the reference's own rounding error, and not less than 1e-5."""
        return max(1e-5, 10 * self.manifest[model].get("f32_f64_gap", 0.0))
