r"""Measures what parameters of fewer bits change: scores, choices and success on held-out captions.

python -m experiments.precision --captions=40 --branches=8 --output=precision.json
python -m experiments.precision --config=configs/embedded_nova.py --weights=float32,int8

The same paths, those of random linear search, are made and scored with the parameters of every
network held in each of the types. Verifiers are compared on the videos of the first type, which
tells what their own parameters change, and on the videos that each type makes. Writes all figures
as JSON, and prints them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from experiments import cli
from experiments.models import Models, open_search, read_world
from tts_jax import media, precision
from tts_jax.evaluation.selection import pick
from tts_jax.evaluation.statistics import bootstrap_interval
from tts_jax.report.progress import Bar
from tts_jax.search import Search, load_preset

TYPES = [name for name in precision.WEIGHTS if name != precision.STORED]


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_list(
        "weights",
        TYPES,
        "types of parameters; others are compared with the first",
        flag_values=values,
    )
    flags.DEFINE_integer("captions", 40, "held-out captions", 1, flag_values=values)
    flags.DEFINE_integer("branches", 8, "videos of each caption", 2, flag_values=values)
    flags.DEFINE_string("output", "precision.json", "the file to write", flag_values=values)


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    config, output, types = options.config, Path(options.output), options.weights
    if not output.absolute().parent.is_dir():
        raise cli.UsageError(f"the folder of --output={output} does not exist")
    if len(set(types)) < max(len(types), 2):
        raise cli.UsageError("--weights names two or more types, none of them twice")
    try:
        for weights in types:
            precision.check(weights)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    cli.use_compilation_cache()
    if (world := read_world(config)) is None:
        raise cli.UsageError("only a checkpoint of a captioned world can be graded")
    captions = world.sample_captions("test", options.captions, config.seed)
    console, measured = Console(highlight=False), {}
    with Bar(console, len(types) * len(captions)) as bar:
        for weights in types:

            def progress(count, weights=weights):
                bar.update(len(measured) * len(captions) + count, f"{weights}, caption {count}")

            first = next(iter(measured.values()), None)
            measured[weights] = measure(
                config, weights, captions, options.branches, first, progress
            )
    found = {
        "captions": len(captions),
        "branches": options.branches,
        "seed": config.seed,
        "types": compare(measured),
    }
    media.write_bytes(output, (json.dumps(found, indent=2) + "\n").encode())
    if not console.is_terminal:
        console.width = max(console.width, 120)
    _print(console, found)
    console.print(f"written to {output}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one type of parameters gives; P captions, N branches, V verifiers.

    Attributes:
      nbytes: of parameters, by part.
      verifiers: names.
      frames: [P, N, T, H, W, 3], the videos.
      scores: [P, N, V], of them.
      reference_scores: [P, N, V], of the videos of the first type.
      grades: [P, N, 2], success and share of facts.
      picked: [P], which branch the panel chooses.
    """

    nbytes: Mapping[str, int]
    verifiers: Sequence[str]
    frames: np.ndarray
    scores: np.ndarray
    reference_scores: np.ndarray
    grades: np.ndarray
    picked: np.ndarray


def measure(
    config: ConfigDict,
    weights: str,
    captions: Sequence[str],
    branches: int,
    first: Measured | None,
    progress=lambda count: None,
) -> Measured:
    """Makes, scores and grades the same branches of each caption with one type of parameters.

    Args:
      config: of an experiment.
      weights: the type.
      captions: P held-out ones.
      branches: N of each.
      first: what the first type gave; None if this is it.
      progress: is told how many captions are done.
    """
    config = config.copy_and_resolve_references()
    config.precision = ConfigDict({"weights": weights})
    models, search = open_search(config, captions, exact=config.evaluation.exact, drafts=False)
    scorers = {verifier.name: jax.jit(verifier.score) for verifier in models.panel.verifiers}
    rows = []
    for index, caption in enumerate(captions):
        rows.append(_branches(config, models, search, caption, index, branches))
        if first is not None:
            rows[-1]["reference_scores"] = _score(models, scorers, caption, first.frames[index])
        progress(index + 1)
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    stacked.setdefault("reference_scores", stacked["scores"])
    nbytes = {part.name: part.nbytes for part in models.memory.parts}
    return Measured(nbytes=nbytes, verifiers=models.panel.names, **stacked)


def _branches(
    config: ConfigDict, models: Models, search: Search, caption: str, index: int, branches: int
) -> dict[str, np.ndarray]:
    found = search.run(
        caption,
        load_preset(ConfigDict({"preset": "random_linear", "branches": branches})),
        seed=config.seed,
        prompt_index=index,
        stage_prompts=models.stage_prompts(caption),
        keep_frames=False,
    )
    nodes = sorted(found.candidates, key=lambda node: node.path)
    scores = np.array([[node.scores[n] for n in models.panel.names] for node in nodes])
    grades = [models.world.grade(node.frames, caption) for node in nodes]
    grades = np.array([[float(grade.success), grade.facts] for grade in grades])
    values = np.asarray(jax.jit(models.panel.value)(scores.astype(np.float32)))
    return {
        "frames": np.stack([node.frames for node in nodes]),
        "scores": scores,
        "grades": grades,
        "picked": np.array(pick(values, grades).picked),
    }


