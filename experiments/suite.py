"""Videos of VBench's own prompts by its protocol: one sample, and what a search makes of its seed.

<folder>/config.json parts/*.parquet          costs, see `experiments.table`
        /base/<prompt>-<index>.mp4            one sample of the seed `config.seed + index`
        /searched/<prompt>-<index>.mp4        the winner of the search with that seed
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict
from rich.console import Console

from experiments import cli
from experiments.models import Models, open_search
from experiments.processes import Team
from experiments.sweep import ASIDE, spent
from experiments.table import PartTable
from tts_jax import media
from tts_jax.evaluation.statistics import bootstrap_interval, paired_test
from tts_jax.evaluation.vbench import sampling
from tts_jax.evaluation.vbench.published import PUBLISHED_ROWS
from tts_jax.parallel import is_shared
from tts_jax.report.progress import Bar
from tts_jax.search import Budget, Search, load_preset, paths, plan

ROLES = ("base", "searched")
FLICKERING = "temporal_flickering"
COSTS = ("nfe", "flops", "seconds")
VIDEO = "video"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt", "path")]
    + [(name, pa.int64()) for name in ("index", "seed")]
    + [
        (f"{role}_{cost}", pa.int64() if cost == "nfe" else pa.float64())
        for role in ROLES
        for cost in COSTS
    ]
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A prompt of the suite.

    Attributes:
      prompt: as the list of prompts has it.
      videos: how many are made of it.
    """

    prompt: str
    videos: int


def protocol(
    entries: Sequence[Mapping], dimensions: Collection[str], videos: int = 0
) -> list[Wanted]:
    """What the published protocol makes for some dimensions.

    Args:
      entries: VBench's list of prompts, each with "prompt_en" and "dimension".
      dimensions: whose prompts are wanted.
      videos: of each prompt; 0 for the protocol's 5, and 25 where flickering is measured.

    Raises:
      UsageError: no prompt is of these dimensions, or one cannot name a file.
    """
    counts: dict[str, int] = {}
    for entry in entries:
        own = set(entry["dimension"]) & set(dimensions)
        if not own:
            continue
        prompt, candidates = entry["prompt_en"], FLICKERING in own
        count = sampling.STATIC_CANDIDATES if candidates else sampling.VIDEOS_PER_PROMPT
        counts[prompt] = max(counts.get(prompt, 0), videos or count)
    if not counts:
        raise cli.UsageError("the list of prompts has none of the dimensions that are asked for")
    for prompt in counts:
        if "/" in prompt or not prompt.strip():
            raise cli.UsageError(f"the prompt {prompt!r} cannot be the name of a file")
    return [Wanted(prompt=prompt, videos=count) for prompt, count in counts.items()]


def make_videos(
    config: ConfigDict, wanted: Sequence[Wanted], folder: Path, team: Team, console: Console
) -> bool:
    """Makes every video that is not there and that no other process is making.

    A seed of the protocol is drawn once and recorded: video i has `config.seed + i`. Search chooses
    among the candidates of that seed, of which the base sample is the first.

    Args:
      config: of `experiments.generate`.
      wanted: prompts.
      folder: of these videos alone.
      team: the processes of this job.
      console: shows what is done.

    Returns:
      Whether all are there; others may still be making some.

    Raises:
      UsageError: the folder holds other videos, or a mesh over several processes.
    """
    prompts = [each.prompt for each in wanted]
    models, search = open_search(config, prompts)
    if is_shared(search.mesh):
        raise cli.UsageError(
            f"videos of a suite are divided over processes, but a mesh of {search.mesh.size} "
            "devices does not fit into one process"
        )
    maker = _Maker(config, models, search, folder)
    settings = {
        **json.loads(config.to_json()),
        "suite": [[each.prompt, each.videos] for each in wanted],
    }
    if not team.leads:
        team.agree("table")
    table = PartTable(folder, settings, SCHEMA, "suite")
    for role in ROLES:
        (folder / role).mkdir(exist_ok=True)
    if team.leads:
        team.agree("table", "is there")
    tasks = {
        f"{number:05d}-{index}": (number, each.prompt, index)
        for number, each in enumerate(wanted)
        for index in range(each.videos)
    }
    names = list(tasks)
    begin = int(team.index / team.count * len(names))
    wants = {task: [VIDEO] for task in names[begin:] + names[:begin]}
    before = len(table.done())
    if before:
        console.print(f"{before} of {len(tasks)} videos are done already")
    with Bar(console, max(len(tasks) - before, 1)) as bar:

        def make(task: str) -> None:
            table.write(task, VIDEO, [maker.make(*tasks[task])])
            bar.update(len(table.done()) - before, f"video {len(table.done())}/{len(tasks)}")

        table.work(wants, make)
    return {(task, VIDEO) for task in tasks} <= table.done()


def read_costs(folder: Path) -> dict[str, dict[str, float]]:
    """Total cost of all videos of a folder, by role: generator, decodes and what judges."""
    settings = json.loads((folder / "config.json").read_bytes())
    rows = PartTable(folder, settings, SCHEMA, "suite").rows()
    return {
        role: {cost: sum(row[f"{role}_{cost}"] for row in rows) for cost in COSTS} for role in ROLES
    }


