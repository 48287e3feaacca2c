"""A config's generator, verifiers and world, loaded and ready to search with."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from experiments.cli import UsageError
from tts_jax.checkpoints import flatten
from tts_jax.generators import EMBEDDED, load_generator
from tts_jax.generators.protocol import Generator
from tts_jax.language.stage_prompts import StagePrompts, load_stage_prompts
from tts_jax.parallel import branch_mesh
from tts_jax.search import Search
from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.panel import Panel

WORLDS = ("moving_shapes",)


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a search needs of the models.

    Attributes:
      generator, generator_params: the video model.
      panel, verifier_params: the verifiers, and their parameters by name.
      world: the module of the captioned world the generator was trained on, which grades, or None.
      stage_prompts: splits a prompt for the verifiers of each stage.
    """

    generator: Generator
    generator_params: dict
    panel: Panel
    verifier_params: dict[str, dict]
    world: ModuleType | None
    stage_prompts: StagePrompts

    def check(self, prompts: Sequence[str]) -> None:
        """Refuses prompts that the models cannot take, before anything is computed.

        Raises:
          PromptError: an unknown word, or too many words.
          UsageError: known words in another order than the world's captions.
        """
        tokenizers = [self.generator, *self.panel.verifiers]
        for tokenizer in (getattr(model, "tokenizer", None) for model in tokenizers):
            if tokenizer is not None:
                tokenizer.tokenize(prompts)
        if self.world is not None:
            for prompt in prompts:
                try:
                    self.world.parse(prompt)
                except ValueError as error:
                    raise UsageError(str(error)) from error


def load_models(config: Mapping) -> Models:
    """Loads what `config.generator`, `config.verifiers` and `config.panel` name.

    Raises:
      UsageError: a name, a number or a combination that does not exist.
      CheckpointError: a checkpoint that is missing, unreadable or of another shape.
    """
    fields = dict(config.generator)
    name, checkpoint = fields.pop("name"), _checkpoint(fields.pop("checkpoint"))
    try:
        generator, generator_params = load_generator(name, checkpoint, **fields)
        loaded = [
            load_verifier(entry["name"], _checkpoint(entry["checkpoint"]))
            for entry in config.verifiers
        ]
        panel = Panel(
            [verifier for verifier, _ in loaded],
            [float(entry["weight"]) for entry in config.verifiers],
            config.panel.aggregation,
            guards={
                verifier.name: entry["floor"]
                for (verifier, _), entry in zip(loaded, config.verifiers, strict=True)
                if entry.get("floor") is not None
            },
            held_out=[
                verifier.name
                for (verifier, _), entry in zip(loaded, config.verifiers, strict=True)
                if entry.get("held_out")
            ],
        )
        world = _world(checkpoint)
        stages = config.get("stage_prompts", {"source": "world" if world else "prompt"})
        stage_prompts = load_stage_prompts(stages, world)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Models(
        generator=generator,
        generator_params=generator_params,
        panel=panel,
        verifier_params={verifier.name: params for verifier, params in loaded},
        world=world,
        stage_prompts=stage_prompts,
    )


def load_search(config: ConfigDict, models: Models, exact: bool | None = None) -> Search:
    """The models on the mesh of a config; `exact` as in `Search`."""
    return Search(
        models.generator,
        models.generator_params,
        models.panel,
        models.verifier_params,
        mesh=branch_mesh(config.mesh.branch),
        micro_batch=config.micro_batch,
        exact=exact,
    )


def _checkpoint(value: str) -> Path | None:
    return None if value in ("", "embedded") else Path(value)


def _world(checkpoint: Path | None) -> ModuleType | None:
    fields = json.loads(((checkpoint or EMBEDDED) / "config.json").read_text())
    name = fields.get("world")
    if name is not None and name not in WORLDS:
        raise UsageError(f"the checkpoint's world {name!r} is none of {', '.join(WORLDS)}")
    return name and importlib.import_module(f"tts_jax.worlds.{name}")


def parameter_count(params: Mapping) -> int:
    """Numbers in a nested parameter dictionary."""
    return sum(leaf.size for leaf in flatten(params).values())
