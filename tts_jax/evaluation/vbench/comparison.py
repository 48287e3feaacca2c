"""Two sets of videos of the same prompts, dimension by dimension.

P prompts  S videos of a prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tts_jax.evaluation.statistics import bootstrap_interval, prompt_means
from tts_jax.evaluation.vbench.sampling import prompt_of

Results = Mapping[str, Sequence]  # as in VBench's file: name to [score, records]


def video_values(name: str, records: Sequence[Mapping]) -> dict[str, float]:
    """Every video's own score, from 0 to 1 where the dimension is.

    Args:
      name: of the dimension.
      records: of VBench's result file.

    Returns:
      By file name.
    """
    scale = 100.0 if name == "imaging_quality" else 1.0  # whose records stay on MUSIQ's scale
    return {Path(r["video_path"]).name: float(r["video_results"]) / scale for r in records}


def _by_prompt(values: Mapping[str, float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, value in sorted(values.items()):
        found.setdefault(prompt_of(name), []).append(value)
    return found


def _padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """[P, S] with NaN where a prompt has fewer videos than another."""
    out = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def compare(base: Results, searched: Results) -> list[dict]:
    """What a search changes.

    Which videos of a prompt count can differ between the sets, by the static filter for example,
    so that a prompt's means are compared. Intervals are bootstrap intervals over prompts.

    Args:
      base: results of the videos without a search.
      searched: of those with one.

    Returns:
      For each dimension of both: its name and the number of `prompts` that both have; the scores
      `base` and `searched`, which pool as VBench does; their `base_interval` and
      `searched_interval`; `difference`, the mean over prompts of searched less base, and its
      `difference_interval`.
    """
    rows = []
    for name in base:
        if name not in searched:
            continue
        sets = [_by_prompt(video_values(name, results[name][1])) for results in (base, searched)]
        shared = [prompt for prompt in sets[0] if prompt in sets[1]]
        if not shared:
            continue
        without, with_search = (_padded([own[prompt] for prompt in shared]) for own in sets)
        difference = prompt_means(with_search) - prompt_means(without)
        rows.append(
            {
                "dimension": name,
                "prompts": len(shared),
                "base": float(base[name][0]),
                "base_interval": bootstrap_interval(without),
                "searched": float(searched[name][0]),
                "searched_interval": bootstrap_interval(with_search),
                "difference": float(difference.mean()),
                "difference_interval": bootstrap_interval(difference),
            }
        )
    return rows
