"""Two sets of videos of the same prompts, dimension by dimension.

P prompts  S videos of a prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tts_jax.evaluation.statistics import bootstrap_interval, paired_test, prompt_means
from tts_jax.evaluation.vbench.sampling import prompt_of


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


def compare(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    scores: Mapping[str, Mapping[str, float]],
) -> list[dict]:
    """What a search changes.

    Which videos of a prompt count can differ between the sets, by the static filter for example, so
    that the means of prompts are compared.

    Args:
      values: of the "base" and the "searched" videos, by dimension and file name.
      scores: of both, by dimension, pooled as VBench does.

    Returns:
      For each dimension of both: its name and the number of `prompts` that both have; the scores
      `base` and `searched` and their 95 % bootstrap intervals over prompts, `base_interval` and
      `searched_interval`; `difference`, the mean over prompts of searched less base, its
      `difference_interval`, and the `p_value` of a paired test.
    """
    rows = []
    for name in values["base"]:
        sets = [_by_prompt(values[role].get(name, {})) for role in ("base", "searched")]
        shared = [prompt for prompt in sets[0] if prompt in sets[1]]
        if not shared:
            continue
        base, searched = (_padded([own[prompt] for prompt in shared]) for own in sets)
        test = paired_test(prompt_means(base), prompt_means(searched))
        rows.append(
            {
                "dimension": name,
                "prompts": len(shared),
                "base": scores["base"][name],
                "base_interval": bootstrap_interval(base),
                "searched": scores["searched"][name],
                "searched_interval": bootstrap_interval(searched),
                "difference": test.difference,
                "difference_interval": test.interval,
                "p_value": test.p_value,
            }
        )
    return rows
