"""Runs and sweeps for TensorBoard: scalars and videos, by `tensorboardX` (extra `tensorboard`).

A line of TensorBoard's charts is a folder of its own. Over the steps of a run are its prompts; over
those of a sweep the denoiser calls per prompt, so that its charts show quality over compute.
T frames  H W frame size.
"""

import base64
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tts_jax.media import MediaError, write_gif
from tts_jax.report.sweep_page import examples

FOLDER = "tensorboard"


class Entry(NamedTuple):
    """What a chart shows at a step: a number, or the bytes of a GIF."""

    tag: str
    step: int
    value: float | bytes


def write_run(folder: Path | str) -> Path:
    """Writes what a run directory holds; what was there before is replaced.

    Args:
      folder: of `experiments.generate`.

    Returns:
      The folder for TensorBoard, `folder/tensorboard`.

    Raises:
      MediaError: it cannot be written.
    """
    folder, lines = Path(folder), {"winner": [], "single sample": [], "search": []}
    for place in sorted((folder / "prompts").iterdir(), key=lambda place: int(place.name)):
        tree, ledger = (json.loads((place / f"{n}.json").read_bytes()) for n in ("tree", "ledger"))
        step = int(place.name)
        for name, role in (("winner", "winner"), ("single sample", "single")):
            own = {"panel": tree[role]["panel"]}
            own |= {f"score/{verifier}": score for verifier, score in tree[role]["scores"].items()}
            own |= {f"oracle/{fact}": float(x) for fact, x in tree[role].get("oracle", {}).items()}
            lines[name] += [Entry(tag, step, x) for tag, x in own.items() if x is not None]
        total = ledger["search"]["total"]
        cost = {name: total[name] for name in ("nfe", "flops", "seconds")}
        lines["search"] += [Entry(f"cost/{name}", step, float(x)) for name, x in cost.items()]
        video = (place / "best.gif").read_bytes()
        lines["winner"].append(Entry(f"video/{tree['prompt']}", step, video))
    return _write(folder / FOLDER, lines)


def write_sweep(folder: Path | str, rows: Sequence[Mapping], summary: Mapping) -> Path:
    """Writes the curves of a sweep, and the videos of the prompts that gain most and least.

    Args:
      folder: of `experiments.sweep`.
      rows: of its table.
      summary: of them, see `tts_jax.evaluation.sweep.summarise`.

    Returns:
      The folder for TensorBoard, `folder/tensorboard`.

    Raises:
      MediaError: it cannot be written.
    """
    lines: dict[str, list[Entry]] = {}
    for point in summary["points"]:
        step, name = round(point["nfe"]), f"{point['panel']}/{point['search']}"
        for metric, found in point["quality"].items():
            low, high = found["interval"]
            of = {"": found["mean"], " (2.5 %)": low, " (97.5 %)": high}
            if point["preset"] == "random_linear":
                for control, key in (("random choice", "chance"), ("best there was", "best")):
                    entry = Entry(f"quality/{metric}", step, found[key])
                    lines.setdefault(f"{point['panel']}/{control}", []).append(entry)
            lines.setdefault(name, []).extend(
                Entry(f"quality/{metric}{end}", step, value) for end, value in of.items()
            )
    panel = summary["points"][0]["panel"]
    for example in examples(rows, summary):
        for video in example["videos"]:
            tag = f"gain {example['gain']:+.3f} {example['metric']}/{example['prompt']}"
            entry = Entry(tag, 0, _gif(video["sprite"]))
            lines.setdefault(f"{panel}/{video['search']} {video['budget']}", []).append(entry)
    return _write(Path(folder) / FOLDER, lines)


def _write(folder: Path, lines: Mapping[str, Sequence[Entry]]) -> Path:
    """Writes every line to a folder of its own; all of them appear at once."""
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.writer import FileWriter

    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        for name, entries in lines.items():
            writer = FileWriter(str(made / name))
            for tag, step, value in entries:
                if isinstance(value, bytes):
                    width, height = Image.open(io.BytesIO(value)).size
                    image = Summary.Image(
                        height=height, width=width, colorspace=3, encoded_image_string=value
                    )
                    shown = Summary.Value(tag=tag, image=image)
                elif value is not None:
                    shown = Summary.Value(tag=tag, simple_value=value)
                else:
                    continue
                writer.add_summary(Summary(value=[shown]), step)
            writer.close()
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except OSError as error:
        raise MediaError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _gif(sprite: Mapping) -> bytes:
    """A page's sprite as a moving picture."""
    strip = Image.open(io.BytesIO(base64.b64decode(sprite["src"].partition(",")[2])))
    pixels = np.asarray(strip.convert("RGB"), np.float32) / 255
    frames = np.stack(np.split(pixels, sprite["frames"], axis=1))
    buffer = io.BytesIO()
    write_gif(buffer, frames)
    return buffer.getvalue()
