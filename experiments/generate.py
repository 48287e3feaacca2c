r"""Searches a video for each prompt, and writes it with its tree, its cost and a picture of both.

python -m experiments.generate --prompt="a yellow square moving up and a blue circle moving right"
python -m experiments.generate --prompts_file=prompts.txt --workdir=runs/many --seed=1
python -m experiments.generate --prompt="..." --config.search.preset=random_linear
python -m experiments.generate --prompt="..." --config.budget.nfe=500 --dry_run

Writes <workdir>/config.json metadata.json
prompts/<index>/{best.mp4,best.gif,contact_sheet.png,report.html,tree.json,ledger.json}
"""

import datetime
import json
import platform
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from experiments import cli, processes, summary
from experiments.models import Models, open_search
from experiments.processes import SharedStore, Team, job, share
from experiments.runs import RunDirectory, default_workdir, read_prompts, to_json
from tts_jax import media
from tts_jax.parallel import is_shared
from tts_jax.report import tensorboard
from tts_jax.report.contact_sheet import Row, write_contact_sheet
from tts_jax.report.progress import Bar
from tts_jax.report.run_page import write_run_page
from tts_jax.search import (
    Budget,
    Cost,
    Node,
    Outline,
    Search,
    SearchResult,
    Store,
    load_preset,
    paths,
    plan,
)
from tts_jax.search.presets import Preset
from tts_jax.search.store import RoundStore


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("prompt", None, "what the video shall show", flag_values=values)
    flags.DEFINE_string(
        "prompts_file",
        None,
        'many prompts: one a line, or a JSON list of {"prompt_en": ...} as VBench has it',
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "where results go; the same command with the same workdir continues a run "
        "(default: runs/<config>-<time>)",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "print what the search takes, round by round, and make no video",
        flag_values=values,
    )
    cli.define_tensorboard(values)
    flags.DEFINE_integer("seed", None, "replaces config.seed", lower_bound=0, flag_values=values)
    processes.define(values)


def main(options: flags.FlagValues) -> None:
    """Runs the program, in one process or many."""
    with job(options) as team:
        _run(options, team)


def _run(options: flags.FlagValues, team: Team) -> None:
    config = options.config
    if options.seed is not None:
        config.seed = options.seed
    if not 0 <= config.seed < 2**32:
        raise cli.UsageError(f"seed {config.seed} is not in 0..{2**32 - 1}")
    prompts = read_prompts(options.prompt, options.prompts_file)
    cache = cli.use_compilation_cache()

    models, search = open_search(config, prompts, dry=options.dry_run, shared=True)
    preset, budget = load_preset(config.search), Budget(**config.budget)
    check_search(preset, search.outline, budget)
    if budget.seconds and is_shared(search.mesh):
        raise cli.UsageError(
            "config.budget.seconds differs between the processes of one search; limit nfe or flops"
        )
    console = Console(highlight=False, quiet=not team.leads)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if options.dry_run:
        plans = [search.plan(prompts[0], preset, budget, scores) for scores in ("distinct", "tied")]
        summary.print_plan(console, config, models, *plans)
        summary.print_memory(console, models.memory)
        return
    name = Path(options["config"].config_filename).stem
    workdir = team.agree("workdir", str(options.workdir or default_workdir(name)))
    settings = {**json.loads(config.to_json()), "prompts": prompts}
    with RunDirectory(workdir, settings, _metadata(), team) as run:
        summary.print_setup(console, config, models, search.outline, prompts, run.path, cache)
        try:
            _search_all(console, config, models, search, preset, budget, prompts, run, team)
            team.wait("every prompt")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the same command with --workdir={run.path} goes on from what is done"
            ) from None
        if team.leads:
            summary.print_results(console, [_read(run.folder(i)) for i in range(len(prompts))])
            summary.print_files(console, run.path, len(prompts))
            if options.tensorboard:
                console.print(f"tensorboard --logdir={tensorboard.write_run(run.path)}")


def check_search(preset: Preset, outline: Outline, budget: Budget) -> None:
    """Refuses a search before anything is computed for it.

    Raises:
      SearchConfigError, UsageError: fields that make no search, or a budget that no video fits.
    """
    try:
        plan(preset, outline, budget=Budget(nfe=budget.nfe))
    except TypeError as error:
        raise cli.UsageError(f"config.search has a field of the wrong type: {error}") from error


