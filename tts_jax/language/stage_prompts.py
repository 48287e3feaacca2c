"""A prompt in three: the static scene, the action, and the ending, each judged at its stage.

The idea is Video-T1's hierarchical prompting (arXiv 2503.18942). The three texts come from the
grammar of a captioned world, from a file, or from a language model: a converted checkpoint, or a
function that the user plugs in. Where a model gives no usable answer, the whole prompt stands at
every stage, with a warning.
"""

import hashlib
import importlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tts_jax.language.chat import LanguageModel
from tts_jax.language.tokenizer import PromptError
from tts_jax.media import write_bytes

SOURCES = ("world", "file", "model", "decoder", "prompt")
ATTEMPTS = 3

Stages = tuple[str, str, str]
_KEYS = ("scene", "action", "ending")

INSTRUCTION = """\
Split a description of a short video into what can be seen at three moments of it.

- "scene": the first frame as a still picture. Name the place and everything that is visible, with
  its looks and its position; name no motion and nothing that appears later.
- "action": the middle of the video. Say what moves or changes, how, and in which direction.
- "ending": the last frame, after the action. Name what is visible then, and where.

Each is one English sentence that can be understood without the others. Use only what the
description says or plainly implies. Answer with one JSON object that has exactly the keys "scene",
"action" and "ending", each a text, and with nothing before or after it.

Description: {prompt}
"""

CORRECTION = """
An earlier answer could not be used: {fault}. Answer again, with the JSON object alone.
"""


class StagePromptError(PromptError):
    """A prompt without stages, or a source of stages that cannot be used; one sentence."""


class World(Protocol):
    """A captioned world, as far as stages go."""

    def stage_prompts(self, prompt: str) -> Stages:
        """The three texts of a caption; ValueError for one outside the world's grammar."""


class StagePrompts:
    """Finds a prompt's stages once and remembers them.

    Attributes:
      calls: of the language model so far, repeated attempts included.
      seconds: that they took.
      decoder: the converted checkpoint behind it, if it is one.
    """

    def __init__(
        self,
        split: Callable[[str], Stages],
        model: "StageModel | None" = None,
        decoder: LanguageModel | None = None,
    ):
        """Wraps a source.

        Args:
          split: prompt to stages.
          model: the language model behind it, whose cost is to be known.
          decoder: the converted checkpoint behind that.
        """
        self._split, self._model, self.decoder = split, model, decoder
        self._known: dict[str, Stages] = {}
        self._spent: dict[str, tuple[int, float]] = {}

    def __call__(self, prompt: str) -> Stages:
        """The texts for the verifiers of each stage.

        Args:
          prompt: what the video shall show.

        Returns:
          Static scene, action and ending.

        Raises:
          StagePromptError: the source has none for this prompt.
        """
        if prompt not in self._known:
            calls, seconds = self.calls, self.seconds
            self._known[prompt] = self._split(prompt)
            self._spent[prompt] = self.calls - calls, self.seconds - seconds
        return self._known[prompt]

    @property
    def calls(self) -> int:
        return self._model.calls if self._model else 0

    @property
    def seconds(self) -> float:
        return self._model.seconds if self._model else 0.0

    def spent(self, prompt: str) -> tuple[int, float]:
        """Language model calls and seconds that a prompt's stages took; nothing if not asked."""
        return self._spent.get(prompt, (0, 0.0))

    def release(self) -> None:
        """Frees the memory of the language model; what is known stays."""
        if self.decoder is not None:
            self.decoder.release()