def _score(models: Models, scorers: Mapping, caption: str, frames: np.ndarray) -> np.ndarray:
    """Scores [N, V] of videos that are there already."""
    columns = []
    for verifier in models.panel.verifiers:
        params = models.verifier_params[verifier.name]
        query = jax.tree.map(lambda x: x[0], verifier.prepare(params, [caption]))
        columns.append(np.asarray(scorers[verifier.name](params, frames, query)))
    return np.stack(columns, -1)


def drift(scores: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How far scores of one verifier are from its reference.

    Args:
      scores, reference: [P, N], of N branches of P captions.

    Returns:
      `bias`, the mean difference; `mean` and `max`, of its size; `deviation`, the reference's
      standard deviation among branches, against which to see them; and `correlation`, of the ranks
      of branches (1 where neither side tells branches apart); both are means over captions.
    """
    difference = scores - reference
    return {
        "bias": float(difference.mean()),
        "mean": float(np.abs(difference).mean()),
        "max": float(np.abs(difference).max()),
        "deviation": float(reference.std(1).mean()),
        "correlation": float(np.mean([*map(_rank_correlation, scores, reference)])),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = np.stack([rankdata(a), rankdata(b)])
    flat = ranks.std(1) == 0
    if flat.any():
        return float(flat.all())
    return float(np.corrcoef(ranks)[0, 1])


def compare(measured: Mapping[str, Measured]) -> dict[str, dict]:
    """What every type gives, and how far it is from the first.

    Args:
      measured: by type.

    Returns:
      By type: `bytes` by part and in all; `frames`, the mean and the largest change of a colour;
      `same_winner`, the share of captions for which the panel chooses the branch that it chooses
      with the first type; `success` and `facts` of what it chooses, `oracle_success`, of the best
      of the branches; `verifiers`, by name the `drift` of scores of the `same_videos`, those of the
      first type, and of its `own_videos`. Shares have 95 % bootstrap intervals over captions.
    """
    reference, found = next(iter(measured.values())), {}
    for weights, own in measured.items():
        rows = np.arange(len(own.picked))
        shares = {
            "same_winner": own.picked == reference.picked,
            "success": own.grades[rows, own.picked, 0],
            "facts": own.grades[rows, own.picked, 1],
            "oracle_success": own.grades[..., 0].max(1),
        }
        change = np.abs(own.frames - reference.frames)
        found[weights] = {
            "bytes": {**own.nbytes, "all": sum(own.nbytes.values())},
            "frames": {"mean": float(change.mean()), "max": float(change.max())},
        }
        for name, values in shares.items():
            found[weights][name] = float(values.mean())
            found[weights][f"{name}_interval"] = bootstrap_interval(values)
        found[weights]["verifiers"] = {
            name: {
                "same_videos": drift(
                    own.reference_scores[..., i], reference.reference_scores[..., i]
                ),
                "own_videos": drift(own.scores[..., i], reference.scores[..., i]),
            }
            for i, name in enumerate(own.verifiers)
        }
    return found


def _print(console: Console, found: Mapping) -> None:
    title = f"{found['captions']} held-out captions, {found['branches']} branches of each"
    choices = Table(box=box.SIMPLE_HEAD, title=title)
    for name in ("weights", "MB", "change of a colour", "same winner", "success", "oracle success"):
        choices.add_column(name, justify="right" if choices.columns else "left", no_wrap=True)
    drifts = Table(box=box.SIMPLE_HEAD, title="drift of scores, in deviations among branches")
    columns = ("weights", "verifier", "videos", "mean", "max", "bias", "rank correlation")
    for name in columns:
        drifts.add_column(name, justify="left" if name in columns[:3] else "right", no_wrap=True)
    for weights, own in found["types"].items():

        def share(name, own=own):
            low, high = own[f"{name}_interval"]
            return f"{own[name]:.3f} [{low:.3f}, {high:.3f}]"

        choices.add_row(
            weights,
            f"{own['bytes']['all'] / 1e6:.2f}",
            f"{own['frames']['mean']:.4f}",
            *map(share, ("same_winner", "success", "oracle_success")),
        )
        for verifier, kinds in own["verifiers"].items():
            for kind, figures in kinds.items():
                unit = figures["deviation"] or 1.0
                drifts.add_row(
                    weights,
                    verifier,
                    kind.replace("_videos", ""),
                    *(f"{figures[name] / unit:.4f}" for name in ("mean", "max", "bias")),
                    f"{figures['correlation']:.4f}",
                )
    console.print(choices)
    console.print(drifts)


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
