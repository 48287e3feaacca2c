"""Videos of VBench's own prompts by its protocol: one sample, and what a search makes of its seed.

<folder>/config.json parts/*.parquet    what was found and what it cost, see `experiments.table`
        /base/<prompt>-<index>.mp4      one sample
        /searched/<prompt>-<index>.mp4  the winner of the search from the same seed
        /searches/<task>                a search that is not finished

Video i of a prompt has the seed 25 s + i, where s is `config.seed`, so that runs of other seeds
share no video, and the prompt's index is its place in the whole list, whatever part is made.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from ml_collections import ConfigDict
from rich.console import Console

from experiments import cli, processes
from experiments.generate import check_search, single_sample, store_in
from experiments.models import Models, open_search
from experiments.processes import Team
from experiments.table import PartTable
from tts_jax import media
from tts_jax.evaluation.vbench import sampling
from tts_jax.report.progress import Bar
from tts_jax.search import Budget, Search, SearchResult, load_preset, paths
from tts_jax.search.ledger import Cost

ROLES = ("base", "searched")
COSTS = ("nfe", "flops", "seconds")
COMPONENTS = ("generator", "decode", "verifiers", "other")
VIDEO = "video"
_LONGEST_NAME = 255  # bytes, of a file's name
_GENERATOR = ("generator", "draft", "look_ahead")
_COLUMNS = [(name, pa.string()) for name in ("prompt", "base_path", "searched_path")]
_COLUMNS += [
    (name, pa.int64()) for name in ("prompt_index", "video", "seed", "frames", "height", "width")
]
_COLUMNS += [
    (f"{role}_{component}_{cost}", pa.float64())
    for role in ROLES
    for component in COMPONENTS
    for cost in COSTS
]
SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Clip:
    """One video to make.

    Attributes:
      prompt: its text.
      prompt_index: the prompt's place among all of the list.
      index: which of the prompt's videos.
    """

    prompt: str
    prompt_index: int
    index: int

    @property
    def task(self) -> str:
        """Its name in the table."""
        return _task(self.prompt_index, self.index)

    @property
    def name(self) -> str:
        """Its file's name."""
        return sampling.video_name(self.prompt, self.index)

    def seed(self, start: int) -> int:
        """Its seed in a run of the seed `start`."""
        return sampling.STATIC_CANDIDATES * start + self.index


def _task(prompt_index: int, index: int) -> str:
    return f"{prompt_index:05d}-{index:02d}"


def protocol(entries: Sequence[Mapping], dimensions: Sequence[str], videos: int = 0) -> list[Clip]:
    """What the published protocol makes for some dimensions.

    Args:
      entries: VBench's list of prompts, each with "prompt_en" and "dimension".
      dimensions: whose prompts are wanted.
      videos: of each prompt; 0 for the protocol's 5, and 25 where flickering is measured.

    Returns:
      By the place of their prompts, a prompt of two suites once.

    Raises:
      UsageError: no prompt is of these dimensions, or one cannot name a file.
    """
    counts: dict[str, int] = {}
    for entry in entries:
        prompt = entry["prompt_en"]
        own = [sampling.videos_of(name) for name in dimensions if name in entry["dimension"]]
        counts[prompt] = max([counts.get(prompt, 0), *own])
        name = sampling.video_name(prompt, sampling.STATIC_CANDIDATES - 1)
        if not prompt.strip() or {"/", "\0"} & set(prompt) or len(name.encode()) > _LONGEST_NAME:
            raise cli.UsageError(f"the prompt {prompt!r} cannot be the name of a file")
    found = [
        Clip(prompt, place, index)
        for place, (prompt, count) in enumerate(counts.items())
        for index in range(min(count, videos or count))
    ]
    if not found:
        raise cli.UsageError("the list of prompts has none of the dimensions that are asked for")
    return found


def open_table(
    config: ConfigDict, folder: Path, entries: Sequence[Mapping], team: Team
) -> PartTable:
    """The table of a run, in which only the same config and prompts go on.

    Args:
      config: of `experiments.generate`.
      folder: of these videos alone.
      entries: VBench's list of prompts.
      team: the processes of the run.

    Raises:
      UsageError: the folder holds something else, or the config's seed is too large.
    """
    most = 2**32 // sampling.STATIC_CANDIDATES
    if not 0 <= config.seed < most:
        raise cli.UsageError(f"seed {config.seed} is not in 0..{most - 1}")
    prompts = list(dict.fromkeys(entry["prompt_en"] for entry in entries))
    settings = {**json.loads(config.to_json()), "prompts": prompts}
    return PartTable.of_team(team, folder, settings, SCHEMA, "suite")


