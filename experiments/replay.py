r"""Makes one branch of a finished run again, from its path alone.

python -m experiments.replay --run=runs/embedded-20260101-120000 --prompt_index=0 --path=2,0,0,0,0
python -m experiments.replay --run=RUN --path=5 --output=pruned.mp4

A path that was pruned, or drafted, is made in full, and goes on to its end by the first child of
each segment. The page of a run
(report.html) gives the command of every branch. Writes an mp4 with the settings of the run.
"""

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from experiments import cli
from experiments.models import load_models, load_search
from tts_jax import media
from tts_jax.search import Outline, paths


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string("run", None, "the run directory", flag_values=values)
    flags.DEFINE_integer("prompt_index", 0, "which of its prompts", flag_values=values)
    flags.DEFINE_string("path", None, "the branch, as in tree.json: 2,0,0", flag_values=values)
    flags.DEFINE_string(
        "output", None, "the file (default: replay-<path>.mp4 here)", flag_values=values
    )


def main(options: flags.FlagValues) -> None:
    """Runs the program."""
    if not options.run or options.path is None:
        raise cli.UsageError("give a run with --run=DIR and a branch with --path=2,0,0")
    config, prompts = read_run(Path(options.run))
    if not 0 <= options.prompt_index < len(prompts):
        raise cli.UsageError(
            f"--prompt_index={options.prompt_index} is not in 0..{len(prompts) - 1}"
        )
    path = read_path(options.path)
    cli.use_compilation_cache()
    models = load_models(config)
    search = load_search(config, models)
    whole = completed(path, search.outline)
    output = Path(options.output or f"replay-{'-'.join(map(str, whole))}.mp4".replace(" ", "_"))
    if not output.absolute().parent.is_dir():
        raise cli.UsageError(f"the folder of --output={output} does not exist")
    prompt = prompts[options.prompt_index]
    video = search.replay(prompt, whole, seed=config.seed, prompt_index=options.prompt_index)
    media.write_mp4(output, video.frames, **config.video)
    Console(highlight=False).print(f"{prompt}\npath {paths.to_json(whole)}: {output}")


def read_run(folder: Path) -> tuple[ConfigDict, list[str]]:
    """A run's settings and its prompts.

    Raises:
      UsageError: it is no run, or cannot be read.
    """
    try:
        settings = json.loads((folder / "config.json").read_bytes())
        return ConfigDict(settings), list(settings.pop("prompts"))
    except OSError as error:
        raise cli.UsageError(f"run {folder} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        raise cli.UsageError(f"{folder / 'config.json'} is not the config of a run") from error


def read_path(text: str) -> paths.Path:
    """A path of a command line, its steps separated by commas.

    Raises:
      UsageError: a step that is none.
    """
    steps = [step.strip() for step in text.split(",") if step.strip()]
    try:
        return paths.from_json([int(step) if step.isdigit() else step for step in steps])
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def completed(path: paths.Path, outline: Outline) -> paths.Path:
    """The path, on to its end by first children."""
    return (*path, *[0] * (outline.num_segments - paths.depth(path)))


if __name__ == "__main__":
    sys.exit(cli.run(main, doc=__doc__, define=define))