class StageModel:
    """A language model that splits prompts, given as a function from text to text.

    A search can only be repeated if the same text always gets the same answer, so the function
    should decode greedily or with a seed of its own. An answer that is not what was asked for is
    asked for again, with what was wrong with it; the attempts are bounded. After the last one the
    whole prompt stands at every stage, with a warning.

    Attributes:
      calls: so far.
      seconds: that they took.
    """

    def __init__(
        self,
        name: str,
        complete: Callable[[str], str],
        attempts: int = ATTEMPTS,
        cache: Path | None = None,
        identity: str = "",
    ):
        """Wraps the function.

        Args:
          name: for messages.
          complete: text to text.
          attempts: calls for one prompt at most.
          cache: a folder of a file for each prompt that was asked about; None for no such folder.
          identity: differs between models whose answers are kept in the same folder.
        """
        self.name, self.calls, self.seconds = name, 0, 0.0
        self._complete, self._attempts, self._cache = complete, attempts, cache
        self._identity = identity or name

    def __call__(self, prompt: str) -> Stages:
        """A prompt's stages; the model is asked if the cache does not hold them.

        Raises:
          StagePromptError: the model failed, or the cache cannot be written.
        """
        entry = self._cached(prompt)
        if entry is None:
            entry = self._asked(prompt)
            self._keep(prompt, entry)
        if entry["fault"]:
            warnings.warn(
                f"stage-prompt model {self.name} gave no usable answer for {prompt!r} in "
                f"{self._attempts} attempts, so the whole prompt stands at every stage; the last "
                f"fault: {entry['fault']}",
                stacklevel=2,
            )
        return tuple(entry["stages"])

    def _place(self, prompt: str) -> Path:
        """The file of a prompt, which depends on all that the answer depends on."""
        about = json.dumps([self._identity, INSTRUCTION, CORRECTION, self._attempts, prompt])
        return self._cache / f"{hashlib.sha256(about.encode()).hexdigest()}.json"

    def _cached(self, prompt: str) -> dict | None:
        """What was kept of a prompt; a damaged file is as good as none."""
        if self._cache is None or not self._place(prompt).is_file():
            return None
        try:
            entry = json.loads(self._place(prompt).read_bytes())
            _stages(entry["stages"])
            return entry if isinstance(entry["fault"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, prompt: str, entry: Mapping) -> None:
        if self._cache is None:
            return
        place = self._place(prompt)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, json.dumps({"prompt": prompt, **entry}, indent=2).encode())
        except OSError as error:
            raise StagePromptError(
                f"the cache of stage prompts {self._cache} cannot be written: {error}"
            ) from error

    def _asked(self, prompt: str) -> dict:
        """The model's stages; or the prompt for each, with the fault of the last answer."""
        question = asked = INSTRUCTION.format(prompt=prompt)
        fault = ""
        for _ in range(self._attempts):
            answer = self._ask(asked, prompt)
            try:
                return {"stages": parse_answer(answer), "fault": ""}
            except StagePromptError as error:
                fault = str(error)
                asked = question + CORRECTION.format(fault=fault)
        return {"stages": (prompt,) * len(_KEYS), "fault": fault}

    def _ask(self, question: str, prompt: str) -> str:
        start = time.perf_counter()
        try:
            answer = self._complete(question)
        except Exception as error:
            raise StagePromptError(
                f"stage-prompt model {self.name} failed on {prompt!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start
        if not isinstance(answer, str):
            raise StagePromptError(
                f"stage-prompt model {self.name} gave {type(answer).__name__}, not a text"
            )
        return answer


def parse_answer(answer: str) -> Stages:
    """Reads a model's answer: the JSON object asked for, bare or in one fenced block.

    Raises:
      StagePromptError: anything else; the message says what is wrong.
    """
    fenced = re.fullmatch(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", answer, re.DOTALL)
    try:
        entry = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_no_key_twice)
    except ValueError as error:
        raise StagePromptError(f"it is not one JSON object ({error})") from error
    if not isinstance(entry, dict):
        raise StagePromptError("it is JSON, but no object")
    if set(entry) != set(_KEYS):
        raise StagePromptError(f"its keys are {sorted(entry)}, not {list(_KEYS)}")
    return _stages([entry[key] for key in _KEYS])


def read_stage_file(path: Path | str) -> dict[str, Stages]:
    """Reads stages written down beforehand.

    Args:
      path: JSON, either `{prompt: [scene, action, ending]}` or a list of
        `{"prompt": ..., "stages": [scene, action, ending]}`; "prompt_en" may stand for "prompt",
        so that a VBench list needs only the stages added. Runs of blanks count as one.

    Raises:
      StagePromptError: the file cannot be read, has another form, or names a prompt twice.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise StagePromptError(
            f"stage prompts file {path} cannot be read: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise StagePromptError(f"stage prompts file {path} is not JSON: {error}") from error
    if not isinstance(entries, (dict, list)) or not entries:
        raise StagePromptError(f"stage prompts file {path} holds no prompt")
    pairs = entries.items() if isinstance(entries, dict) else map(_listed, entries)
    stages: dict[str, Stages] = {}
    for number, (prompt, texts) in enumerate(pairs):
        where = f"entry {number} of stage prompts file {path}"
        if not isinstance(prompt, str) or not prompt.strip():
            raise StagePromptError(f'{where} is no {{"prompt": ..., "stages": [...]}}')
        try:
            found = _stages(texts)
        except StagePromptError as error:
            raise StagePromptError(f"{where}: {error}") from error
        if stages.setdefault(_one_line(prompt), found) != found:
            raise StagePromptError(f"{where} gives {prompt!r} other stages than an earlier one")
    return stages


def load_stage_prompts(config: Mapping[str, Any], world: World | None = None) -> StagePrompts:
    """The source that a configuration names.

    Args:
      config: `source`: "world", the grammar of the captioned world; "file", what `path` holds, see
        `read_stage_file`; "model", a function from text to text that `model` names as
        "package.module:function"; "decoder", the language model whose converted checkpoint lies at
        `path`, with its answers kept in the folder `cache` if one is named and its parameters held
        as `weights` says, see `tts_jax.precision`; "prompt", the prompt itself at every stage.
      world: module of the captioned world that the generator was trained on, or None.

    Raises:
      StagePromptError: an unknown source, or one that lacks what it needs.
      CheckpointError: a checkpoint that holds no language model.
    """
    source = config.get("source", "world")
    if source not in SOURCES:
        raise StagePromptError(f"stage prompts source {source!r} is none of {', '.join(SOURCES)}")
    if source == "prompt":
        return StagePrompts(lambda prompt: (prompt, prompt, prompt))
    if source == "world":
        return StagePrompts(_from_world(world))
    if source == "file":
        path = config.get("path", "")
        if not path:
            raise StagePromptError('stage prompts source "file" needs a path')
        return StagePrompts(_from_file(path))
    if source == "decoder":
        path, cache = config.get("path", ""), config.get("cache", "")
        if not path:
            raise StagePromptError('stage prompts source "decoder" needs a path')
        decoder = LanguageModel(path, weights=config.get("weights", "stored"))
        cache = Path(cache) if cache else None
        model = StageModel(str(path), decoder, cache=cache, identity=decoder.identity)
        return StagePrompts(model, model, decoder)
    name = config.get("model", "")
    if not name:
        raise StagePromptError('stage prompts source "model" needs a model')
    model = StageModel(name, _import(name))
    return StagePrompts(model, model)


def _from_world(world: World | None) -> Callable[[str], Stages]:
    if world is None:
        raise StagePromptError(
            "the generator has no captioned world that could split prompts: choose the source "
            "file, model or prompt"
        )

    def split(prompt: str) -> Stages:
        try:
            return _stages(list(world.stage_prompts(prompt)))
        except ValueError as error:
            raise StagePromptError(str(error)) from error

    return split


def _from_file(path: str) -> Callable[[str], Stages]:
    known = read_stage_file(path)

    def split(prompt: str) -> Stages:
        if _one_line(prompt) not in known:
            raise StagePromptError(f"stage prompts file {path} has no entry for {prompt!r}")
        return known[_one_line(prompt)]

    return split


def _import(name: str) -> Callable[[str], str]:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise StagePromptError(
            f'stage-prompt model {name!r} is not written as "package.module:function"'
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StagePromptError(f"stage-prompt model {name} cannot be loaded: {error}") from error
    if not callable(found):
        raise StagePromptError(f"stage-prompt model {name} is not a function")
    return found


def _stages(texts: object) -> Stages:
    if not isinstance(texts, list) or len(texts) != len(_KEYS):
        raise StagePromptError(f"stages must be a list of {len(_KEYS)} texts: {', '.join(_KEYS)}")
    for key, text in zip(_KEYS, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise StagePromptError(f"the {key} is no text")
    return tuple(map(_one_line, texts))


def _listed(entry: object) -> tuple[object, object]:
    if not isinstance(entry, dict):
        return None, None
    return entry.get("prompt", entry.get("prompt_en")), entry.get("stages")


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a key stands there twice")
    return entries


def _one_line(text: str) -> str:
    return " ".join(text.split())
