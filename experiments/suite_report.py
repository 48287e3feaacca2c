"""What a search changes of VBench's scores, beside what it costs and what others published."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ml_collections import ConfigDict

from experiments.suite import COSTS, ROLES, total_costs
from tts_jax.evaluation.vbench.comparison import compare
from tts_jax.evaluation.vbench.published import Beside, beside
from tts_jax.evaluation.vbench.verifier import PREFIX, WARNING

_FINAL = ("total", "quality", "semantic")
_HEAD = ("dimension", "prompts", "base", "searched", "searched less base", "p")
NOTE = (
    "A base video is the single sample of its seed; a searched one is the winner of the search "
    "from the same seed. Intervals are 95 % bootstrap intervals over prompts; differences are "
    "paired, and means over prompts."
)


class Evaluated(Protocol):
    """What `experiments.scoring.evaluate` finds on a set of videos."""

    table: Mapping
    values: Mapping[str, Mapping[str, float]]


def report(
    config: ConfigDict,
    entries: Sequence[Mapping],
    rows: Sequence[Mapping],
    found: Mapping[str, Evaluated],
) -> dict:
    """Everything that there is to say, as plain values.

    Args:
      config: settings of the run.
      entries: the list of prompts.
      rows: one per video, see `experiments.suite`.
      found: of the base and the searched videos.
    """
    first = rows[0]
    tables = {role: own.table for role, own in found.items()}
    scores = {
        role: {row["dimension"]: row["score"] for row in own.table["rows"]}
        for role, own in found.items()
    }
    seconds = first["frames"] / config.video.fps
    return {
        "generator": dict(config.generator),
        "search": dict(config.search),
        "yardsticks": [
            entry["name"]
            for entry in config.verifiers
            if entry["name"].startswith(PREFIX) and not entry.get("held_out")
        ],
        "seed": config.seed,
        "videos": len(rows),
        "prompts": len({row["prompt_index"] for row in rows}),
        "size": [first["frames"], first["height"], first["width"]],
        "seconds": seconds,
        "rows": compare({role: own.values for role, own in found.items()}, scores),
        "final": {role: table["final"] for role, table in tables.items()},
        "no_final": {role: table["no_final"] for role, table in tables.items()},
        "costs": total_costs(rows),
        "published": _published(beside(entries, tables, seconds), tables),
    }


def _published(found: Beside, tables: Mapping[str, Mapping]) -> dict:
    lines = []
    for role, table in tables.items() if found.rows else ():
        own = {row["dimension"]: 100 * row["score"] for row in table["rows"]}
        scores = {name: own[name] for name in found.dimensions}
        if found.final:
            scores |= {name: 100 * table["final"][name] for name in _FINAL}
        lines.append({"model": f"this run, {role}", "scores": scores, "source": ""})
    for row in found.rows:
        scores = {name: row.dimensions.get(name) for name in found.dimensions}
        if found.final:
            scores |= {name: getattr(row, name) for name in _FINAL}
        if any(value is not None for value in scores.values()):
            lines.append({"model": row.model, "scores": scores, "source": row.source})
    return {"rows": lines, "why_not": list(found.why_not)}


def _ranged(value: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def _comparison(found: Mapping) -> list[tuple[str, ...]]:
    lines = [
        (
            row["dimension"],
            str(row["prompts"]),
            *(_ranged(row[role], row[f"{role}_interval"]) for role in ROLES),
            _ranged(row["difference"], row["difference_interval"], "+"),
            f"{row['p_value']:.3f}",
        )
        for row in found["rows"]
    ]
    if all(found["final"].values()):
        for name in ("quality", "semantic", "total"):
            base, searched = (found["final"][role][name] for role in ROLES)
            cells = f"{base:.4f}", f"{searched:.4f}", f"{searched - base:+.4f}", ""
            lines.append((name.capitalize(), "", *cells))
    return lines


def _costs(found: Mapping) -> list[tuple[str, ...]]:
    lines = []
    for part in found["costs"]["base"]:
        for role in ROLES:
            cost = found["costs"][role][part]
            if any(cost[name] for name in COSTS):
                figures = f"{cost['nfe']:.0f}", f"{cost['flops'] / 1e12:.4g}"
                lines.append((role, part, *figures, f"{cost['seconds']:.1f}"))
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def markdown(found: Mapping) -> str:
    """A report as text."""
    frames, height, width = found["size"]
    size = f"{frames} frames of {height} x {width}"
    lines = [
        f"# VBench: {found['generator']['name']}, {found['search']['preset']}",
        "",
        f"{found['videos']} videos of {found['prompts']} prompts, {size}, {found['seconds']:.1f} s "
        f"each, config.seed {found['seed']}. {NOTE}",
        "",
        *_table(_HEAD, _comparison(found)),
    ]
    if found["yardsticks"]:
        lines += ["", f"{WARNING.format(', '.join(found['yardsticks']))}."]
    for role in ROLES:
        if found["no_final"][role]:
            lines += ["", f"No final scores of the {role} videos: {found['no_final'][role]}."]
    head = ("videos", "part", "NFE", "TFLOP", "seconds")
    lines += ["", "## Cost of all videos", "", *_table(head, _costs(found))]
    lines += ["", "## Published rows, per cent", ""]
    rows = found["published"]["rows"]
    if rows:
        names = list(rows[0]["scores"])
        lines += _table(
            ("model", *names, "source"),
            [
                (
                    row["model"],
                    *("" if (v := row["scores"][n]) is None else f"{v:.2f}" for n in names),
                    row["source"],
                )
                for row in rows
            ],
        )
        lines += ["", "Left out, since protocols differ:"]
    else:
        lines.append("None may stand beside these scores:")
    lines += ["", *(f"- {why}" for why in found["published"]["why_not"])]
    return "\n".join(lines) + "\n"
