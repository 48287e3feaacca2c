"""VBench's prompts as videos: each by one sample and by a search, for the same seed.

<workdir>/base/<prompt>-<i>.mp4, searched/<prompt>-<i>.mp4    found by VBench's own program, too
         /parts/<prompt's place>-<i>.video.parquet            what was found and what it cost
         /searches/<prompt's place>-<i>                       a search that is not finished

Video i of a prompt is made with the seed 25 s + i, where s is `config.seed`, so that runs of other
seeds share no video. Any number of processes share the videos, see `experiments.table`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
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

KINDS = ("base", "searched")
COSTS = ("nfe", "flops", "seconds")
COMPONENTS = ("generator", "decode", "verifiers", "other")
_PIECE = "video"
_LONGEST_NAME = 255  # bytes, of a file's name
_GENERATOR = ("generator", "draft", "look_ahead")
_COLUMNS = [(name, pa.string()) for name in ("prompt", "base_path", "searched_path")]
_COLUMNS += [
    (name, pa.int64()) for name in ("prompt_index", "video", "seed", "frames", "height", "width")
]
_COLUMNS += [
    (f"{kind}_{component}_{cost}", pa.float64())
    for kind in KINDS
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


def task_of(row: Mapping) -> str:
    """The task that a row of the table is of."""
    return _task(row["prompt_index"], row["video"])


def clips(entries: Sequence[Mapping], dimensions: Sequence[str]) -> list[Clip]:
    """The videos that some dimensions read.

    Args:
      entries: VBench's list, each with "prompt_en" and "dimension".
      dimensions: names.

    Returns:
      By the place of their prompts, a prompt of two suites once.

    Raises:
      UsageError: a prompt that cannot be a file's name, or none that belongs to the dimensions.
    """
    counts: dict[str, int] = {}
    for entry in entries:
        prompt = entry["prompt_en"]
        own = [sampling.videos_of(name) for name in dimensions if name in entry["dimension"]]
        counts[prompt] = max([counts.get(prompt, 0), *own])
        name = sampling.video_name(prompt, sampling.STATIC_CANDIDATES - 1)
        if not prompt or "/" in prompt or "\0" in prompt or len(name.encode()) > _LONGEST_NAME:
            raise cli.UsageError(f"the prompt {prompt!r} cannot be the name of a video's file")
    found = [
        Clip(prompt, place, index)
        for place, (prompt, count) in enumerate(counts.items())
        for index in range(count)
    ]
    if not found:
        raise cli.UsageError(f"no prompt belongs to {', '.join(dimensions)}")
    return found


def open_table(
    config: ConfigDict, workdir: Path, entries: Sequence[Mapping], team: Team
) -> PartTable:
    """The table of a run, in which only the same config and prompts go on.

    Args:
      config: settings.
      workdir: of the run.
      entries: VBench's list.
      team: the processes of the run.

    Raises:
      UsageError: the folder holds something else, or the config's seed is too large.
    """
    if not 0 <= config.seed < 2**32 // sampling.STATIC_CANDIDATES:
        raise cli.UsageError(
            f"seed {config.seed} is not in 0..{2**32 // sampling.STATIC_CANDIDATES - 1}"
        )
    prompts = list(dict.fromkeys(entry["prompt_en"] for entry in entries))
    settings = {**json.loads(config.to_json()), "prompts": prompts}
    return PartTable.of_team(team, workdir, settings, SCHEMA, "suite of VBench")


def make(
    config: ConfigDict, wanted: Sequence[Clip], table: PartTable, team: Team, console: Console
) -> int:
    """Makes every video that no other process has or is making.

    Args:
      config: settings.
      wanted: the videos.
      table: of the run.
      team: its processes.
      console: shows what is done.

    Returns:
      How many videos other processes are making still.
    """
    by_task = {clip.task: clip for clip in wanted}
    waiting = [clip for clip in wanted if (clip.task, _PIECE) not in table.done()]
    if len(waiting) < len(wanted):
        console.print(f"{len(wanted) - len(waiting)} of {len(wanted)} videos are done already")
    if waiting:
        prompts = list(dict.fromkeys(clip.prompt for clip in waiting))
        models, search = open_search(config, prompts)
        processes.check_own(search.mesh, "the prompts of a suite are divided")
        maker = _Maker(config, models, search, table)
        with Bar(console, len(waiting)) as bar:

            def work(task: str) -> None:
                maker.make(by_task[task])
                left = len(by_task) - len(by_task.keys() & {name for name, _ in table.done()})
                bar.update(len(waiting) - left, f"video {len(by_task) - left}/{len(by_task)}")

            tasks = dict.fromkeys((clip.task for clip in waiting), (_PIECE,))
            table.share(tasks, work, first=team.index / team.count)
    team.wait("every video")
    left = len(by_task.keys() - {task for task, _ in table.done()})
    if not left and team.leads:
        shutil.rmtree(table.folder / "searches", ignore_errors=True)
    return left


class _Maker:
    """Makes videos of one run."""

    def __init__(self, config: ConfigDict, models: Models, search: Search, table: PartTable):
        self._config, self._models, self._search, self._table = config, models, search, table
        self._preset, self._budget = load_preset(config.search), Budget(**config.budget)
        check_search(self._preset, search.outline, self._budget)
        for kind in KINDS:
            (table.folder / kind).mkdir(exist_ok=True)

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
        for kind, video in found.items():
            path = self._table.folder / kind / clip.name
            media.write_mp4(path, video.frames, **self._config.video)
            row[f"{kind}_path"] = json.dumps(paths.to_json(video.path))
        held_out = self._models.panel.held_out
        row |= _columns("base", self._single_cost(apart or result))
        row |= _columns("searched", costs_of(result, self._models.panel.names, held_out))
        self._table.write(clip.task, _PIECE, [row])
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


def _columns(kind: str, costs: Mapping[str, Cost]) -> dict[str, float]:
    return {
        f"{kind}_{component}_{cost}": float(getattr(costs.get(component, Cost()), cost))
        for component in COMPONENTS
        for cost in COSTS
    }


def total_costs(rows: Sequence[Mapping]) -> dict[str, dict[str, dict[str, float]]]:
    """Costs of all videos: kind, then component and "total", then NFE, FLOPs and seconds."""
    found = {}
    for kind in KINDS:
        own = {
            part: {c: float(sum(row[f"{kind}_{part}_{c}"] for row in rows)) for c in COSTS}
            for part in COMPONENTS
        }
        total = {c: sum(cost[c] for cost in own.values()) for c in COSTS}
        found[kind] = {**own, "total": total}
    return found
