"""A config's generator, verifiers and world, loaded and ready to search with."""

import contextlib
import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.cli import UsageError, user_cache
from experiments.memory import MemoryPlan
from experiments.processes import devices_for, share
from tts_jax import precision
from tts_jax.checkpoints import CheckpointError
from tts_jax.generators import EMBEDDED, load_generator, open_generator
from tts_jax.generators.protocol import Generator
from tts_jax.language.stage_prompts import StagePrompts, load_stage_prompts
from tts_jax.parallel import devices_of_a_model, divides_branches_only, make_mesh, place
from tts_jax.planning.published import published_generator, published_verifier
from tts_jax.search import (
    Search,
    SearchConfigError,
    encode_prompts,
    load_preset,
    outline_of,
    plan,
)
from tts_jax.search.executables import Executables, surroundings
from tts_jax.verifiers import TRAINED, VBENCH, WEIGHT_FREE, load_verifier, open_verifier
from tts_jax.verifiers.panel import Panel
from tts_jax.verifiers.protocol import Verifier

WORLDS = ("moving_shapes",)

# Settings that decide what the programs of a search compute.
PROGRAM_SETTINGS = "generator", "verifiers", "panel", "precision", "mesh", "micro_batch"

# Fields of an entry of `config.verifiers`, with what they are if they are left out.
VERIFIER = dict(
    name="", checkpoint="embedded", weight=1.0, floor=None, held_out=False, texts="", options={}
)


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a search needs of the models.

    Attributes:
      generator, generator_params: the video model.
      panel, verifier_params: the verifiers, and their parameters by name.
      world: the module of the captioned world the generator was trained on, which grades, or None.
      stage_prompts: splits a prompt for the verifiers of each stage.
      memory: what is held when.
      conditions: of the prompts that were encoded, see `tts_jax.search.encode_prompts`.
      mesh: that they are for; that of the config if None.
    """

    generator: Generator
    generator_params: dict
    panel: Panel
    verifier_params: dict[str, dict]
    world: ModuleType | None
    stage_prompts: StagePrompts
    memory: MemoryPlan = field(default_factory=MemoryPlan)
    conditions: Mapping = field(default_factory=dict)
    mesh: Mesh | None = None

    def check(self, prompts: Sequence[str]) -> None:
        """Refuses prompts that the models cannot take, before anything is computed.

        Raises:
          PromptError: an unknown word, or too many words.
          UsageError: known words in another order than the world's captions.
        """
        _check([self.generator, *self.panel.verifiers], self.world, prompts)


def _check(models: Sequence, world: ModuleType | None, prompts: Sequence[str]) -> None:
    for tokenizer in (getattr(model, "tokenizer", None) for model in models):
        if tokenizer is not None:
            tokenizer.tokenize(prompts)
    if world is not None:
        for prompt in prompts:
            try:
                world.parse(prompt)
            except ValueError as error:
                raise UsageError(str(error)) from error


def _makes_drafts(config: Mapping, generator: Generator) -> bool:
    try:
        rounds = plan(load_preset(config.search), outline_of(generator)).rounds
    except (TypeError, SearchConfigError):  # the program says so before it searches
        return False
    return any(r.fidelity == "draft" for r in rounds)


def weights_of(config: Mapping) -> str:
    """In what type a config holds the parameters of every network, see `tts_jax.precision`.

    Raises:
      ValueError: an unknown type, or one that cannot be had here.
    """
    weights = config.get("precision", {}).get("weights", precision.STORED)
    precision.check(weights)
    return weights


def _stages(config: Mapping, world: ModuleType | None) -> dict:
    """Settings of stage prompts, in which a language model's answers are kept by default."""
    stages = config.get("stage_prompts", {"source": "world" if world else "prompt"})
    cache = stages.get("cache") or str(user_cache() / "tts_jax" / "stages")
    return {**stages, "cache": cache, "weights": weights_of(config)}