def make_videos(
    config: ConfigDict, wanted: Sequence[Clip], table: PartTable, team: Team, console: Console
) -> int:
    """Makes every video that is not there and that no other process is making.

    Args:
      config: of `experiments.generate`.
      wanted: the videos.
      table: of the run.
      team: its processes.
      console: shows what is done.

    Returns:
      How many videos are with other processes still.

    Raises:
      UsageError: models or a search that do not exist, or a mesh over several processes.
    """
    clips, done = {clip.task: clip for clip in wanted}, table.done()
    waiting = [task for task in clips if (task, VIDEO) not in done]
    if len(waiting) < len(clips):
        console.print(f"{len(clips) - len(waiting)} of {len(clips)} videos are done already")
    if waiting:
        prompts = list(dict.fromkeys(clips[task].prompt for task in waiting))
        models, search = open_search(config, prompts)
        processes.check_own(search.mesh, "videos of a suite are divided")
        maker = _Maker(config, models, search, table)
        begin = int(team.index / team.count * len(waiting))
        with Bar(console, len(waiting)) as bar:

            def make(task: str) -> None:
                maker.make(clips[task])
                left = _left(waiting, table)
                bar.update(len(waiting) - left, f"video {len(clips) - left}/{len(clips)}")

            table.work(dict.fromkeys(waiting[begin:] + waiting[:begin], (VIDEO,)), make)
    team.wait("every video")
    if not (left := _left(clips, table)) and team.leads:
        shutil.rmtree(table.folder / "searches", ignore_errors=True)
    return left


def _left(tasks: Collection[str], table: PartTable) -> int:
    return len(set(tasks) - {task for task, _ in table.done()})


def rows_of(table: PartTable, wanted: Sequence[Clip]) -> list[dict]:
    """The rows of some videos of a table."""
    tasks = {clip.task for clip in wanted}
    return [row for row in table.rows() if _task(row["prompt_index"], row["video"]) in tasks]


class _Maker:
    """Makes videos of one run."""

    def __init__(self, config: ConfigDict, models: Models, search: Search, table: PartTable):
        self._config, self._models, self._search, self._table = config, models, search, table
        self._preset, self._budget = load_preset(config.search), Budget(**config.budget)
        check_search(self._preset, search.outline, self._budget)
        for role in ROLES:
            (table.folder / role).mkdir(exist_ok=True)

    def make(self, clip: Clip) -> None:
        """Searches, and keeps the winner beside the single sample of the same seed."""
        options = {"seed": clip.seed(self._config.seed), "prompt_index": clip.prompt_index}
        stage_prompts = self._models.stage_prompts(clip.prompt)
        about = self._config, clip.prompt, clip.prompt_index, stage_prompts
        saved = self._table.folder / "searches" / clip.task
        result = self._search.run(
            clip.prompt,
            self._preset,
            stage_prompts=stage_prompts,
            budget=self._budget,
            keep_frames=False,
            store=store_in(saved, *about, seed=options["seed"]),
            **options,
        )
        single, apart = single_sample(self._search, clip.prompt, result, options)
        found = {"base": single, "searched": result.best}
        row = {
            "prompt": clip.prompt,
            "prompt_index": clip.prompt_index,
            "video": clip.index,
            "seed": options["seed"],
            **dict(zip(("frames", "height", "width"), single.frames.shape, strict=False)),
        }
        for role, video in found.items():
            path = self._table.folder / role / clip.name
            media.write_mp4(path, video.frames, fps=self._config.video.fps, size=0)
            row[f"{role}_path"] = json.dumps(paths.to_json(video.path))
        held_out = self._models.panel.held_out
        row |= _columns("base", self._single_cost(apart or result))
        row |= _columns("searched", costs_of(result, self._models.panel.names, held_out))
        self._table.write(clip.task, VIDEO, [row])
        shutil.rmtree(saved, ignore_errors=True)

    def _single_cost(self, result: SearchResult) -> dict[str, Cost]:
        """What one sample costs, as its share of a run that made it: no verifier is needed."""
        generator, decode = result.ledger["generator"], result.ledger["decode"]
        share = sum(self._search.outline.nfe) / generator.nfe
        return {
            "generator": _share(generator, share),
            "decode": _share(decode, 1 / max(decode.calls, 1)),
            "other": result.ledger["text"],
        }


def _share(cost: Cost, share: float) -> Cost:
    return Cost(nfe=cost.nfe * share, flops=cost.flops * share, seconds=cost.seconds * share)


def costs_of(
    result: SearchResult, verifiers: Sequence[str], held_out: Sequence[str]
) -> dict[str, Cost]:
    """What a search costs by `COMPONENTS`, without verifiers that only report, and without files.

    Args:
      result: of the search.
      verifiers: names of all.
      held_out: names of those that only report.
    """
    found = {name: Cost() for name in COMPONENTS}
    for name in result.ledger:
        if name in ("io", *held_out):
            continue
        part = "verifiers" if name in verifiers else "generator" if name in _GENERATOR else name
        found[part if part in found else "other"] += result.ledger[name]
    return found


def _columns(role: str, costs: Mapping[str, Cost]) -> dict[str, float]:
    return {
        f"{role}_{component}_{cost}": float(getattr(costs.get(component, Cost()), cost))
        for component in COMPONENTS
        for cost in COSTS
    }


def total_costs(rows: Sequence[Mapping]) -> dict[str, dict[str, dict[str, float]]]:
    """Costs of all videos: role, then component and "total", then NFE, FLOPs and seconds."""
    found = {}
    for role in ROLES:
        own = {
            part: {c: float(sum(row[f"{role}_{part}_{c}"] for row in rows)) for c in COSTS}
            for part in COMPONENTS
        }
        total = {c: sum(cost[c] for cost in own.values()) for c in COSTS}
        found[role] = {**own, "total": total}
    return found
