"""Which frames and files VBench reads (https://github.com/Vchitect/VBench)."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

VIDEOS_PER_PROMPT = 5
STATIC_CANDIDATES = 25  # videos per prompt of which the static filter keeps five
SUFFIXES = (".mp4", ".gif")


def motion_stride(fps: float) -> int:
    """Every how many frames the dynamic degree looks at a video, which is about eight a second.

    A wrong frame rate in the file therefore changes the score.

    Args:
      fps: frames a second.

    Raises:
      ValueError: it is not positive, as in a file that does not say.
    """
    if not fps > 0:
        raise ValueError("the dynamic degree depends on the frame rate, and the video has none")
    return max(1, round(fps / 8))


def prompt_of(name: str | Path) -> str:
    """The prompt in a file's name: without its folder, its suffix, and the number at its end."""
    return re.sub(r"-\d+$", "", Path(name).stem)


def video_name(prompt: str, index: int) -> str:
    """The name under which a prompt's video is looked for."""
    return f"{prompt}-{index}.mp4"


def find_videos(folder: Path | str) -> list[Path]:
    """The videos of a folder, in the order of their names.

    Raises:
      ValueError: there is none.
    """
    folder = Path(folder)
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"there is no {' or '.join(SUFFIXES)} file in {folder}")
    return found


def videos_of(dimension: str) -> int:
    """How many videos of a prompt are made for a dimension."""
    return STATIC_CANDIDATES if dimension == "temporal_flickering" else VIDEOS_PER_PROMPT


def suite_names(prompts: Iterable[str], count: int) -> list[str]:
    """Names of the files of a suite; VBench scores those that are there.

    Args:
      prompts: the suite's.
      count: videos per prompt.
    """
    return [video_name(prompt, index) for prompt in prompts for index in range(count)]


def choose_static(
    paths: Iterable[Path | str], is_static: Callable[[Path], bool]
) -> dict[str, list[Path]]:
    """What the static filter keeps before temporal flickering.

    Args:
      paths: the files of all candidates, `STATIC_CANDIDATES` per prompt.
      is_static: whether a file shows a still scene; asked only until a prompt has enough.

    Returns:
      Every prompt with its first `VIDEOS_PER_PROMPT` static files in the order of their names as
      texts, so that "-10" comes before "-2"; fewer where there are no more.
    """
    kept: dict[str, list[Path]] = {}
    for path in sorted(map(Path, paths), key=str):
        chosen = kept.setdefault(prompt_of(path), [])
        if len(chosen) < VIDEOS_PER_PROMPT and is_static(path):
            chosen.append(path)
    return kept