def _metadata() -> dict:
    device = jax.devices()[0]
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("tts_jax", "jax", "jaxlib", "flax")},
        },
        "devices": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def _read(folder: Path) -> tuple[dict, dict]:
    return tuple(json.loads((folder / f"{name}.json").read_bytes()) for name in ("tree", "ledger"))


def _search_all(
    console: Console,
    config: ConfigDict,
    models: Models,
    search: Search,
    preset: Preset,
    budget: Budget,
    prompts: Sequence[str],
    run: RunDirectory,
    team: Team,
) -> None:
    waiting = [i for i in range(len(prompts)) if not run.is_done(i)]
    together = is_shared(search.mesh)
    if together:
        waiting = json.loads(team.agree("waiting", json.dumps(waiting)))
    if len(waiting) < len(prompts):
        console.print(f"{len(prompts) - len(waiting)} of {len(prompts)} prompts are done already")
    waiting = [i for i in waiting if i in share(search.mesh, len(prompts))]
    with Bar(console, len(waiting)) as bar:
        for number, index in enumerate(waiting):
            prompt = prompts[index]
            label = f"prompt {number + 1}/{len(waiting)}"

            def progress(done, planned, number=number, label=label):
                bar.update(number + done / max(planned, 1), label)

            progress(0, 1)
            arguments = {"seed": config.seed, "prompt_index": index}
            stage_prompts = models.stage_prompts(prompt)
            result = search.run(
                prompt,
                preset,
                stage_prompts=stage_prompts,
                budget=budget,
                store=_store(config, prompt, index, stage_prompts, run, team if together else None),
                progress=progress,
                **arguments,
            )
            calls, seconds = models.stage_prompts.spent(prompt)
            if calls:
                cost = result.ledger["stage_prompts"]
                cost += Cost(calls=calls, seconds=seconds)
            single, apart = single_sample(search, prompt, result, arguments)
            progress(1, 1)
            if together and not team.leads:
                continue
            tree = _tree(config, models, prompt, index, result, single)
            with run.prompt(index) as folder:
                _write(folder, config, tree, result, single, apart, search.outline)


def _store(
    config: ConfigDict,
    prompt: str,
    index: int,
    stage_prompts: Sequence[str],
    run: RunDirectory,
    team: Team | None,
) -> Store:
    """Where the search for a prompt is kept, by the first process of those that search together."""
    store = store_in(run.search_folder(index), config, prompt, index, stage_prompts)
    return store if team is None else SharedStore(store, team, f"{index}")


def store_in(
    folder: Path, config: ConfigDict, prompt: str, index: int, stage_prompts: Sequence[str], **more
) -> RoundStore:
    """Keeps a search in a folder, with what it depends on.

    Args:
      folder: of this search alone.
      config: settings.
      prompt: the text.
      index: its place among those of the run.
      stage_prompts: what stages are judged by.
      more: plain values that decide the search as well.
    """
    ran = _metadata()
    about = {
        "prompt": prompt,
        "prompt_index": index,
        "stage_prompts": list(stage_prompts),
        "config": json.loads(config.to_json()),
        **ran["versions"],
        "device": ran["devices"],
        **more,
    }
    return RoundStore(folder, about)


def single_sample(
    search: Search, prompt: str, result: SearchResult, arguments: Mapping
) -> tuple[Node, SearchResult | None]:
    """What one sample without a search gives, and the run that made it if the search did not.

    Args:
      search: the models.
      prompt: the text.
      result: of a search for it.
      arguments: with which it was run, `seed` and `prompt_index`.
    """
    path = (0,) * search.outline.num_segments
    for node in result.candidates:
        if node.path == path:
            return node, None
    one = load_preset(ConfigDict({"preset": "random_linear", "branches": 1}))
    alone = search.run(prompt, one, **arguments)
    return alone.candidates[0], alone


def _tree(
    config: ConfigDict,
    models: Models,
    prompt: str,
    index: int,
    result: SearchResult,
    single: Node,
) -> dict:
    """Everything about a search that the seed decides."""
    winner = result.incumbents[-1]
    values = _values(models, result.candidates, winner, single)
    return {
        "prompt": prompt,
        "prompt_index": index,
        "seed": config.seed,
        "stage_prompts": models.stage_prompts(prompt),
        "panel": {
            "verifiers": models.panel.names,
            "weights": models.panel.weights.tolist(),
            "aggregation": models.panel.aggregation,
            "floors": models.panel.guards,
            "held_out": models.panel.held_out,
        },
        **result.to_json(),
        **{
            role: {
                "path": paths.to_json(node.path),
                "panel": value,
                "scores": node.scores,
                **_grade(models, node, prompt),
            }
            for role, node, value in zip(
                ("winner", "single"), (winner, single), values, strict=True
            )
        },
    }


