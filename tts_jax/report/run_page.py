"""The page of a search: its tree to walk through, its videos, its cost.

T frames  H W frame size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tts_jax.media import write_bytes
from tts_jax.report.page import embedded, render, sprite
from tts_jax.search import Outline, paths
from tts_jax.search.paths import Move
from tts_jax.search.paths import Path as BranchPath

# Bytes of pictures that a page of many branches may hold, before base64.
_ROOM = 3_000_000
_SIZES = ((192, 16), (128, 12), (96, 9), (64, 6), (64, 3), (48, 1))


def write_run_page(
    path: Path | str,
    tree: Mapping,
    frames: Sequence[np.ndarray | None],
    *,
    winner: np.ndarray,
    single: np.ndarray,
    outline: Outline,
    preset: str,
    generator: str,
    fps: float,
) -> None:
    """Writes the page. Equal arguments give equal bytes.

    Args:
      path: HTML file to write.
      tree: what `tree.json` holds.
      frames: of each of its nodes what was judged, [T, H, W, 3] in [0, 1], None if nothing was.
      winner, single: videos of the winner and of the single sample, [T, H, W, 3].
      outline: of the generator.
      preset, generator: their names.
      fps: frames a second.

    Raises:
      MediaError: the file cannot be written.
    """
    seen = [i for i, video in enumerate(frames) if video is not None]
    pictures = _fitting([frames[i] for i in seen])
    places = {i: place for place, i in enumerate(seen)}
    nodes = []
    for i, node in enumerate(tree["nodes"]):
        steps = paths.from_json(node["path"])
        draft = node.get("fidelity") == "draft"
        nodes.append(
            {
                **node,
                "depth": paths.depth(steps),
                "nfe": path_nfe(steps, outline, draft=draft),
                "sprite": places.get(i),
            }
        )
    data = {
        "tree": {name: value for name, value in tree.items() if name != "nodes"},
        "nodes": nodes,
        "sprites": [embedded(picture) for picture in pictures],
        "winner_sprite": embedded(sprite(winner, size=360, count=48)),
        "single_sprite": embedded(sprite(single, size=360, count=48)),
        "segments": outline.num_segments,
        "video_nfe": sum(outline.nfe),
        "preset": preset,
        "generator": generator,
        "seconds": max(len(winner) / fps, 0.5),
    }
    write_bytes(path, render("run", tree["prompt"], data))


def _fitting(videos: Sequence[np.ndarray]) -> list[dict]:
    """Sprites of all videos, as large as there is room for."""
    for size, count in _SIZES:
        pictures = []
        for video in videos:
            pictures.append(sprite(video, size=size, count=count))
            if sum(len(p["bytes"]) for p in pictures) > _ROOM:
                break
        else:
            return pictures
    return [sprite(video, size=size, count=count) for video in videos]


def path_nfe(path: BranchPath, outline: Outline, *, draft: bool = False) -> int:
    """Denoiser calls that make one branch alone.

    Args:
      path: its steps.
      outline: of the generator.
      draft: whether its version of fewer steps makes it.
    """
    nfe = outline.draft_nfe if draft and outline.draft_nfe else outline.nfe
    depth = calls = 0
    for step in path:
        if not isinstance(step, Move):
            calls += nfe[depth]
            depth += 1
        elif step.kind == "renoise":
            calls += outline.renoise_nfe(depth, step.to)
            depth = step.to
    return calls