class _Maker:
    """Makes the two videos of a prompt and an index."""

    def __init__(self, config: ConfigDict, models: Models, search: Search, folder: Path):
        self._config, self._models, self._search, self._folder = config, models, search, folder
        self._preset, self._budget = load_preset(config.search), Budget(**config.budget)
        self._single = load_preset(ConfigDict({"preset": "random_linear", "branches": 1}))
        plan(self._preset, search.outline, budget=Budget(nfe=self._budget.nfe))

    def make(self, number: int, prompt: str, index: int) -> dict:
        """The row of a video, which is there when this returns."""
        arguments = dict(seed=self._config.seed + index, prompt_index=number)
        stages, panel = self._models.stage_prompts(prompt), self._models.panel
        base = self._search.run(prompt, self._single, keep_frames=False, **arguments)
        searched = self._search.run(
            prompt,
            self._preset,
            stage_prompts=stages,
            budget=self._budget,
            keep_frames=False,
            **arguments,
        )
        row = {
            "prompt": prompt,
            "index": index,
            "seed": arguments["seed"],
            "path": json.dumps(paths.to_json(searched.best.path)),
        }
        for role, frames, cost in (
            (ROLES[0], base.candidates[0].frames, base.ledger.without([*ASIDE, *panel.names])),
            (ROLES[1], searched.best.frames, spent(searched, panel)),
        ):
            path = self._folder / role / sampling.video_name(prompt, index)
            media.write_mp4(path, frames, fps=self._config.video.fps, size=0)
            row |= {f"{role}_{name}": getattr(cost, name) for name in COSTS}
        return row


def compare(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Mapping[str, float]],
) -> dict:
    """What a search changes, dimension by dimension.

    Args:
      values: by role, dimension and file name, the value of each video.
      scores: by role and dimension, the score.
      costs: by role, see `read_costs`.

    Returns:
      `rows`, one per dimension that both have, with both scores and their 95 % bootstrap intervals
      over prompts, the difference with its interval and the p of a paired test; `costs`, and
      `times`, how many times the base's each is.
    """
    rows = []
    for name in scores[ROLES[0]]:
        if name not in scores[ROLES[1]]:
            continue
        arrays = _paired(*(values[role][name] for role in ROLES))
        test = paired_test(*arrays)
        row = {"dimension": name, "prompts": len(arrays[0])}
        for role, array in zip(ROLES, arrays, strict=True):
            row[role] = scores[role][name]
            row[f"{role}_interval"] = bootstrap_interval(array)
        rows.append(
            row
            | {
                "difference": scores[ROLES[1]][name] - scores[ROLES[0]][name],
                "interval": test.interval,
                "p_value": test.p_value,
            }
        )
    base, searched = (costs[role] for role in ROLES)
    times = {cost: searched[cost] / base[cost] if base[cost] else None for cost in COSTS}
    return {"rows": rows, "costs": dict(costs), "times": times}


def _paired(first: Mapping[str, float], second: Mapping[str, float]) -> list[np.ndarray]:
    """Values of the prompts that both have: [P, S] of the same files, else means, [P, 1]."""
    grouped = []
    for values in (first, second):
        found: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            found.setdefault(sampling.prompt_of(name), {})[name] = value
        grouped.append(found)
    prompts = [prompt for prompt in grouped[0] if prompt in grouped[1]]
    if all(grouped[0][p].keys() == grouped[1][p].keys() for p in prompts):
        count = max(len(grouped[0][p]) for p in prompts)
        arrays = []
        for found in grouped:
            array = np.full((len(prompts), count), np.nan)
            for row, prompt in zip(array, prompts, strict=True):
                row[: len(found[prompt])] = [found[prompt][n] for n in grouped[0][prompt]]
            arrays.append(array)
        return arrays
    return [np.array([[np.mean(list(found[p].values()))] for p in prompts]) for found in grouped]


def markdown(comparison: Mapping, no_final: str | None) -> str:
    """A comparison as text, with published scores beside it where the protocols agree.

    Args:
      comparison: of `compare`, with `final` by role.
      no_final: why there are no final scores, if there are none.
    """
    lines = [
        "One sample (base) and what the search chose of the same seeds (searched); 95 % bootstrap",
        "intervals over prompts.",
        "",
        "| dimension | prompts | base | searched | difference | p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in comparison["rows"]:
        cells = [row["dimension"], str(row["prompts"])]
        cells += [f"{row[role]:.4f} {_interval(row[f'{role}_interval'])}" for role in ROLES]
        cells += [f"{row['difference']:+.4f} {_interval(row['interval'])}", f"{row['p_value']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| cost of all videos | base | searched | times |", "| --- | --- | --- | --- |"]
    for name, times in comparison["times"].items():
        cells = [f"{comparison['costs'][role][name]:.4g}" for role in ROLES]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'' if times is None else f'{times:.2f}'} |"
        )
    lines.append("")
    if no_final is not None:
        lines.append(f"No Quality, Semantic and Total, and no published rows beside: {no_final}.")
        return "\n".join(lines) + "\n"
    lines += ["| | Quality | Semantic | Total | source |", "| --- | --- | --- | --- | --- |"]
    finals = [(role, comparison["final"][role], "these videos") for role in ROLES]
    finals += [(row.model, asdict(row), row.source) for row in PUBLISHED_ROWS]
    for name, final, source in finals:
        cells = [f"{100 * final[part]:.2f}" for part in ("quality", "semantic", "total")]
        lines.append(f"| {name} | {' | '.join(cells)} | {source} |")
    lines += ["", "Published rows are of clips of at most 5 seconds from the prompts as they are."]
    return "\n".join(lines) + "\n"


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]"
