"""A network of a published checkpoint: where its weights go, and what its `config.json` may say."""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from converters.core import Rules, Step, inspect
from converters.sources import ConversionError, Source, StoredTensor, read_json, scan
from tts_jax.checkpoints import abstract_params

# Fields that say where a file comes from, or how to train or to decode text, and change no output
# of a network at inference.
INERT = frozenset(
    """
    _class_name _diffusers_version _name_or_path _commit_hash architectures model_type dtype
    torch_dtype transformers_version attention_dropout dropout dropout_rate classifier_dropout
    hidden_dropout_prob initializer_factor initializer_range gradient_checkpointing use_cache
    use_flash_attn use_bfloat16 torchscript pruned_heads chunk_size_feed_forward finetuning_task
    problem_type id2label label2id output_attentions output_hidden_states return_dict
    return_dict_in_generate output_scores task_specific_params tokenizer_class prefix
    bad_words_ids begin_suppress_tokens suppress_tokens decoder_start_token_id diversity_penalty
    do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences remove_invalid_values
    repetition_penalty sep_token_id temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings top_k top_p typical_p is_decoder is_encoder_decoder add_cross_attention
    cross_attention_hidden_size bos_token_id pad_token_id
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network of a published checkpoint and its counterpart among ours.

    Attributes:
      build: makes the module of a config.
      published: the config of the published checkpoint.
      read: the config of a parsed `config.json`; a ValueError says what it cannot mean. None where
        no such file is published: then there is one config.
      rules, ignored: its conversion table; functions of the config where that decides.
      fixed: fields of `config.json` that may have one value only; nested ones with dots.
      inert: fields that change nothing, beside `INERT`.
      prepare: rearranges the published tensors before the table sees them.
      settle: the parsed `config.json` with what only the tensors tell; a ValueError says how they
        contradict it.
    """

    build: Callable[..., nnx.Module]
    published: Callable[[], Any]
    read: Callable[[Mapping], Any] | None
    rules: Rules | Callable[[Any], Rules]
    ignored: Mapping[str, str] | Callable[[Any], Mapping[str, str]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    prepare: Callable[[Mapping], dict] = dict
    settle: Callable[[Mapping, Mapping], dict] | None = None

    def abstract(self, config) -> tuple[nnx.GraphDef, dict]:
        """Graph and abstract parameters of a config."""
        return abstract_params(self.build, config)

    def table(self, config) -> Rules:
        """The conversion table of a config."""
        return self.rules(config) if callable(self.rules) else self.rules

    def left_out(self, config) -> Mapping[str, str]:
        """Tensors of a config's checkpoint that have no place in the model, with reasons."""
        return self.ignored(config) if callable(self.ignored) else self.ignored


class Opened(NamedTuple):
    """A component that has been read, but not converted.

    Attributes:
      fields: the parsed `config.json`.
      config, graph, like: our config of it, and the model's graph and abstract parameters; None
        when it could not be understood.
      tensors: by published name, as the table names them.
      steps: how they fill the parameters.
      faults: everything that is wrong; when there is anything, nothing else is of use.
    """

    fields: dict
    config: Any
    graph: nnx.GraphDef | None
    like: dict | None
    tensors: Mapping[str, StoredTensor]
    steps: list[Step]
    faults: list[str]


class Gathered(NamedTuple):
    """A component whose published files lie in several places, as if they were one checkpoint.

    Attributes:
      fields: of `config.json`; None if they are still to be read.
      source: all tensors.
      folders: that may hold the tokenizer, the most likely first; none if it has a place.
      component: whose table takes these names, if it is not the model's own.
      config: the file of the fields, if it is not in the component's folder.
    """

    fields: dict | None
    source: Source
    folders: tuple[Path, ...] = ()
    component: str | None = None
    config: Path | None = None


class Found(NamedTuple):
    """A published model whose files lie in several places.

    Attributes:
      parts: those that were gathered, by name.
      rest: where all others lie.
      settings: whether the model's files of settings lie there too.
    """

    parts: dict[str, Gathered]
    rest: Path
    settings: bool = True


def open_component(
    component: Component, config: Path, weights: Path | None, gathered: Gathered | None = None
) -> Opened:
    """Reads a component's config, and names, shapes and types of its tensors.

    Args:
      component: what it should be.
      config: the published `config.json`.
      weights: a file or folder of weights, see `converters.sources.scan`; None to leave them out.
      gathered: what was read already, of several places.
    """
    fields, ours, graph, like, faults = {}, None, None, None, []
    tensors, missing, steps = {}, [], []
    if weights is not None:
        tensors, missing = scan(weights) if gathered is None else gathered.source
    try:
        if component.read is not None:
            given = None if gathered is None else gathered.fields
            fields = read_json(config) if given is None else given
        if component.settle is not None and tensors:
            fields = component.settle(fields, tensors)
        ours, graph, like, wrong = interpret(component, fields)
        faults = [f"{config}: {fault}" for fault in wrong]
    except ConversionError as error:
        faults = [str(error)]
    except ValueError as error:
        faults = [f"{config}: {error}"]
    if weights is not None:
        faults += missing
        if tensors:
            try:
                tensors = component.prepare(tensors)
            except (ValueError, TypeError, IndexError) as error:
                faults.append(f"{weights}: {error}")
            else:
                if like is not None:
                    steps, misfits = inspect(
                        tensors, like, component.table(ours), component.left_out(ours)
                    )
                    faults += misfits
    return Opened(fields, ours, graph, like, tensors, steps, faults)


def interpret(component: Component, fields: Mapping) -> tuple[Any, Any, dict | None, list[str]]:
    """Our config of a published one, the model's graph and abstract parameters, and all faults."""
    seen = Fields(fields)
    faults = []
    for name, value in component.fixed.items():
        found = seen.find(name, value)
        if found != value:
            faults.append(f"{name} is {found!r}; the port supports {value!r} only")
    config = graph = like = None
    try:
        config = component.published() if component.read is None else component.read(seen)
        if wrong := list(mistyped(config)):
            raise ConversionError(", ".join(wrong))
        graph, like = component.abstract(config)
    except KeyError as error:
        faults.append(f"field {error} is missing")
    except Exception as error:  # any value can stand in the file, and fail anywhere in the model
        reason = " ".join(str(error).split()) or type(error).__name__
        faults.append(f"describes no model that the port knows: {reason[:300]}")
    else:
        unknown = sorted(seen.unread(INERT | component.inert))
        faults += [f"field {name!r} is unknown" for name in unknown]
    return config, graph, like, faults


def mistyped(config) -> Iterator[str]:
    """What in a config, a dataclass, is not of the type that its class declares."""
    for name, declared in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from mistyped(value)
        elif not _is_of(value, declared):
            yield f"{name} cannot be {value!r}"


def _is_of(value, declared) -> bool:
    kinds = typing.get_args(declared)
    if typing.get_origin(declared) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, kinds[0]) for item in value)
    if kinds:
        return any(_is_of(value, kind) for kind in kinds)
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, declared)


class Fields(Mapping):
    """A parsed JSON object that knows which of its fields were asked for."""

    def __init__(self, values: Mapping):
        self._values = {
            name: Fields(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }
        self._seen: set[str] = set()

    def __getitem__(self, name: str):
        self._seen.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name) -> bool:
        return name in self._values

    def find(self, path: str, default):
        """The value at a path of names joined by dots."""
        value = self
        for name in path.split("."):
            if not isinstance(value, Fields) or name not in value:
                return default
            value = value[name]
        return value

    def unread(self, inert: frozenset[str]) -> Iterator[str]:
        """Paths of the fields that nobody asked for and that are not in `inert`."""
        for name, value in self._values.items():
            if name in self._seen and isinstance(value, Fields):
                yield from (f"{name}.{inner}" for inner in value.unread(inert))
            elif name not in self._seen and name not in inert:
                yield name


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
