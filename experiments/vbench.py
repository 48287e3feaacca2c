r"""Scores videos by VBench, in dimensions whose networks or detections are given.

python -m experiments.vbench --videos=DIR --networks=viclip=DIR,aesthetic=DIR --workdir=runs/vbench
python -m experiments.vbench --config=configs/nova_d48w1024_osp480.py \
  --config.generator.checkpoint=DIR --prompts=VBench_full_info.json --networks=dino=DIR \
  --workdir=runs/suite

Without --videos it makes them by the published protocol: 5 of each prompt of the list (of those
whose --dimensions are asked for), 25 where flickering is measured, or --samples of each, all with
their own recorded seeds: one sample, and the winner of the config's search. Both are scored as a
suite and compared, with 95 % bootstrap intervals over prompts and the cost of each. Search picks by
design; say so beside its scores. Killed, the same command goes on; started several times, or on
many hosts, its processes share the videos. The base and the searched videos have detections of
their own: --detections=BASE.json,SEARCHED.json. See docs/vbench.md.

With --videos, but without --suite, the folder is custom input: every file is scored, and there is
no Total. Prompts are those of the file names, or come from --prompt or --prompts. Six dimensions
look for what an entry of --info names for the prompt, and are scored where there is one.

With --suite and VBench's list of prompts as --info, each dimension reads the files of its own
prompts, named "{prompt}-{index}.mp4"; where all sixteen are computed over all files there are
Quality, Semantic and Total. With RAFT, temporal flickering reads the still ones of 25 candidates.

Dynamic degree (network raft) and motion smoothness (amt) need sides of at least 128 pixels: with a
smaller video among the files they are not computed, and the table says so.

Files are read once and judged in groups: the frames of several go through a network together, and
what two dimensions want to know of a file is computed once.

Detections of objects and captions are recorded by other programs; see
`tts_jax.evaluation.vbench.recorded` for the file that --detections names. What is not recorded a
model of your own is asked for, --detectors=objects=PACKAGE.MODULE:NAME, which is described in
`tts_jax.evaluation.vbench.detectors`; detections.json beside the scores keeps its answers.

Writes eval_results.json in VBench's own form, and table.md and table.json, which also say what is
not computed and why. A score on custom input is none of the leaderboard's. The same command goes on
after a kill with what journal/ does not have; its processes share the files. Of videos that are
made, these are in base/ and searched/, the files in videos/, and comparison.md and comparison.json
set the two side by side.

Stand-ins without weights, named proxy_*, are measured where --dimensions names them: they are in
the tables only, and enter none of the final scores.
"""

import contextlib
import functools
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli, processes, suite, suite_report
from experiments.journal import Journal, claim
from experiments.runs import to_json
from tts_jax import media
from tts_jax.evaluation.vbench import rules, sampling
from tts_jax.evaluation.vbench.detectors import DetectorFault, Named, load_detectors
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
from tts_jax.evaluation.vbench.networks import load_networks
from tts_jax.evaluation.vbench.recorded import read_recorded
from tts_jax.evaluation.vbench.scores import final_scores
from tts_jax.report.progress import Bar