def _values(
    models: Models, candidates: Sequence[Node], winner: Node, single: Node
) -> tuple[float, float]:
    """The panel's values of winner and single sample among all finished videos."""
    nodes = list(candidates)
    if not any(node is single for node in nodes):
        nodes.append(single)
    scores = np.array([[node.scores[name] for name in models.panel.names] for node in nodes])
    values = np.asarray(jax.jit(models.panel.value)(scores))
    return tuple(
        float(value)
        for role in (winner, single)
        for node, value in zip(nodes, values, strict=True)
        if node is role
    )


def _grade(models: Models, node: Node, prompt: str) -> dict:
    if models.world is None:
        return {}
    grade = models.world.grade(node.frames, prompt)
    return {"oracle": {"success": grade.success, "facts": grade.facts}}


def _write(
    folder: Path,
    config: ConfigDict,
    tree: Mapping,
    result: SearchResult,
    single: Node,
    apart: SearchResult | None,
    outline: Outline,
) -> None:
    start = time.perf_counter()
    video = dict(config.video)
    media.write_mp4(folder / "best.mp4", result.best.frames, **video)
    media.write_gif(folder / "best.gif", result.best.frames, **video)
    write_contact_sheet(
        folder / "contact_sheet.png",
        _rows(result, single if apart else None, outline.num_segments),
        title=tree["prompt"],
        subtitle=summary.describe(config, tree),
    )
    found = to_json(tree)
    write_run_page(
        folder / "report.html",
        json.loads(found),
        [node.frames for node in result.nodes],
        winner=result.best.frames,
        single=single.frames,
        outline=outline,
        preset=config.search.preset,
        generator=config.generator.name,
        fps=config.video.fps,
    )
    result.ledger["io"].seconds += time.perf_counter() - start
    costs = {
        "search": result.ledger.to_json(),
        "single_sample": apart and apart.ledger.to_json(),
    }
    media.write_bytes(folder / "tree.json", found)
    media.write_bytes(folder / "ledger.json", to_json(costs))


def _rows(result: SearchResult, apart: Node | None, num_segments: int) -> list[Row]:
    """The contact sheet's rows: finished paths, pruned ones where they ended, a sample apart."""
    nodes = {node.path: node for node in result.nodes if node.fidelity == "full"}
    standings = _standings(nodes.values())
    rows = []
    for node in nodes.values():
        finished = node.depth == num_segments and node.latents is not None
        if node.kept and not finished:
            continue
        scores, standing = {}, {}
        for length in range(1, len(node.path) + 1):
            if ancestor := nodes.get(node.path[:length]):
                scores |= ancestor.scores
                standing |= standings[ancestor.path]
        if finished:
            scores["panel"] = node.value
        else:
            standing.pop("panel", None)
        rows.append(
            Row(
                path=node.path,
                frames=np.zeros((0, 1, 1, 3)) if node.frames is None else node.frames,
                scores=scores,
                standing=standing,
                pruned_at=None if finished else node.depth - 1,
                winner=node.path == result.best.path,
                note="no search" if finished and not any(node.path) else "",
            )
        )
    if apart:
        about = dict(path=apart.path, frames=apart.frames, scores=apart.scores)
        rows.append(Row(**about, note="no search", apart=True))
    return rows


def _standings(nodes: Collection[Node]) -> dict[tuple, dict[str, float]]:
    """By path and verifier, where a score lies between the worst and the best of its round."""
    standings = {node.path: {} for node in nodes}
    columns: dict[tuple, dict[tuple, float]] = {}
    for node in nodes:
        judged = node.scores if node.value is None else {**node.scores, "panel": node.value}
        for name, score in judged.items():
            if np.isfinite(score):
                columns.setdefault((node.round, name), {})[node.path] = score
    for (_, name), column in columns.items():
        low, high = min(column.values()), max(column.values())
        for path, score in column.items():
            standings[path][name] = (score - low) / (high - low) if high > low else 1.0
    return standings


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
