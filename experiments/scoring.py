"""Scores of files in VBench's dimensions: which files each reads, and what is found on them.

Files are read once and judged in groups: the frames of several go through a network together, and
what two dimensions want to know of a file is computed once. Processes with one journal share them.
"""

import contextlib
import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments import cli
from experiments.journal import Journal
from tts_jax import media
from tts_jax.evaluation.vbench import rules, sampling
from tts_jax.evaluation.vbench.detectors import DetectorFault, Named
from tts_jax.evaluation.vbench.dimensions import (
    DIMENSIONS,
    RECORDED,
    STAND_INS,
    Dimension,
    Networks,
    Video,
    ask,
    ask_all,
    is_static,
)
from tts_jax.evaluation.vbench.scores import final_scores
from tts_jax.report.progress import Bar

MEASURES = {**DIMENSIONS, **STAND_INS}
FLICKERING = "temporal_flickering"
UNIT_FILES = 8  # that one process takes at a time
GROUP_BYTES = 1 << 24  # of frames that are judged together; networks' inputs take some tens of that


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is known of prompts.

    Attributes:
      entries: VBench's list, each with "prompt_en", "dimension" and perhaps "auxiliary_info".
      suite: whether dimensions read the files of their own prompts only.
      one: the prompt of every file, or None.
      by_file: prompts by file name.
    """

    entries: Sequence[Mapping] = ()
    suite: bool = False
    one: str | None = None
    by_file: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """A file's prompt."""
        return self.by_file.get(path.name) or self.one or sampling.prompt_of(path)

    def info(self, prompt: str) -> dict:
        """What the dimensions look for in the videos of a prompt."""
        return self._info.get(prompt, {})

    @functools.cached_property
    def _info(self) -> dict[str, dict]:
        known = {}
        for entry in self.entries:  # a prompt may be in two suites
            known.setdefault(entry["prompt_en"], {}).update(entry.get("auxiliary_info") or {})
        return known

    def of_dimension(self, name: str) -> list[str]:
        """The prompts of a dimension's suite."""
        return [e["prompt_en"] for e in self.entries if name in e["dimension"]]


