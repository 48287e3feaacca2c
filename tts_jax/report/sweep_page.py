"""The page of a sweep: quality over compute, tables, and the prompts that gain and lose most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tts_jax.media import write_bytes
from tts_jax.report.page import embedded, render

_SHOWN = 4  # prompts at each end


def write_sweep_page(
    path: Path | str, rows: Sequence[Mapping], summary: Mapping, *, title: str
) -> None:
    """Writes the page.

    Args:
      path: HTML file to write.
      rows: of the table that `experiments.sweep` writes.
      summary: of them, see `tts_jax.evaluation.sweep.summarise`.
      title: of the sweep.

    Raises:
      MediaError: the file cannot be written.
    """
    data = {**summary, "title": title, "examples": examples(rows, summary)}
    write_bytes(path, render("sweep", f"{title}: quality over compute", data))


def examples(rows: Sequence[Mapping], summary: Mapping) -> list[dict]:
    """The prompts that gain most and least by the dearest search, with their videos.

    Args:
      rows: of the table.
      summary: of them.

    Returns:
      By falling gain `prompt`, `gain`, `metric`, and the `videos` of the single sample and of the
      dearest point of each search, with their values.
    """
    metric = "facts" if "facts" in summary["metrics"] else summary["metrics"][0]
    panel = summary["points"][0]["panel"]
    family = [point for point in summary["points"] if point["panel"] == panel]
    dearest = {point["search"]: point["budget"] for point in family}  # points rise in cost
    linear = next(point["search"] for point in family if point["preset"] == "random_linear")
    wanted = [(linear, "1"), *dearest.items()]
    by_prompt: dict[tuple, dict] = {}
    for row in rows:
        key = row["search"], row["budget"]
        if row["panel"] == panel and key in wanted and row["seed"] == summary["seeds"][0]:
            by_prompt.setdefault((row["prompt_index"], row["prompt"]), {})[key] = row
    found = []
    for (_, prompt), own in by_prompt.items():
        if len(own) < len(set(wanted)):
            continue
        single = own[linear, "1"][metric]
        last = [own[key][metric] for key in dearest.items()]
        if any(value is None for value in (single, *last)):
            continue
        videos = [
            {
                "search": search if budget != "1" or search != linear else "single sample",
                "budget": budget,
                "value": own[search, budget][metric],
                "sprite": embedded(
                    {
                        "bytes": own[search, budget]["sprite"],
                        **{
                            name: own[search, budget][f"sprite_{name}"]
                            for name in ("frames", "width", "height")
                        },
                    }
                ),
            }
            for search, budget in dict.fromkeys(wanted)
        ]
        gain = sum(last) / len(last) - single
        found.append({"prompt": prompt, "gain": gain, "metric": metric, "videos": videos})
    found.sort(key=lambda example: -example["gain"])
    return found if len(found) <= 2 * _SHOWN else found[:_SHOWN] + found[-_SHOWN:]
