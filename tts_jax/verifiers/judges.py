"""Judges in checkpoint folders: configurations, tokenizers, and the texts that they are asked with.

The texts of the published judges are others' and no part of this package. They are read from the
file `judge.json` beside a checkpoint's `config.json`, a JSON object of the fields

  template    videoscore, videoreward: text around `{text_prompt}`, as their repositories have it
  question    videollama3: text around `[[prompt]]`, to be answered by yes or no; optional
  questions   image_selector: texts by the names clarity, potential and orm; optional
  items       visionreward: a list of {"question": text around `[[prompt]]`, "weight": number}
  stages      visionreward: for each stage of a search what is asked there instead, a list of
              indices into `items` and of further questions
  options     any of the judge's options by name: rate, graded, mode, output, layout, stage, limit;
              coarse_rope: visionreward's angles in bfloat16, as published

VisionReward's own files `VisionReward_video_qa_select.txt` and `weight.json` stand in for `items`,
and Video-T1's `question0.txt`, `question1.txt`, ..., a question a line, for `stages`.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tts_jax.checkpoints import parse
from tts_jax.language.published import read_saved
from tts_jax.language.reader import Reader
from tts_jax.verifiers.image_selector import (
    QUESTIONS,
    ImageSelectorConfig,
    ImageSelectorVerifier,
)
from tts_jax.verifiers.protocol import Verifier
from tts_jax.verifiers.videollama3 import QUESTION, VideoLLaMA3Config, VideoLLaMA3Verifier
from tts_jax.verifiers.videoreward import MARKS, VideoRewardConfig, VideoRewardVerifier
from tts_jax.verifiers.videoscore import VideoScoreConfig, VideoScoreVerifier
from tts_jax.verifiers.visionreward import Checklist, VisionRewardConfig, VisionRewardVerifier

TEXTS = "judge.json"
PUBLISHED_CHECKLIST = ("VisionReward_video_qa_select.txt", "weight.json")
PUBLISHED_STAGES = ("question0.txt", "question1.txt", "question2.txt")

JUDGES = {
    "image_selector": (ImageSelectorVerifier, ImageSelectorConfig),
    "videollama3": (VideoLLaMA3Verifier, VideoLLaMA3Config),
    "videoreward": (VideoRewardVerifier, VideoRewardConfig),
    "videoscore": (VideoScoreVerifier, VideoScoreConfig),
    "visionreward": (VisionRewardVerifier, VisionRewardConfig),
}


def open_judge(
    name: str,
    folder: Path,
    fields: Mapping,
    texts: Path | None = None,
    options: Mapping[str, Any] = types.MappingProxyType({}),
) -> Verifier:
    """A judge from the files of its checkpoint, without its parameters.

    Args:
      name: one of `JUDGES`.
      folder: with the tokenizer's files and `judge.json`.
      fields: of the judge's configuration, nested, as JSON has them.
      texts: another file in the place of `judge.json`.
      options: in the place of those that the file sets.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError, TypeError: a file says something else than it should.
    """
    build, config_class = JUDGES[name]
    config = parse(config_class, fields)
    path = folder / TEXTS if texts is None else texts
    texts = _read_texts(path, needed=texts is not None)
    options = {**texts.pop("options", {}), **options}
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
        given, options["stages"] = _checklist(folder, path, texts, options.pop("stage", None))
    elif name in ("videoscore", "videoreward"):
        given = texts.pop("template", None)
        if given is None:
            raise ValueError(f"{path} has no template, which {name} needs")
    elif name == "videollama3":
        given = texts.pop("question", QUESTION)
    else:
        given = texts.pop("questions", QUESTIONS)
    if texts:
        raise ValueError(f"{path} has fields that {name} lacks: {', '.join(texts)}")
    return build(config, reader, given, **options)


def _read_texts(path: Path, *, needed: bool) -> dict:
    if not path.is_file() and not needed:
        return {}
    texts = json.loads(path.read_text("utf-8"))
    if not isinstance(texts, dict):
        raise ValueError(f"{path} holds no JSON object")
    return texts


def _checklist(
    folder: Path, path: Path, texts: dict, stage: int | None
) -> tuple[Checklist, list[Checklist]]:
    """The whole list and the questions of each stage; those of one stage alone if it is chosen."""
    stages = texts.pop("stages", None)
    if texts.pop("items", None) is not None:
        checklist = Checklist.load(path)
    elif all((folder / file).is_file() for file in PUBLISHED_CHECKLIST):
        checklist = Checklist.published(*(folder / file for file in PUBLISHED_CHECKLIST))
    else:
        raise FileNotFoundError(
            f"{folder} holds no checklist: neither {TEXTS} nor {' and '.join(PUBLISHED_CHECKLIST)}"
        )
    if stages is None:
        files = [folder / name for name in PUBLISHED_STAGES if (folder / name).is_file()]
        stages = [
            [line for line in file.read_text("utf-8").splitlines() if line.strip()]
            for file in files
        ]
    try:
        chosen = [checklist.chosen(entries) for entries in stages]
    except (TypeError, ValueError) as error:
        raise ValueError(f"stages of {path}: {error}") from error
    if stage is None:
        return checklist, chosen
    if not 0 <= stage < len(chosen):
        raise ValueError(f"{path} has {len(chosen)} stages, there is no stage {stage}")
    return chosen[stage], []
