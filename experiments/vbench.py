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

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli, processes, suite, suite_report
from experiments.journal import Journal, claim
from experiments.runs import to_json
from experiments.scoring import MEASURES, Evaluation, Prompts, evaluate, findable, markdown
from tts_jax import media
from tts_jax.evaluation.vbench import sampling
from tts_jax.evaluation.vbench.detectors import Named, load_detectors
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, RECORDED, STAND_INS, Networks
from tts_jax.evaluation.vbench.networks import load_networks
from tts_jax.evaluation.vbench.recorded import read_recorded


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
        dimensions = _choose(options.dimensions, networks, findable(own, detectors))
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
        console.print(f"{left} videos are with other processes; those score them")
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
) -> Evaluation:
    """Scores the videos of a folder with the other processes; the first writes what is found."""
    console = Console(highlight=False, quiet=not team.leads)
    chosen = _choose(options.dimensions, networks, findable(recorded, detectors))
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


def _write(workdir: Path, found: Evaluation, detected: bool) -> None:
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
