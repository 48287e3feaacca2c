r"""Scores videos by VBench, in dimensions whose networks or detections are given.

python -m experiments.vbench --videos=DIR --networks=viclip=DIR,aesthetic=DIR --workdir=runs/vbench
python -m experiments.vbench --config=configs/nova_d48w1024_osp480.py \
    --prompts=VBench_full_info.json --networks=dino=DIR,viclip=DIR --workdir=runs/suite

The second makes the videos first, by VBench's protocol: of every prompt of its list five, of those
for temporal flickering 25, each once by a single sample and once by the config's search from the
same seed. It scores both sets, and compares them dimension by dimension with what they cost.
Started several times, or on many hosts, its processes share the videos; killed, it goes on. Files
lie in <workdir>/base and <workdir>/searched; see `experiments.suite` and docs/vbench.md.
--detections then names two files, of the base and of the searched videos: BASE.json,SEARCHED.json.

With --videos the program scores what is there.

Without --suite the folder is custom input: every file is scored, and there is no Total. Prompts are
those of the file names, or come from --prompt or --prompts. Six dimensions look for what an entry
of --info names for the prompt, and are scored where there is one.

With --suite and VBench's list of prompts as --info, each dimension reads the files of its own
prompts, named "{prompt}-{index}.mp4"; where all sixteen are computed over all files there are
Quality, Semantic and Total. With RAFT, temporal flickering reads the still ones of 25 candidates.

Dynamic degree (network raft) and motion smoothness (amt) need sides of at least 128 pixels: with a
smaller video among the files they are not computed, and the table says so.

Detections of objects and captions are recorded by other programs; see
`tts_jax.evaluation.vbench.recorded` for the file that --detections names.

Writes eval_results.json in VBench's own form, and table.md and table.json, which also say what is
not computed and why. A score on custom input is none of the leaderboard's. The same command goes on
after a kill with what journal.jsonl does not have.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli, processes, suite, suite_report
from experiments.processes import Team
from experiments.runs import to_json
from tts_jax import media
from tts_jax.evaluation.vbench import rules, sampling
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, Dimension, Networks, Video, is_static
from tts_jax.evaluation.vbench.networks import load_networks
from tts_jax.evaluation.vbench.recorded import read_recorded
from tts_jax.evaluation.vbench.scores import final_scores
from tts_jax.report.progress import Bar

FLICKERING = "temporal_flickering"


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("videos", None, "folder of mp4 and gif files", flag_values=values)
    flags.DEFINE_string("workdir", "runs/vbench", "where results go", flag_values=values)
    flags.DEFINE_list("dimensions", [], "default: what can be computed", flag_values=values)
    flags.DEFINE_list("networks", [], "name=folder of a converted network", flag_values=values)
    flags.DEFINE_string("detections", None, "recorded detections, JSON", flag_values=values)
    flags.DEFINE_string(
        "info", None, "VBench_full_info.json, or a list of its form", flag_values=values
    )
    flags.DEFINE_bool("suite", False, "score the benchmark's own prompts", flag_values=values)
    flags.DEFINE_string("prompt", None, "the prompt of every file", flag_values=values)
    flags.DEFINE_string(
        "prompts",
        None,
        "VBench_full_info.json, whose videos are then made; with --videos a JSON object from file "
        "names to prompts",
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
    """Runs the program; to make videos, in one process or many."""
    if options.videos is not None:
        _score(options)
    elif options.prompts is None:
        raise cli.UsageError(
            "name the folder of videos, --videos=DIR, or the list of prompts to make them of, "
            "--prompts=VBench_full_info.json"
        )
    else:
        with processes.job(options) as team:
            _make_and_score(options, team)


def _make_and_score(options: flags.FlagValues, team: Team) -> None:
    for name in ("info", "prompt", "suite"):
        if getattr(options, name):
            raise cli.UsageError(f"--{name} is for videos that are there; name their --videos=DIR")
    prompts = Prompts(entries=_entries(options.prompts), suite=True)
    config, names = options.config, options.dimensions
    recorded = _recorded_pair(options.detections)
    _choose(names, _networks(options), recorded["base"])  # says what is wrong before it begins
    wanted = suite.clips(prompts.entries, names or list(DIMENSIONS))
    cli.use_compilation_cache()
    console = Console(highlight=False, quiet=not team.leads)
    table = suite.open_table(config, Path(options.workdir), prompts.entries, team)
    try:
        left = suite.make(config, wanted, table, team, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the same command with --workdir={options.workdir} goes on"
        ) from None
    if left:
        console.print(f"{left} videos are with other processes; the last one scores them")
    if left or not team.leads:
        return
    networks, tables, results = _networks(options), {}, {}
    for kind, own in recorded.items():
        tables[kind], results[kind] = evaluate(
            sorted(table.folder / kind / clip.name for clip in wanted),
            prompts,
            _choose(names, networks, own),
            networks,
            own,
            several_processes=options.several_processes,
            console=console,
            journal=_open_journal(table.folder / "scores" / kind, options),
        )
    tasks = {clip.task for clip in wanted}
    rows = [row for row in table.rows() if suite.task_of(row) in tasks]
    table.write_whole("videos.parquet", rows)
    report = suite_report.report(config, prompts.entries, rows, tables, results)
    for name, content in (
        *((f"{kind}_eval_results", found) for kind, found in results.items()),
        ("table", report),
    ):
        media.write_bytes(table.folder / f"{name}.json", to_json(content))
    texts = [f"## The {kind} videos\n\n{markdown(tables[kind])}" for kind in tables]
    text = "\n".join([suite_report.markdown(report), *texts])
    media.write_bytes(table.folder / "table.md", text.encode())
    suite_report.show(console, report)
    console.print(f"written to {table.folder}")


def _networks(options: flags.FlagValues) -> Networks:
    try:
        return load_networks(_folders(options.networks))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def _recorded_pair(files: str | None) -> dict[str, Mapping]:
    """Detections of the base and of the searched videos."""
    names = files.split(",") if files else []
    if names and len(names) != len(suite.KINDS):
        raise cli.UsageError(
            "the base and the searched videos have detections of their own: "
            "--detections=BASE.json,SEARCHED.json"
        )
    try:
        found = [read_recorded(name) for name in names] or [{}, {}]
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    return dict(zip(suite.KINDS, found, strict=True))


def _score(options: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    prompts = _prompts(options)
    try:
        files = sampling.find_videos(options.videos)
        recorded = read_recorded(options.detections) if options.detections else {}
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    networks = _networks(options)
    chosen = _choose(options.dimensions, networks, recorded)
    console, workdir = Console(highlight=False), Path(options.workdir)
    table, results = evaluate(
        files,
        prompts,
        chosen,
        networks,
        recorded,
        several_processes=options.several_processes,
        console=console,
        journal=_open_journal(workdir, options),
    )
    for name, content in (("eval_results", results), ("table", table)):
        text = json.dumps(content, indent=2) + "\n"
        media.write_bytes(workdir / f"{name}.json", text.encode())
    media.write_bytes(workdir / "table.md", markdown(table).encode())
    _print(console, table)
    console.print(f"written to {workdir}")
    if not results:
        raise cli.RunFault("no dimension could be computed; table.md says why")


class Journal:
    """What was found on files, so that a stopped run goes on; a changed file is looked at again."""

    def __init__(self, path: Path | None = None):
        """Reads what there is; a line cut short by a kill is dropped. None keeps nothing."""
        self._path, self._known = path, {}
        if path is not None and path.exists():
            lines = [n for n in path.read_text("utf-8").splitlines(keepends=True) if n[-1] == "\n"]
            path.write_text("".join(lines), "utf-8")
            for line in map(json.loads, lines):
                self._known[tuple(line["file"]), line["what"]] = line["found"]

    def find(self, file: Path, what: str, compute: Callable[[], object]) -> object:
        """What is known of a file; what is not is computed, and kept."""
        status = file.stat()
        stamp = file.name, status.st_size, status.st_mtime_ns
        if (stamp, what) not in self._known:
            found = self._known[stamp, what] = compute()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"file": stamp, "what": what, "found": found}) + "\n")
        return self._known[stamp, what]


def _open_journal(workdir: Path, options: flags.FlagValues) -> Journal:
    """The journal of a run with the same networks, detections and prompts."""
    settings = {"networks": sorted(options.networks), "prompt": options.prompt}
    for name in ("detections", "info", "prompts"):
        paths = (getattr(options, name) or "").split(",")
        found = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if path]
        settings[name] = ",".join(found) or None
    path, text = workdir / "config.json", json.dumps(settings, indent=2) + "\n"
    if path.exists() and path.read_text() != text:
        raise cli.UsageError(f"{workdir} holds scores with other networks, detections or prompts")
    workdir.mkdir(parents=True, exist_ok=True)
    media.write_bytes(path, text.encode())
    return Journal(workdir / "journal.jsonl")


def _folders(arguments: Sequence[str]) -> dict[str, str]:
    pairs = [argument.partition("=") for argument in arguments]
    for name, equals, folder in pairs:
        if not (name and equals and folder):
            raise cli.UsageError(f"--networks takes name=folder, not {name + equals + folder!r}")
    return {name: folder for name, _, folder in pairs}


def _choose(names: Sequence[str], networks: Networks, recorded: Mapping) -> list[str]:
    """The dimensions asked for; all if none are named."""
    for name in names:
        if name not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise cli.UsageError(f"{name!r} is no VBench dimension; they are {known}")
        if lack := DIMENSIONS[name].lacks(networks, recorded):
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


@dataclass
class _Task:
    """A dimension and the files it reads."""

    dimension: Dimension
    label: str
    files: list[Path]
    remarks: list[str] = field(default_factory=list)
    whole: bool = True
    records: list[dict] = field(default_factory=list)
    verdicts: list[rules.Verdict] = field(default_factory=list)
    fault: str | None = None


def evaluate(
    files: Sequence[Path],
    prompts: Prompts,
    names: Sequence[str],
    networks: Networks,
    recorded: Mapping[str, Mapping[str, Sequence]],
    *,
    several_processes: bool = False,
    console: Console | None = None,
    journal: Journal | None = None,
) -> tuple[dict, dict]:
    """Scores files with dimensions.

    Args:
      files: videos.
      prompts: of the files.
      names: dimensions; what they lack is said in the table.
      networks: by their names in `dimensions.NETWORKS`.
      recorded: by kind and file name, see `tts_jax.evaluation.vbench.recorded`.
      several_processes: see `rules.combine`.
      console: gets a progress bar.
      journal: has what an earlier run found, and gets what this one does.

    Returns:
      The table, with rows, what is not computed, and the final scores or why there are none; and
      {dimension: [score, records]}.

    Raises:
      UsageError: a file cannot be read.
    """
    journal = journal or Journal()
    tasks, absent = [], {name: "not asked for" for name in DIMENSIONS if name not in names}
    for name in names:
        lack = DIMENSIONS[name].lacks(networks, recorded)
        task = None if lack else _plan(name, files, prompts, networks, recorded, journal)
        if task is not None and task.files:
            tasks.append(task)
        else:
            absent[name] = lack or ("; ".join(task.remarks) or "no file to score")
    readers = {path: [] for path in files}
    for task in tasks:
        for path in task.files:
            readers[path].append(task)
    with Bar(console or Console(quiet=True), len(files)) as bar:
        for index, path in enumerate(files):
            read = functools.cache(functools.partial(_read, path, prompts, recorded))
            for task in readers[path]:
                if task.fault is None:
                    _judge(task, path, read, networks, journal)
            bar.update(index + 1, path.name)
    rows, results = [], {}
    for task in tasks:
        try:
            if task.fault is not None:
                raise ValueError(task.fault)
            score = rules.combine(task.verdicts, several_processes=several_processes)
        except ValueError as error:
            absent[task.dimension.name] = str(error)
            continue
        if left_out := len(task.verdicts) - len(task.records):
            task.remarks.append(f"{left_out} of {len(task.verdicts)} files show nothing to judge")
        results[task.label] = [score, task.records]
        remark = "; ".join(task.remarks)
        row = {"dimension": task.label, "score": score, "videos": len(task.records)}
        rows.append({**row, "whole": prompts.suite and task.whole, "remark": remark})
    table = {
        "input": "suite" if prompts.suite else "custom input",
        "averaging": "several_processes" if several_processes else "one_process",
        "rows": rows,
        "not_computed": {name: absent[name] for name in DIMENSIONS if name in absent},
    }
    return {**table, **_final(table, tasks)}, results


def _plan(
    name: str,
    files: Sequence[Path],
    prompts: Prompts,
    networks: Networks,
    recorded: Mapping,
    journal: Journal,
) -> _Task:
    """Which files a dimension reads, and what is to be said of that."""
    dimension = DIMENSIONS[name]
    task = _Task(dimension, name, list(files))
    if prompts.suite:
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
        (f"recorded {dimension.recorded}", _has_recorded(dimension, recorded)),
    ):
        kept = [path for path in task.files if has(path)]
        if lacking := len(task.files) - len(kept):
            task.remarks.append(f"{lacking} of {len(task.files)} files lack {what}")
            task.whole = False
        task.files = kept
    return task


def _has_info(dimension: Dimension, prompts: Prompts):
    return lambda path: not dimension.needs_info or dimension.name in prompts.info(prompts.of(path))


def _has_recorded(dimension: Dimension, recorded: Mapping):
    return lambda path: dimension.recorded is None or path.name in recorded[dimension.recorded]


def _keep_static(
    task: _Task, wanted: Sequence[str], prompts: Prompts, networks: Networks, journal: Journal
) -> None:
    """Leaves the static files of the candidates to temporal flickering."""

    def keep(path: Path) -> bool:
        return journal.find(path, "static", lambda: is_static(_read(path, prompts, {}), networks))

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


def _read(path: Path, prompts: Prompts, recorded: Mapping) -> Video:
    try:
        frames, fps = media.read_video(path)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    prompt = prompts.of(path)
    found = {kind: videos[path.name] for kind, videos in recorded.items() if path.name in videos}
    return Video(path.name, frames, fps, prompt, prompts.info(prompt), found)


def _judge(
    task: _Task, path: Path, read: Callable[[], Video], networks: Networks, journal: Journal
) -> None:
    def compute() -> dict:
        video = read()
        try:
            return asdict(task.dimension(video, networks))
        except ValueError as error:
            return {"fault": str(error)}

    found = journal.find(path, task.dimension.name, compute)
    if "fault" in found:
        task.fault = found["fault"]
        return
    verdict = rules.Verdict(**found)
    task.verdicts.append(verdict)
    if verdict.record is not None:
        task.records.append({"video_path": str(path), **verdict.record})


def _final(table: Mapping, tasks: Sequence[_Task]) -> dict:
    """The final scores, or in words why there are none."""
    if table["input"] != "suite":
        return {"final": None, "no_final": "they are defined for the whole suite only"}
    parts = list(table["not_computed"])
    parts += [t.dimension.name for t in tasks if not t.whole and t.dimension.name not in parts]
    if parts:
        return {"final": None, "no_final": f"not computed over the whole suite: {', '.join(parts)}"}
    scores = final_scores({row["dimension"]: row["score"] for row in table["rows"]})
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
