"""Judges in checkpoint folders: configurations, tokenizers, and the texts that they are asked with.

The texts of the published judges are others' and no part of this package. They are read from the
file `judge.json` beside a checkpoint's `config.json`, a JSON object of the fields

  template    videoscore, videoreward: text around `{text_prompt}`, as their repositories have it
  question    videollama3: text around `[[prompt]]`, to be answered by yes or no; optional
  questions   image_selector: texts by the names clarity, potential and orm; optional
  items       visionreward: a list of {"question": text around `[[prompt]]`, "weight": number}
  stages      visionreward: lists of indices into `items`, the questions of a search's stages
  options     any of the judge's options by name: rate, graded, mode, output, layout, stage, limit;
              coarse_rope: visionreward's angles in bfloat16, as published

VisionReward's own files `VisionReward_video_qa_select.txt` and `weight.json` stand in for `items`.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tts_jax.language.published import read_saved
from tts_jax.verifiers.image_selector import (
    QUESTIONS,
    ImageSelectorConfig,
    ImageSelectorVerifier,
)
from tts_jax.verifiers.judging import Reader
from tts_jax.verifiers.protocol import Verifier
from tts_jax.verifiers.videollama3 import QUESTION, VideoLLaMA3Config, VideoLLaMA3Verifier
from tts_jax.verifiers.videoreward import MARKS, VideoRewardConfig, VideoRewardVerifier
from tts_jax.verifiers.videoscore import VideoScoreConfig, VideoScoreVerifier
from tts_jax.verifiers.visionreward import Checklist, VisionRewardConfig, VisionRewardVerifier

TEXTS = "judge.json"
PUBLISHED_CHECKLIST = ("VisionReward_video_qa_select.txt", "weight.json")

JUDGES = {
    "image_selector": (ImageSelectorVerifier, ImageSelectorConfig),
    "videollama3": (VideoLLaMA3Verifier, VideoLLaMA3Config),
    "videoreward": (VideoRewardVerifier, VideoRewardConfig),
    "videoscore": (VideoScoreVerifier, VideoScoreConfig),
    "visionreward": (VisionRewardVerifier, VisionRewardConfig),
}


def open_judge(name: str, folder: Path, fields: Mapping) -> Verifier:
    """A judge from the files of its checkpoint, without its parameters.

    Args:
      name: one of `JUDGES`.
      folder: with the tokenizer's files and `judge.json`.
      fields: of the judge's configuration, nested, as JSON has them.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError, TypeError: a file says something else than it should.
    """
    build, config_class = JUDGES[name]
    config = parse(config_class, fields)
    texts = _read_texts(folder / TEXTS)
    options = dict(texts.pop("options", {}))
    saved = read_saved(folder)
    if name == "videoreward" and saved.token_to_id(MARKS[0]) is None:
        saved.add_special_tokens(list(MARKS))  # the published code adds them when it loads
    reader = Reader(saved, options.pop("limit", 512))
    given: Any
    if name == "visionreward":
        config = dataclasses.replace(
            config,
            layout=options.pop("layout", config.layout),
            decoder=dataclasses.replace(
                config.decoder,
                coarse_rope=options.pop("coarse_rope", config.decoder.coarse_rope),
            ),
        )
        given = _checklist(folder, texts, options.pop("stage", None))
    elif name in ("videoscore", "videoreward"):
        given = texts.pop("template", None)
        if given is None:
            raise ValueError(f"{folder / TEXTS} has no template, which {name} needs")
    elif name == "videollama3":
        given = texts.pop("question", QUESTION)
    else:
        given = texts.pop("questions", QUESTIONS)
    if texts:
        raise ValueError(f"{folder / TEXTS} has fields that {name} lacks: {', '.join(texts)}")
    return build(config, reader, given, **options)


def _read_texts(path: Path) -> dict:
    if not path.is_file():
        return {}
    texts = json.loads(path.read_text("utf-8"))
    if not isinstance(texts, dict):
        raise ValueError(f"{path} holds no JSON object")
    return texts


def _checklist(folder: Path, texts: dict, stage: int | None) -> Checklist:
    """The whole list, or the questions of a stage."""
    stages = texts.pop("stages", [])
    if texts.pop("items", None) is not None:
        checklist = Checklist.load(folder / TEXTS)
    elif all((folder / file).is_file() for file in PUBLISHED_CHECKLIST):
        checklist = Checklist.published(*(folder / file for file in PUBLISHED_CHECKLIST))
    else:
        raise FileNotFoundError(
            f"{folder} holds no checklist: neither {TEXTS} nor {' and '.join(PUBLISHED_CHECKLIST)}"
        )
    if stage is None:
        return checklist
    if not 0 <= stage < len(stages):
        raise ValueError(f"{folder / TEXTS} has {len(stages)} stages, there is no stage {stage}")
    return checklist.chosen(stages[stage])


def parse(config_class: type, fields: Mapping) -> Any:
    """A configuration from its JSON form: dataclasses nested in dataclasses, lists for tuples.

    Raises:
      TypeError: an unknown or a missing field.
    """
    declared = typing.get_type_hints(config_class)
    return config_class(
        **{name: _value(declared.get(name), value) for name, value in fields.items()}
    )


def _value(declared: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    kinds = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return parse(kind, value)
    return value
