"""What programs print about a search: what runs where, what was found, and what it cost."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.memory import PHASES, MemoryPlan
from experiments.models import Models, mesh_of
from tts_jax.search import Budget, Outline, Plan, load_preset, plan

# What a run does in each phase of its memory plan.
_DOING = {"stage prompts": "split prompts", "text": "encode prompts", "search": "search"}
_LISTED = 40
_ROUNDS = 12


def print_setup(
    console: Console,
    config: ConfigDict,
    models: Models,
    outline: Outline,
    prompts: Sequence[str],
    workdir: Path,
    cache: Path | None,
) -> None:
    """Says what runs where, before it does."""
    device = jax.devices()[0]
    mesh = models.mesh or mesh_of(config)
    shape = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    shared = ": " * (len(shape) > 1) + ", ".join(shape) * (len(shape) > 1)
    found = plan(load_preset(config.search), outline, "tied", budget=Budget(nfe=config.budget.nfe))
    limits = [f"{limit:g} {name}" for name, limit in config.budget.items() if limit]
    verifiers = (
        f"{name} x {weight:g}"
        for name, weight in zip(models.panel.names, models.panel.weights, strict=True)
    )
    widths = " > ".join(f"{r.width}" for r in found.rounds[:_ROUNDS])
    widths += " > ..." * (len(found.rounds) > _ROUNDS)
    table = Table.grid(padding=(0, 2))
    for name, text in {
        "tts_jax": f"{metadata.version('tts_jax')} on jax {jax.__version__}, "
        f"{mesh.size} {device.platform} device{'s' * (mesh.size > 1)} ({device.device_kind})"
        f"{shared}",
        "generator": f"{config.generator.name}, checkpoint {config.generator.checkpoint}, "
        f"{models.memory.generator / 1e6:.2f} M parameters, "
        f"{models.generator.num_segments} segments",
        "verifiers": f"{', '.join(verifiers)}; {config.panel.aggregation}",
        "search": f"{config.search.preset}, {widths} branches, at most "
        f"{found.nfe} denoiser calls and {found.decodes} decodes"
        + f"; budget {', '.join(limits)}"
        * bool(limits),
        "prompts": f"{len(prompts)}, seed {config.seed}",
        "programs": f"kept in {cache}" if cache else "not kept between runs",
        "workdir": str(workdir),
    }.items():
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)
    console.print()


def print_plan(
    console: Console, config: ConfigDict, models: Models, distinct: Plan, tied: Plan
) -> None:
    """What a search takes, round by round.

    Args:
      console: where to print.
      config: names the preset.
      models: judge.
      distinct: the plan when all scores differ.
      tied: the plan when all are equal.
    """
    table = _table(f"{config.search.preset}, one prompt")
    for name in ("round", "segments", "parents", "branches", "judged by", "decodes"):
        table.add_column(name, justify="left" if name == "judged by" else "right")
    for name in ("verifier calls", "NFE", "GFLOP"):
        table.add_column(name, justify="right")
    judges = {
        None: 0,
        "panel": len(models.panel.verifiers),
        "image": sum(v.needs == "image" for v in models.panel.verifiers),
    }
    for number, r in enumerate(distinct.rounds):
        stage = "" if r.stage is None else f", stage {r.stage + 1}"
        table.add_row(
            str(number),
            f"{r.start} to {r.to}" + " (draft)" * (r.fidelity == "draft"),
            str(r.parents),
            str(r.width),
            (r.judges or "") + stage * bool(r.judges),
            str(r.decodes or ""),
            str(r.decodes * judges[r.judges] or ""),
            f"{r.cost.nfe:,}",
            f"{(r.cost.flops + r.cost.padding_flops) / 1e9:,.2f}",
        )
    table.add_section()
    for label, found in (("all", distinct), ("all, if scores tie", tied)):
        calls = sum(r.decodes * judges[r.judges] for r in found.rounds)
        width = sum(r.width for r in found.rounds)
        row = (str(width), "", str(found.decodes), str(calls), f"{found.nfe:,}")
        table.add_row(label, "", "", *row, f"{found.flops / 1e9:,.2f}")
    console.print(table)
    if distinct.cut or tied.cut:
        console.print("The budget makes the search smaller than it is configured.")


def print_memory(console: Console, memory: MemoryPlan) -> None:
    """Which parameters are held when, on each device."""
    shape = {} if memory.mesh is None else memory.mesh.shape
    mesh = ", ".join(f"{name} {size}" for name, size in shape.items() if size > 1)
    table = _table("parameters in memory, on each device" + f" of a mesh of {mesh}" * bool(mesh))
    for name in ("part", "type"):
        table.add_column(name, no_wrap=True)
    phases = [phase for phase in PHASES if memory.held(phase)]
    titles = (f"{i}. {_DOING[phase]}" for i, phase in enumerate(phases, 1))
    for name in ("parameters", *titles):
        table.add_column(name, justify="right")
    for part in memory.parts:
        held = [_size(part.nbytes) if phase in part.phases else "" for phase in phases]
        table.add_row(part.name, part.dtype, f"{part.numbers:,}", *held)
    table.add_section()
    table.add_row("all", "", "", *(_size(memory.held(phase)) for phase in phases))
    console.print(table)
    console.print(
        "What a column does not show is freed by then, or not loaded yet. Branches, frames and "
        "what networks compute come on top; config.micro_batch bounds them."
    )


def _size(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return str(size)


def describe(config: ConfigDict, tree: Mapping) -> str:
    """One line about a search, for the head of a picture."""
    leaves = sum(not node["kept"] for node in tree["nodes"]) + 1
    cost = tree["cost"]["generator"]
    parts = [
        config.search.preset.replace("_", " "),
        f"{leaves} paths",
        f"{cost['nfe']} denoiser calls",
        f"seed {tree['seed']}",
    ]
    if "oracle" in tree["winner"]:
        parts += [f"{role}: {_oracle(tree[role])}" for role in ("winner", "single")]
    return "  ·  ".join(parts).replace("single:", "without search:")


def _oracle(role: Mapping) -> str:
    grade = role.get("oracle")
    if grade is None:
        return "-"
    return "success" if grade["success"] else f"{grade['facts']:.0%} of facts"


def print_results(console: Console, results: Sequence[tuple[Mapping, Mapping]]) -> None:
    """The table at the end: what was found, and what it cost.

    Args:
      console: where to print.
      results: `tree.json` and `ledger.json` of each prompt.
    """
    trees = [tree for tree, _ in results]
    console.print()
    console.print(_detail(trees[0]) if len(trees) == 1 else _overview(trees))
    console.print(_costs([ledger for _, ledger in results]))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _detail(tree: Mapping) -> Table:
    names = tree["panel"]["verifiers"]
    table = _table(tree["prompt"])
    for name in ("", "path"):
        table.add_column(name)
    for name in ("panel", *names):
        table.add_column(name, justify="right")
    oracle = "oracle" in tree["winner"]
    if oracle:
        table.add_column("oracle")
    for label, role in (("winner", tree["winner"]), ("single sample", tree["single"])):
        path = " ".join(map(str, role["path"]))
        scores = [_number(role["scores"][name]) for name in names]
        grade = [_oracle(role)] if oracle else []
        table.add_row(label, path, _number(role["panel"]), *scores, *grade)
    return table


def _overview(trees: Sequence[Mapping]) -> Table:
    table = _table(f"{len(trees)} prompts")
    table.add_column("")
    table.add_column("prompt", overflow="ellipsis", no_wrap=True, max_width=48)
    table.add_column("winner's panel", justify="right")
    table.add_column("single's panel", justify="right")
    oracle = all("oracle" in tree["winner"] for tree in trees)
    if oracle:
        table.add_column("winner's oracle")
        table.add_column("single's oracle")
    roles = ("winner", "single")
    for tree in trees[:_LISTED]:
        grades = [_oracle(tree[role]) for role in roles] if oracle else []
        panel = [_number(tree[role]["panel"]) for role in roles]
        table.add_row(str(tree["prompt_index"]), tree["prompt"], *panel, *grades)
    if len(trees) > _LISTED:
        table.add_row("", f"and {len(trees) - _LISTED} more")
    table.add_section()

    def mean(role, *keys):
        values = []
        for tree in trees:
            value = tree[role]
            for key in keys:
                value = value[key]
            values.append(np.nan if value is None else value)
        return float(np.nanmean(values)) if not np.all(np.isnan(values)) else None

    panel = [_number(mean(role, "panel")) for role in roles]
    grades = [
        f"{mean(role, 'oracle', 'success'):.0%} success, {mean(role, 'oracle', 'facts'):.0%} facts"
        for role in roles
        if oracle
    ]
    table.add_row("", "mean", *panel, *grades)
    return table


def _costs(ledgers: Sequence[Mapping]) -> Table:
    table = _table("cost")
    table.add_column("")
    for name in ("calls", "NFE", "GFLOP", "seconds", "compile s"):
        table.add_column(name, justify="right")

    def add(label, rows):
        def total(field):
            return sum(row[field] for row in rows)

        table.add_row(
            label,
            f"{total('calls'):,}",
            f"{total('nfe'):,}" if total("nfe") else "",
            f"{total('flops') / 1e9:,.2f}" if total("flops") else "",
            f"{total('seconds'):,.2f}",
            f"{total('compile_seconds'):,.2f}",
        )

    searches = [ledger["search"] for ledger in ledgers]
    for name in dict.fromkeys(name for search in searches for name in search if name != "total"):
        add(name, [search[name] for search in searches if name in search])
    table.add_section()
    add("search in all", [search["total"] for search in searches])
    apart = [ledger["single_sample"]["total"] for ledger in ledgers if ledger["single_sample"]]
    if apart:
        add("single sample, apart", apart)
    return table


def print_files(console: Console, workdir: Path, prompts: int) -> None:
    """Where the results are."""
    folder = "prompts/0" if prompts == 1 else f"prompts/0 .. {prompts - 1}"
    console.print(f"[bold]{workdir / folder}[/]")
    console.print("  best.mp4  best.gif  contact_sheet.png  report.html  tree.json  ledger.json")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