def mesh_of(config: ConfigDict, prompts: int | None = None) -> Mesh:
    """The mesh of a config, in this process or in all of them.

    Args:
      config: of an experiment. Where `mesh.model` is 0, it is what its models need: see `axes_of`.
      prompts: how many there are to divide over processes; None for enough.

    Raises:
      MeshError: the machine has not so many devices.
    """
    axes = dict(config.mesh)
    if axes.get("model") == 0:
        axes["model"] = 1  # where memory is not known or there is nothing to divide
        if (memory := _device_memory()) and jax.device_count() > 1:
            with contextlib.suppress(UsageError, CheckpointError):  # loading says what is wrong
                opened = open_models(config, jnp.bfloat16)
                axes = axes_of(config, opened, memory, jax.device_count())
    return make_mesh(**axes, devices=devices_for(axes, prompts))


def _device_memory() -> int | None:
    """Bytes of a device, where it says so: accelerators do."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def axes_of(config: ConfigDict, opened: tuple, memory: int, devices: int) -> dict[str, int]:
    """Sizes of a config's mesh, with a number for `model` where it is 0.

    Args:
      config: of an experiment.
      opened: its models, from `open_models`.
      memory: bytes of a device.
      devices: how many there are.

    Returns:
      What `make_mesh` takes. `model` is the fewest devices that hold the parameters and leave a
      search room, see `tts_jax.parallel.devices_of_a_model`.
    """
    axes = dict(config.mesh)
    if axes.get("model") == 0:
        generator, params, _, verifier_params = opened
        texts = getattr(generator, "text_parts", ())
        parts = {name: own for name, own in params.items() if name not in texts}
        free = devices // max(1, axes["branch"] * axes["sequence"])
        sizes = _nbytes((parts, verifier_params)), _nbytes(params)
        axes["model"] = devices_of_a_model(*sizes, memory, max(free, 1))
    return axes


def _nbytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def load_models(
    config: Mapping,
    prompts: Sequence[str] | None = None,
    *,
    mesh: Mesh | None = None,
    dry: bool = False,
    drafts: bool | None = None,
) -> Models:
    """Loads what `config.generator`, `config.verifiers` and `config.panel` name.

    Args:
      config: of an experiment.
      prompts: all that this process may search for, if they are known. A language model then
        splits them before the generator is loaded, and the generator encodes them before the
        verifiers are; the language model and the text encoders are freed.
      mesh: of the search; that of the config in this process if None.
      dry: whether no search follows, so that the language model is not asked and one prompt is
        encoded.
      drafts: whether a search may draft videos, which has conditions of its own; None if
        `config.search` says so.

    Raises:
      UsageError: a name, a number or a combination that does not exist.
      CheckpointError: a checkpoint that is missing, unreadable or of another shape.
    """
    fields = dict(config.generator)
    name, checkpoint = fields.pop("name"), _checkpoint(fields.pop("checkpoint"))
    entries = [_entry(entry) for entry in config.verifiers]
    mesh = mesh or mesh_of(config)
    memory, conditions = MemoryPlan(mesh), {}
    # What is divided is read onto the devices that hold it; a copy for each is made in the search.
    placing = {} if divides_branches_only(mesh) else {"place": partial(place, mesh=mesh)}
    try:
        world = read_world(config)
        loading = {**placing, "weights": weights_of(config)}
        stage_prompts = load_stage_prompts(_stages(config, world), world)
        if (decoder := stage_prompts.decoder) is not None:
            memory.add("language model", decoder.held_params, "stage prompts", divided=False)
            for prompt in () if dry else prompts or ():
                stage_prompts(prompt)
            stage_prompts.release()
        generator, generator_params = load_generator(name, checkpoint, **fields, **loading)
        texts = getattr(generator, "text_parts", ()) if prompts is not None else ()
        for part, params in generator_params.items():
            memory.add(f"{name}: {part}", params, "text", *(() if part in texts else ("search",)))
        if prompts is not None:
            _check([generator], world, prompts)
            if drafts is None:
                drafts = _makes_drafts(config, generator)
            own = prompts[:1] if dry else prompts
            conditions = encode_prompts(generator, generator_params, own, drafts=drafts)
            generator_params = {n: p for n, p in generator_params.items() if n not in texts}
        loaded = [
            load_verifier(
                e["name"], _checkpoint(e["checkpoint"]), e["texts"], _options(e, config), **loading
            )
            for e in entries
        ]
        _warn_of_yardsticks(entries)
        panel = _panel(config, [verifier for verifier, _ in loaded])
        for verifier, params in loaded:
            memory.add(verifier.name, params, "search")
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Models(
        generator=generator,
        generator_params=generator_params,
        panel=panel,
        verifier_params={verifier.name: params for verifier, params in loaded},
        world=world,
        stage_prompts=stage_prompts,
        memory=memory,
        conditions=conditions,
        mesh=mesh,
    )


def open_models(config: Mapping, dtype) -> tuple[Generator, dict, Panel, dict[str, dict]]:
    """What `load_models` loads, with shapes in the place of parameters, for plans.

    Args:
      config: of an experiment.
      dtype: of the parameters of converted checkpoints, unless the config has another. Where there
        is no folder, the published model of that name is meant.

    Returns:
      The generator and its parameters' shapes, the panel and those of each verifier.

    Raises:
      UsageError: a name or a number that does not exist.
      CheckpointError: a folder that holds something else.
    """
    fields = dict(config.generator)
    name, checkpoint = fields.pop("name"), _checkpoint(fields.pop("checkpoint"))
    try:
        if checkpoint is None or checkpoint.is_dir():
            generator = open_generator(name, checkpoint, **fields)
        else:
            fields.pop("image", None)
            generator = published_generator(name, checkpoint, **fields)
        weights = weights_of(config)
        params = _shapes(generator.abstract_params, None if checkpoint is None else dtype)
        verifiers, verifier_params = [], {}
        for entry in map(_entry, config.verifiers):
            verifier, own = _open_verifier(entry, config, dtype)
            verifiers.append(verifier)
            held = weights if not verifier.name.startswith(VBENCH) else precision.STORED
            verifier_params[verifier.name] = precision.hold(own, held)
        params = precision.hold(params, weights)
        return generator, params, _panel(config, verifiers), verifier_params
    except ValueError as error:
        raise UsageError(str(error)) from error


def _open_verifier(entry: Mapping, config: Mapping, dtype) -> tuple[Verifier, dict]:
    name, folder = entry["name"], _checkpoint(entry["checkpoint"])
    here = folder is None or folder.is_dir() or name in WEIGHT_FREE or name.startswith(VBENCH)
    if here:
        verifier = open_verifier(name, folder, entry["texts"], _options(entry, config))
    else:
        verifier = published_verifier(name, entry["options"])
    kept = name in TRAINED or name.startswith(VBENCH)
    stored = None if folder is None or kept else dtype
    return verifier, _shapes(getattr(verifier, "abstract_params", {}), stored)


def _shapes(tree: Mapping, dtype) -> dict:
    """Shapes of parameters, floating-point ones in another type if one is given."""

    def shape(x):
        convert = dtype is not None and jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(x.shape, dtype if convert else x.dtype)

    return jax.tree.map(shape, tree)


def _panel(config: Mapping, verifiers: Sequence[Verifier]) -> Panel:
    entries = [_entry(entry) for entry in config.verifiers]
    return Panel(
        verifiers,
        [float(e["weight"]) for e in entries],
        config.panel.aggregation,
        guards={e["name"]: e["floor"] for e in entries if e["floor"] is not None},
        held_out=[e["name"] for e in entries if e["held_out"]],
    )


def load_search(config: ConfigDict, models: Models, exact: bool | None = None) -> Search:
    """The models on the mesh of a config; `exact` as in `Search`.

    Raises:
      UsageError: a folder of executables that cannot be had.
    """
    mesh = models.mesh or mesh_of(config)
    return Search(
        models.generator,
        models.generator_params,
        models.panel,
        models.verifier_params,
        mesh=mesh,
        micro_batch=config.micro_batch,
        exact=exact,
        conditions=models.conditions,
        executables=_executables(config, mesh, exact),
    )


def _executables(config: ConfigDict, mesh: Mesh, exact: bool | None) -> Executables | None:
    """The folder of executables that a config names, if any."""
    folder = config.get("executables", "")
    if not folder:
        return None
    if jax.process_count() > 1:
        raise UsageError("config.executables is for runs of one process")
    settings = json.loads(config.to_json())
    wanted = {name: settings.get(name) for name in PROGRAM_SETTINGS}
    try:
        return Executables(folder, mesh, surroundings({**wanted, "exact": exact}, mesh))
    except OSError as error:
        raise UsageError(f"config.executables={folder} cannot be used: {error.strerror}") from error


def open_search(
    config: ConfigDict,
    prompts: Sequence[str],
    *,
    exact: bool | None = None,
    dry: bool = False,
    drafts: bool | None = None,
    shared: bool = False,
) -> tuple[Models, Search]:
    """The way of every program from its prompts to a search; see `load_models`, `Search`.

    Text comes first: what reads and encodes the prompts is loaded, used and freed before the
    verifiers are loaded.

    Args:
      config: of an experiment.
      prompts: all that will be searched for.
      exact: as of `Search`.
      dry, drafts: as of `load_models`.
      shared: whether processes divide these prompts, or their branches, see
        `experiments.processes`; otherwise each may search for any.

    Raises:
      UsageError, CheckpointError: as of `load_models`.
      PromptError: a prompt that a model cannot take.
    """
    mesh = mesh_of(config, len(prompts) if shared else None)
    own = [prompts[index] for index in share(mesh, len(prompts))] if shared else prompts
    models = load_models(config, own, mesh=mesh, dry=dry, drafts=drafts)
    models.check(prompts)
    return models, load_search(config, models, exact)


def _entry(given: Mapping) -> dict:
    """A verifier's settings, those left out with their defaults.

    Raises:
      UsageError: no name, or a field that no verifier has.
    """
    given = dict(given)
    faults = [f"unknown field {name!r}" for name in given if name not in VERIFIER]
    faults += ["no name"] * ("name" not in given)
    if faults:
        raise UsageError(
            f"an entry of config.verifiers has {faults[0]}; the fields are {', '.join(VERIFIER)}"
        )
    return {**VERIFIER, **given}


def _options(entry: Mapping, config: Mapping) -> dict:
    """A verifier's options; VBench's dimensions count the frames of files of the config's rate."""
    options = dict(entry["options"])
    if not entry["name"].startswith(VBENCH):
        return options
    fps = config["video"]["fps"]
    if options.setdefault("fps", fps) != fps:
        raise UsageError(
            f"{entry['name']} is told of {options['fps']} frames a second, but config.video.fps, "
            f"with which files are written, is {fps}"
        )
    return options


def _warn_of_yardsticks(entries: Sequence[Mapping]) -> None:
    names = [e["name"] for e in entries if e["name"].startswith(VBENCH) and not e["held_out"]]
    if names:
        from tts_jax.evaluation.vbench.verifier import WARNING

        warnings.warn(WARNING.format(", ".join(names)), stacklevel=3)


def _checkpoint(value: str) -> Path | None:
    return None if value in ("", "embedded") else Path(value)


def read_world(config: Mapping) -> ModuleType | None:
    """The module of the captioned world that a config's generator was trained on, if any.

    Raises:
      UsageError: a world that does not exist.
      CheckpointError: no such checkpoint.
    """
    path = (_checkpoint(config.generator.checkpoint) or EMBEDDED) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    name = json.loads(path.read_text()).get("world")
    if name is not None and name not in WORLDS:
        raise UsageError(f"the checkpoint's world {name!r} is none of {', '.join(WORLDS)}")
    return name and importlib.import_module(f"tts_jax.worlds.{name}")