MEASURES = {**DIMENSIONS, **STAND_INS}
FLICKERING = "temporal_flickering"
UNIT_FILES = 8  # that one process takes at a time
GROUP_BYTES = 1 << 24  # of frames that are judged together; networks' inputs take some tens of that


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "videos", None, "folder of mp4 and gif files; without it they are made", flag_values=values
    )
    flags.DEFINE_integer(
        "samples",
        0,
        "videos to make of each prompt (0: the protocol's)",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string("workdir", "runs/vbench", "where results go", flag_values=values)
    flags.DEFINE_list(
        "dimensions",
        [],
        f"default: all that can be computed; also the stand-ins {', '.join(STAND_INS)}",
        flag_values=values,
    )
    flags.DEFINE_list("networks", [], "name=folder of a converted network", flag_values=values)
    flags.DEFINE_string("detections", None, "recorded detections, JSON", flag_values=values)
    flags.DEFINE_list(
        "detectors",
        [],
        "kind=package.module:name of a detector to ask for what is not recorded; kinds are "
        f"{', '.join(RECORDED)}",
        flag_values=values,
    )
    flags.DEFINE_string(
        "info", None, "VBench_full_info.json, or a list of its form", flag_values=values
    )
    flags.DEFINE_bool("suite", False, "score the benchmark's own prompts", flag_values=values)
    flags.DEFINE_string("prompt", None, "the prompt of every file", flag_values=values)
    flags.DEFINE_string(
        "prompts",
        None,
        "without --videos, VBench_full_info.json or a list of its form; else a JSON object from "
        "file names to prompts",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "several_processes",
        False,
        "average as VBench does over several processes",
        flag_values=values,
    )
    processes.define(values)


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


def main(options: flags.FlagValues) -> None:
    """Runs the program, in one process or many."""
    cli.use_compilation_cache()
    with processes.job(options) as team:
        if options.videos is None:
            _make_and_compare(options, team)
        else:
            _score_folder(options, team)


def _score_folder(options: flags.FlagValues, team: processes.Team) -> None:
    """The scores of given videos."""
    recorded = _recorded([options.detections] if options.detections else [{}])[0]
    prompts, networks = _prompts(options), _networks(options)
    models = networks, _detectors(options)
    workdir = Path(team.agree("workdir", options.workdir))
    found = _score(options, team, prompts, *models, recorded, Path(options.videos), workdir)
    if not found.table["rows"]:
        raise cli.RunFault("no dimension could be computed; table.md says why")


def _make_and_compare(options: flags.FlagValues, team: processes.Team) -> None:
    """Both videos of every prompt and index, then their scores."""
    path = options.prompts or options.info
    if not path:
        raise cli.UsageError(
            "name the folder of videos, --videos=DIR, or have them made of VBench's list of "
            "prompts: --prompts=VBench_full_info.json"
        )
    if options.prompt or options.suite or (options.prompts and options.info):
        raise cli.UsageError("--prompt, --suite and a second list of prompts are of --videos")
    prompts = Prompts(entries=_entries(path), suite=True)
    names = (options.detections or "").split(",") if options.detections else [{}, {}]
    if len(names) != len(suite.ROLES):
        raise cli.UsageError(
            "the base and the searched videos have detections of their own: "
            "--detections=BASE.json,SEARCHED.json"
        )
    recorded = dict(zip(suite.ROLES, _recorded(names), strict=True))
    networks, detectors = _networks(options), _detectors(options)
    for own in recorded.values():  # says what is wrong before it begins
        dimensions = _choose(options.dimensions, networks, _findable(own, detectors))
    del networks
    dimensions = [name for name in dimensions if name in DIMENSIONS] or list(DIMENSIONS)
    wanted = suite.protocol(prompts.entries, dimensions, options.samples)
    workdir = Path(team.agree("workdir", options.workdir))
    console, folder = Console(highlight=False, quiet=not team.leads), workdir / "videos"
    table = suite.open_table(options.config, folder, prompts.entries, team)
    try:
        left = suite.make_videos(options.config, wanted, table, team, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --workdir={workdir} goes on") from None
    if left:
        console.print(f"{left} videos are with other processes; the last one scores them")
    if left:
        return
    models = _networks(options), detectors
    found = {
        role: _score(options, team, prompts, *models, own, folder / role, workdir / role)
        for role, own in recorded.items()
    }
    if not team.leads:
        return
    rows = suite.rows_of(table, wanted)
    report = suite_report.report(options.config, prompts.entries, rows, found)
    media.write_bytes(workdir / "comparison.json", to_json(report))
    text = suite_report.markdown(report)
    media.write_bytes(workdir / "comparison.md", text.encode())
    console.print(text, markup=False)


def _networks(options: flags.FlagValues) -> Networks:
    try:
        return load_networks(_named(options, "networks", "name=folder"))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def _detectors(options: flags.FlagValues) -> dict[str, Named]:
    try:
        return load_detectors(_named(options, "detectors", "kind=package.module:name"))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def _findable(recorded: Mapping, detectors: Mapping) -> dict[str, Mapping]:
    """What is recorded, and nothing yet of what can be detected besides."""
    return {kind: {} for kind in detectors} | dict(recorded)


def _recorded(files: Sequence[str | Mapping]) -> list[Mapping]:
    """What detection files hold; those that are read already stay."""
    try:
        return [read_recorded(file) if isinstance(file, str) else file for file in files]
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def _score(
    options: flags.FlagValues,
    team: processes.Team,
    prompts: Prompts,
    networks: Networks,
    detectors: Mapping[str, Named],
    recorded: Mapping,
    folder: Path,
    workdir: Path,
) -> "Evaluation":
    """Scores the videos of a folder with the other processes; the first writes what is found."""
    console = Console(highlight=False, quiet=not team.leads)
    chosen = _choose(options.dimensions, networks, _findable(recorded, detectors))
    try:
        files = sampling.find_videos(folder)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    found = evaluate(
        files,
        prompts,
        chosen,
        networks,
        recorded,
        detectors=detectors,
        several_processes=options.several_processes,
        console=console,
        journal=_open_journal(workdir, options, team),
    )
    if team.leads:
        _write(workdir, found, bool(detectors))
        _print(console, found.table)
        console.print(f"written to {workdir}")
    team.wait(f"scores in {workdir}")
    return found


def _write(workdir: Path, found: "Evaluation", detected: bool) -> None:
    contents = {"eval_results": found.results, "table": found.table}
    for name, content in contents.items():
        text = json.dumps(content, indent=2) + "\n"
        media.write_bytes(workdir / f"{name}.json", text.encode())
    if detected:
        text = json.dumps(found.recorded) + "\n"
        media.write_bytes(workdir / "detections.json", text.encode())
    media.write_bytes(workdir / "table.md", markdown(found.table).encode())


def _open_journal(workdir: Path, options: flags.FlagValues, team: processes.Team) -> Journal:
    """The journal of a run with the same networks, detections and prompts; of videos that the
    program makes itself, other ones begin anew."""
    settings = {"networks": sorted(options.networks), "prompt": options.prompt}
    if options.detectors:
        settings["detectors"] = sorted(options.detectors)
    for name in ("detections", "info", "prompts"):
        paths = (getattr(options, name) or "").split(",")
        found = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if path]
        settings[name] = ",".join(found) or None
    path, text = workdir / "config.json", json.dumps(settings, indent=2) + "\n"
    workdir.mkdir(parents=True, exist_ok=True)
    with claim(workdir, "config", wait=True):
        if path.exists() and path.read_text() != text:
            if options.videos is not None:
                raise cli.UsageError(
                    f"{workdir} holds scores with other networks, detections or prompts"
                )
            shutil.rmtree(workdir / "journal", ignore_errors=True)
        media.write_bytes(path, text.encode())
        return Journal(workdir, begin=team.index / team.count)


def _named(options: flags.FlagValues, flag: str, form: str) -> dict[str, str]:
    """A flag's names and what each stands for."""
    pairs = [argument.partition("=") for argument in getattr(options, flag)]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise cli.UsageError(f"--{flag} takes {form}, not {name + equals + value!r}")
    if twice := [name for name, _, _ in pairs if [n for n, _, _ in pairs].count(name) > 1]:
        raise cli.UsageError(f"--{flag} names {twice[0]} twice")
    return {name: value for name, _, value in pairs}


def _choose(names: Sequence[str], networks: Networks, recorded: Mapping) -> list[str]:
    """The dimensions asked for; all if none are named."""
    for name in names:
        if name not in MEASURES:
            known, others = (", ".join(names) for names in (DIMENSIONS, STAND_INS))
            raise cli.UsageError(
                f"{name!r} is no VBench dimension; they are {known}; stand-ins are {others}"
            )
        if lack := MEASURES[name].lacks(networks, recorded):
            raise cli.UsageError(f"{name} cannot be computed: {lack}")
    return list(names) or list(DIMENSIONS)


def _read_json(path: str, kind: type, form: str) -> object:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise cli.UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise cli.UsageError(f"{path} must be {form}")
    return content


def _prompts(options: flags.FlagValues) -> Prompts:
    if options.suite and not options.info:
        raise cli.UsageError("--suite needs the list of prompts: --info=VBench_full_info.json")
    given = [n for n in ("prompt", "prompts") if getattr(options, n)]
    if len(given) + options.suite > 1:
        raise cli.UsageError("--suite, --prompt and --prompts exclude one another")
    entries, by_file = [], {}
    if options.info:
        entries = _entries(options.info)
    if options.prompts:
        by_file = _read_json(options.prompts, dict, "an object from file names to prompts")
    return Prompts(entries=entries, suite=options.suite, one=options.prompt, by_file=by_file)


def _entries(path: str) -> list[dict]:
    """VBench's list of prompts."""
    form = 'a list of objects with "prompt_en" and "dimension"'
    entries = _read_json(path, list, form)
    for entry in entries:
        if not isinstance(entry, dict) or not {"prompt_en", "dimension"} <= entry.keys():
            raise cli.UsageError(f"{path} must be {form}")
    return entries


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
    seen = _Seen(_findable(recorded, detectors or {}), detectors or {}, journal)
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
    with Bar(console or Console(quiet=True), len(files)) as bar:
        over = set()

        def done(unit: Mapping[Path, Sequence[_Task]]) -> bool:
            return not any(
                _open_tasks(path, tasks, places, journal) for path, tasks in unit.items()
            )

        def make(unit: Mapping[Path, Sequence[_Task]]) -> None:
            for group in _groups(unit, places, prompts, seen, journal):
                _judge(group, unit, places, networks, journal)
                journal.keep()
                over.update(group)
                bar.update(len(over), list(group)[-1].name)

        places = {path: place for place, path in enumerate(files)}
        journal.work(_units(readers), done, make)
        bar.update(len(files), "all files")
    for path, tasks_of in readers.items():
        for task in tasks_of:
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


Readers = Mapping[Path, Sequence[_Task]]  # what reads each file


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


def _print(console: Console, table: Mapping) -> None:
    shown = Table(title=f"VBench, {table['input']}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("dimension", "score", "videos", "remark"):
        shown.add_column(name, justify="right" if name in ("score", "videos") else "left")
    for row in table["rows"]:
        score = f"{row['score']:.4f}"
        shown.add_row(row["dimension"], score, str(row["videos"]), row["remark"])
    for name, why in table["not_computed"].items():
        shown.add_row(name, "not computed", "", why)
    console.print(shown)
    if table["final"]:
        console.print(", ".join(f"{n} {100 * v:.2f}" for n, v in table["final"].items()))
    else:
        console.print(f"no Quality, Semantic and Total: {table['no_final']}")


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