def findable(recorded: Mapping, detectors: Mapping) -> dict[str, Mapping]:
    """What is recorded, and nothing yet of what can be detected besides."""
    return {kind: {} for kind in detectors} | dict(recorded)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is found on files.

    Attributes:
      table: rows, what is not computed, and the final scores or why there are none.
      results: {dimension: [score, records]}, VBench's own form, without stand-ins.
      values: by dimension and file name, the value of each video that has one.
      recorded: by kind and file name, what was recorded before and what detectors said now.
    """

    table: dict
    results: dict
    values: dict[str, dict[str, float]]
    recorded: dict[str, dict[str, list]]


@dataclass
class _Task:
    """A dimension and the files it reads.

    Attributes:
      dimension, label, files: what reads them, its name in the results, and they.
      remarks: what is to be said of the score.
      whole: whether the files are all of the dimension's suite.
      stop: the first known place among all files where the dimension fails; none after it counts.
      judged: the files up to there; then what was found on them.
    """

    dimension: Dimension
    label: str
    files: list[Path]
    remarks: list[str] = field(default_factory=list)
    whole: bool = True
    stop: float = math.inf
    judged: list[Path] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)
    verdicts: dict[str, rules.Verdict] = field(default_factory=dict)
    fault: str | None = None

    def add(self, path: Path, entry: Mapping) -> None:
        """Takes what was found on the next file."""
        self.judged.append(path)
        if "fault" in entry:
            self.fault = entry["fault"]
            return
        verdict = self.verdicts[path.name] = rules.Verdict(**entry)
        if verdict.record is not None:
            self.records.append({"video_path": str(path), **verdict.record})


Readers = Mapping[Path, Sequence[_Task]]  # what reads each file


def evaluate(
    files: Sequence[Path],
    prompts: Prompts,
    names: Sequence[str],
    networks: Networks,
    recorded: Mapping[str, Mapping[str, Sequence]],
    *,
    detectors: Mapping[str, Named] | None = None,
    several_processes: bool = False,
    console: Console | None = None,
    journal: Journal | None = None,
) -> Evaluation:
    """Scores files with dimensions.

    Args:
      files: videos.
      prompts: of the files.
      names: dimensions; what they lack is said in the table.
      networks: by their names in `dimensions.NETWORKS`.
      recorded: by kind and file name, see `tts_jax.evaluation.vbench.recorded`.
      detectors: by kind, those that are asked for what is not recorded.
      several_processes: see `rules.combine`.
      console: gets a progress bar.
      journal: has what an earlier run found, and gets what this one does.

    Raises:
      UsageError: a file cannot be read.
      RunFault: a detector fails.
    """
    journal = journal or Journal()
    seen = _Seen(findable(recorded, detectors or {}), detectors or {}, journal)
    tasks, absent = [], {name: "not asked for" for name in DIMENSIONS if name not in names}
    for name in names:
        lack = MEASURES[name].lacks(networks, seen.recorded)
        task = None if lack else _plan(name, files, prompts, networks, seen, journal)
        if task is not None and task.files:
            tasks.append(task)
        else:
            absent[name] = lack or ("; ".join(task.remarks) or "no file to score")
    readers = {path: [] for path in files}
    for task in tasks:
        for path in task.files:
            readers[path].append(task)
    places = {path: place for place, path in enumerate(files)}
    with Bar(console or Console(quiet=True), len(files)) as bar:
        over = set()

        def done(unit: Readers) -> bool:
            return not any(_open_tasks(path, own, places, journal) for path, own in unit.items())

        def make(unit: Readers) -> None:
            for group in _groups(unit, places, prompts, seen, journal):
                _judge(group, unit, places, networks, journal)
                journal.keep()
                over.update(group)
                bar.update(len(over), list(group)[-1].name)

        journal.work(_units(readers), done, make)
        bar.update(len(files), "all files")
    for path, own in readers.items():
        for task in own:
            if task.fault is None:
                task.add(path, journal.of(path, task.dimension.name))
    rows, results, values = [], {}, {}
    for task in tasks:
        try:
            if task.fault is not None:
                raise ValueError(task.fault)
            score = rules.combine(list(task.verdicts.values()), several_processes=several_processes)
        except ValueError as error:
            absent[task.dimension.name] = str(error)
            continue
        if left_out := len(task.verdicts) - len(task.records):
            task.remarks.append(f"{left_out} of {len(task.verdicts)} files show nothing to judge")
        if task.dimension.name in DIMENSIONS:
            results[task.label] = [score, task.records]
        values[task.label] = {n: v.total / v.count for n, v in task.verdicts.items() if v.count}
        remark = "; ".join(task.remarks)
        row = {"dimension": task.label, "score": score, "videos": len(task.records)}
        rows.append({**row, "whole": prompts.suite and task.whole, "remark": remark})
    table = {
        "input": "suite" if prompts.suite else "custom input",
        "averaging": "several_processes" if several_processes else "one_process",
        "rows": rows,
        "not_computed": {name: absent[name] for name in DIMENSIONS if name in absent},
    }
    table |= _final(table, tasks)
    return Evaluation(table=table, results=results, values=values, recorded=seen.all_of(tasks))


@dataclass(frozen=True)
class _Seen:
    """What is recorded of files, and who is asked for the rest."""

    recorded: Mapping[str, Mapping[str, Sequence]]
    detectors: Mapping[str, Named]
    journal: Journal

    def has(self, kind: str, path: Path) -> bool:
        """Whether something is recorded, or can be."""
        return kind in self.detectors or path.name in self.recorded[kind]

    def of(self, path: Path, kinds: Collection[str], frames: np.ndarray) -> dict[str, Sequence]:
        """What is recorded of some kinds; detectors are asked for what is not."""
        return {kind: self._of(path, kind, frames) for kind in kinds}

    def _of(self, path: Path, kind: str, frames: np.ndarray) -> Sequence:
        if path.name in self.recorded[kind]:
            return self.recorded[kind][path.name]

        def detect() -> list:
            try:
                return self.detectors[kind].detect(kind, path.name, frames)
            except DetectorFault as error:
                raise cli.RunFault(str(error)) from error

        found = self.journal.find(path, kind, detect)
        self.journal.keep()
        return found

    def all_of(self, tasks: Sequence["_Task"]) -> dict[str, dict[str, list]]:
        """What is recorded, and what was detected of the files of tasks."""
        found = {kind: dict(self.recorded[kind]) for kind in RECORDED if kind in self.recorded}
        for task in tasks:
            kind = task.dimension.recorded
            for path in task.judged if kind is not None else ():
                if path.name not in found[kind]:
                    found[kind][path.name] = self.journal.of(path, kind)
        return {kind: dict(sorted(videos.items())) for kind, videos in found.items()}


def _plan(
    name: str,
    files: Sequence[Path],
    prompts: Prompts,
    networks: Networks,
    seen: _Seen,
    journal: Journal,
) -> _Task:
    """Which files a dimension reads, and what is to be said of that."""
    dimension = MEASURES[name]
    task = _Task(dimension, name, list(files))
    if name in STAND_INS:
        task.remarks.append("a stand-in, no dimension of VBench")
        task.whole = False
    elif prompts.suite:
        wanted = prompts.of_dimension(name)
        filtered = name == FLICKERING and "raft" in networks
        count = sampling.STATIC_CANDIDATES if filtered else sampling.VIDEOS_PER_PROMPT
        expected = set(sampling.suite_names(wanted, count))
        task.files = [path for path in files if path.name in expected]
        if missing := len(expected) - len(task.files):
            task.remarks.append(f"{missing} of {len(expected)} files are missing")
            task.whole = False
        if filtered:
            _keep_static(task, wanted, prompts, networks, journal)
    if name == FLICKERING and not (prompts.suite and "raft" in networks):
        task.label, task.whole = f"{FLICKERING} (unfiltered)", False
    for what, has in (
        ("a prompt that says what to look for", _has_info(dimension, prompts)),
        (f"recorded {dimension.recorded}", _has_recorded(dimension, seen)),
    ):
        kept = [path for path in task.files if has(path)]
        if lacking := len(task.files) - len(kept):
            task.remarks.append(f"{lacking} of {len(task.files)} files lack {what}")
            task.whole = False
        task.files = kept
    return task


def _has_info(dimension: Dimension, prompts: Prompts):
    return lambda path: not dimension.needs_info or dimension.name in prompts.info(prompts.of(path))


def _has_recorded(dimension: Dimension, seen: _Seen):
    return lambda path: dimension.recorded is None or seen.has(dimension.recorded, path)


def _keep_static(
    task: _Task, wanted: Sequence[str], prompts: Prompts, networks: Networks, journal: Journal
) -> None:
    """Leaves the static files of the candidates to temporal flickering."""

    def look(path: Path) -> dict:
        video = _read(path, prompts)
        networks["raft"].forget()
        try:
            return {"still": ask(is_static(video), video, networks)}
        except ValueError as error:
            return {"fault": str(error)}

    def keep(path: Path) -> bool:
        found = journal.find(path, "static", functools.partial(look, path))
        journal.keep()
        if "fault" in found:
            raise ValueError(found["fault"])
        return found["still"]

    def keep_known(path: Path) -> bool:
        if not journal.known(path, "static"):
            raise LookupError
        return keep(path)

    def done(candidates: Sequence[Path]) -> bool:
        with contextlib.suppress(ValueError):
            try:
                sampling.choose_static(candidates, keep_known)
            except LookupError:
                return False
        return True

    def make(candidates: Sequence[Path]) -> None:
        with contextlib.suppress(ValueError):
            sampling.choose_static(candidates, keep)

    by_prompt = {}
    for path in task.files:
        by_prompt.setdefault(sampling.prompt_of(path), []).append(path)
    units = {f"static-{i:05d}": paths for i, paths in enumerate(by_prompt.values())}
    journal.work(units, done, make)
    try:
        kept = sampling.choose_static(task.files, keep)
    except ValueError as error:
        task.remarks.append(f"the static filter failed: {error}")
        task.files, task.whole = [], False
        return
    task.files = [path for chosen in kept.values() for path in chosen]
    short = sum(len(kept.get(p, ())) < sampling.VIDEOS_PER_PROMPT for p in wanted)
    if short:
        task.remarks.append(f"{short} prompts have too few static files")
        task.whole = False


def _read(
    path: Path, prompts: Prompts, seen: _Seen | None = None, kinds: Collection[str] = ()
) -> Video:
    """A file, with what is recorded of some kinds."""
    try:
        frames, fps = media.read_video(path)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    prompt = prompts.of(path)
    found = seen.of(path, kinds, frames) if seen is not None else {}
    return Video(path.name, frames, fps, prompt, prompts.info(prompt), found)


def _units(readers: Readers) -> dict[str, Readers]:
    """Files that one process judges, whatever the number of processes, so that bytes are alike."""
    pairs = list(readers.items())
    starts = range(0, len(pairs), UNIT_FILES)
    return {f"{n // UNIT_FILES:05d}": dict(pairs[n : n + UNIT_FILES]) for n in starts}


def _open_tasks(
    path: Path, tasks: Sequence[_Task], places: Mapping[Path, int], journal: Journal
) -> list[_Task]:
    """The tasks for which a file is still to be judged: not those that failed before it."""
    for task in tasks:
        if journal.known(path, task.dimension.name):
            if "fault" in journal.of(path, task.dimension.name):
                task.stop = min(task.stop, places[path])
    return [
        task
        for task in tasks
        if places[path] < task.stop and not journal.known(path, task.dimension.name)
    ]


def _groups(
    readers: Readers,
    places: Mapping[Path, int],
    prompts: Prompts,
    seen: _Seen,
    journal: Journal,
) -> Iterator[dict[Path, Video | None]]:
    """Files that are judged together, each read once, and not at all where nothing is to judge."""
    group, size = {}, 0
    for path, tasks in readers.items():
        wanted = [task.dimension for task in _open_tasks(path, tasks, places, journal)]
        kinds = {dimension.recorded for dimension in wanted} - {None}
        group[path] = _read(path, prompts, seen, sorted(kinds)) if wanted else None
        size += group[path].frames.nbytes if wanted else 0
        if size >= GROUP_BYTES:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _judge(
    group: Mapping[Path, Video | None],
    readers: Readers,
    places: Mapping[Path, int],
    networks: Networks,
    journal: Journal,
) -> None:
    """Judges the files of a group in all dimensions that read them, whatever was judged before."""
    for network in networks.values():
        network.forget()
    new = [
        (path, task.dimension)
        for path in group
        for task in _open_tasks(path, readers[path], places, journal)
    ]
    askings = [(dimension.asking(group[path], networks), group[path]) for path, dimension in new]
    answers = zip(new, ask_all(askings, networks), strict=True)
    for (path, dimension), answer in answers:
        journal.find(path, dimension.name, functools.partial(_entry, answer))


def _entry(found: rules.Verdict | ValueError) -> dict:
    return {"fault": str(found)} if isinstance(found, ValueError) else asdict(found)


def _final(table: Mapping, tasks: Sequence[_Task]) -> dict:
    """The final scores, or in words why there are none."""
    if table["input"] != "suite":
        return {"final": None, "no_final": "they are defined for the whole suite only"}
    parts = list(table["not_computed"])
    own = [task for task in tasks if task.dimension.name in DIMENSIONS]
    parts += [t.dimension.name for t in own if not t.whole and t.dimension.name not in parts]
    if parts:
        return {"final": None, "no_final": f"not computed over the whole suite: {', '.join(parts)}"}
    names = {task.label for task in own}
    rows = [row for row in table["rows"] if row["dimension"] in names]
    scores = final_scores({row["dimension"]: row["score"] for row in rows})
    final = {n: getattr(scores, n) for n in ("quality", "semantic", "total")}
    return {"final": final, "no_final": None}


def markdown(table: Mapping) -> str:
    """A table of `evaluate` as text, with all that is not computed."""
    lines = [f"VBench, {table['input']}, averaged as {table['averaging'].replace('_', ' ')} does."]
    lines += ["", "| dimension | score | videos | remark |", "| --- | --- | --- | --- |"]
    for row in table["rows"]:
        cells = row["dimension"], f"{row['score']:.4f}", str(row["videos"]), row["remark"]
        lines.append(f"| {' | '.join(cells)} |")
    for name, why in table["not_computed"].items():
        lines.append(f"| {name} | not computed | | {why} |")
    if table["final"]:
        final = [f"{name.capitalize()} {100 * value:.2f}" for name, value in table["final"].items()]
        lines += ["", ", ".join(final) + "."]
    else:
        lines += ["", f"No Quality, Semantic and Total: {table['no_final']}."]
    return "\n".join(lines) + "\n"
