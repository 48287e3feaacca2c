"""VisionReward (arXiv 2412.21059): CogVLM2-Video answers a weighted checklist of yes/no questions.

The video is encoded once; all questions continue its one prefix. Where the published judge takes +1
for an answer that is exactly "yes" and -1 for any other, the graded score takes the log-odds.

B branches  T frames  S frame size  Q questions  L tokens.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.decoder import Decoder, DecoderConfig
from tts_jax.language.reader import Reader
from tts_jax.verifiers.judging import ROW, ask, begin, log_odds, pack, says
from tts_jax.vision.eva import EVAConfig, EVATower
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD
from tts_jax.vision.resize import normalise_levels, resize, to_levels
from tts_jax.vision.siglip import by_frame

LAYOUTS = ("base", "chat")


@dataclass(frozen=True)
class Checklist:
    """Questions that are answered by yes or no, and how much each counts.

    Attributes:
      questions: texts, with `[[prompt]]` where the user's prompt belongs.
      weights: one of each.
    """

    questions: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def load(cls, path: Path | str) -> "Checklist":
        """Reads a JSON file: {"items": [{"question": text, "weight": number}, ...]}.

        Raises:
          ValueError: the file holds something else, or no question.
        """
        try:
            items = json.loads(Path(path).read_text("utf-8"))["items"]
            questions = tuple(item["question"] for item in items)
            weights = tuple(float(item.get("weight", 1.0)) for item in items)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no checklist: {error!r}") from error
        if not questions or not all(isinstance(q, str) and q.strip() for q in questions):
            raise ValueError(f"{path} is no checklist: every item has a question")
        return cls(questions, weights)

    @classmethod
    def published(cls, questions: Path | str, weights: Path | str) -> "Checklist":
        """Reads the original's files: a question a line, and a JSON list of weights.

        A line keeps its end, which is part of the question there.

        Raises:
          ValueError: there are not as many weights as questions.
        """
        with Path(questions).open(encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
        values = json.loads(Path(weights).read_text("utf-8"))
        if isinstance(values, dict):
            values = next(iter(values.values())) if len(values) == 1 else list(values.values())
        if len(values) != len(lines):
            raise ValueError(f"{weights} has {len(values)} weights for {len(lines)} questions")
        return cls(tuple(lines), tuple(float(value) for value in values))

    def chosen(self, entries: Sequence[int | str]) -> "Checklist":
        """Some questions, each with weight one and without its line's end, as stages ask them.

        Args:
          entries: indices into this list, or further questions.

        Raises:
          ValueError: no question, an empty one, or an index that is not in the list.
        """
        known = range(len(self.questions))
        odd = [e for e in entries if not (e.strip() if isinstance(e, str) else e in known)]
        if odd or not entries:
            wrong = f"{odd[0]!r} is none" if odd else "there is none"
            raise ValueError(
                f"a stage is a list of questions or of their indices in 0..{known[-1]}; {wrong}"
            )
        texts = (self.questions[e].strip() if e in known else e.strip() for e in entries)
        return Checklist(tuple(texts), (1.0,) * len(entries))


def final_score(answers: Sequence[str], weights: Sequence[float]) -> float:
    """The published score of first tokens of answers: mean of weight times +1 for exactly "yes"."""
    signs = [1.0 if answer == "yes" else -1.0 for answer in answers]
    return sum(w * s for w, s in zip(weights, signs, strict=True)) / len(signs)


def stage_sum(answers: Sequence[str]) -> int:
    """Video-T1's score of whole answers at a stage: +1 for yes in any case of letters, else -1."""
    return sum(
        1 if a.replace("<|end_of_text|>", "").strip().lower() == "yes" else -1 for a in answers
    )


@dataclass(frozen=True, kw_only=True)
class VisionRewardConfig:
    """Parts of the judge, and how it looks at a video.

    Attributes:
      first: id of the token that every sequence begins with.
      layout: "chat", a frame a second, each followed by its number, as VisionReward's own script
        has it; or "base", frames at equal distances and nothing between them, as Video-T1 does.
      frames: of "base", and most of "chat".
      seconds: of a video that "base" looks at.
    """

    vision: EVAConfig
    decoder: DecoderConfig
    first: int = 128000
    layout: str = "base"
    frames: int = 24
    seconds: float = 60.0

    @classmethod
    def visionreward_video(cls) -> "VisionRewardConfig":
        """THUDM/VisionReward-Video."""
        return cls(vision=EVAConfig.cogvlm2_video(), decoder=DecoderConfig.llama3_8b())

    @classmethod
    def from_reference(cls, config: Mapping, *, expert: bool = False) -> "VisionRewardConfig":
        """The sizes in CogVLM2's published `config.json`, already parsed.

        Args:
          config: its fields.
          expert: whether visual rows have weights of their own, as in the image model.

        Raises:
          ValueError: settings that the judge does not have.
        """
        heads = config["num_attention_heads"]
        if config.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act is {config['hidden_act']!r}; the port supports 'silu'")
        return cls(
            vision=EVAConfig.from_reference(config),
            decoder=DecoderConfig(
                vocabulary=config["vocab_size"],
                width=config["hidden_size"],
                heads=heads,
                kv_heads=config.get("num_multi_query_heads", heads),
                head_size=config["hidden_size"] // heads,
                layers=config["num_hidden_layers"],
                mlp=config["intermediate_size"],
                theta=float(config.get("rope_base", 500000)),
                epsilon=config["rms_norm_eps"],
                expert=expert,
            ),
            first=config["bos_token_id"],
        )


class VisionReward(nnx.Module):
    """Tower with its adapter, language model."""

    def __init__(self, config: VisionRewardConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = EVATower(config.vision, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)


def compressed_positions(visual: np.ndarray) -> np.ndarray:
    """CogVLM's positions: the rows of an image share one, its first and its last excepted.

    Args:
      visual: which tokens are visual rows, [L] bool.

    Returns:
      [L] int.
    """
    before = np.concatenate([[False], visual[:-1]])
    after = np.concatenate([visual[1:], [False]])
    inner = visual & before & after
    entered = inner & ~np.concatenate([[False], inner[:-1]])
    steps = ~inner | entered
    steps[0] = False
    return np.cumsum(steps)


def expert_rows(visual: np.ndarray) -> np.ndarray:
    """Rows that the visual expert treats: visual ones before another one, [L] bool -> [L] bool."""
    return visual & np.concatenate([visual[1:], [False]])


def nearest_frames(total: int, rate: float, most: int) -> np.ndarray:
    """Of every whole second the frame that begins nearest to it, int."""
    starts = np.arange(total) / rate
    seconds = np.arange(min(round(starts[-1]) + 1, most))
    return np.abs(starts[None] - seconds[:, None]).argmin(1)


def even_distances(total: int, rate: float, count: int, seconds: float = 60.0) -> np.ndarray:
    """`count` frames at equal distances from the first on, of the first `seconds`, int."""
    return np.linspace(0, min(total, int(seconds * rate)) - 1, count).astype(int)


def cogvlm_input(frames: Array, size: int) -> Array:
    """Frames normalised, resized bilinearly without antialiasing, and cut to the middle.

    Args:
      frames: [..., H, W, 3] float in [0, 1]; rounded to 8 bits first.
      size: side of the result, pixels.

    Returns:
      [..., size, size, 3] float32.
    """
    x = normalise_levels(to_levels(frames), CLIP_MEAN, CLIP_STD)
    height, width = x.shape[-3:-1]
    short = min(height, width)
    scaled = tuple(size if n == short else int(n * size / short) for n in (height, width))
    x = resize(x, scaled, "bilinear", antialias=False)
    top, left = (round((n - size) / 2) for n in scaled)
    return x[..., top : top + size, left : left + size, :]


class Asked(NamedTuple):
    """Questions about P prompts, and how much each answer counts.

    Attributes:
      tokens, seen: see `Questions`, [P, Q, L].
      weights: [P, Q] float32.
    """

    tokens: Array
    seen: Array
    weights: Array


class VisionRewardVerifier:
    """The weighted mean of the answers to a checklist, or to the questions of a stage."""

    name = "visionreward"
    needs = "video"

    def __init__(
        self,
        config: VisionRewardConfig,
        reader: Reader,
        checklist: Checklist,
        *,
        stages: Sequence[Checklist] = (),
        rate: float = 24.0,
        graded: bool = True,
    ):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          reader: of the language model's tokens.
          checklist: what is asked.
          stages: what is asked at each stage of a search instead; the last of them at all later
            stages too. The checklist itself if there are none.
          rate: frames of a second of the videos.
          graded: answers are log-odds of yes over no; otherwise the published +1 and -1.

        Raises:
          ValueError: unknown layout.
        """
        if config.layout not in LAYOUTS:
            raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, not {config.layout!r}")
        self.config = config
        self.reader = reader
        self.checklist = checklist
        self.stages = tuple(stages)
        self.rate = rate
        self.graded = graded
        self.graph, self.abstract_params = abstract_params(VisionReward, config)

    def at_stage(self, stage: int) -> "VisionRewardVerifier":
        """The same judge with the questions of a stage of a search."""
        if not self.stages:
            return self
        judge = copy.copy(self)
        judge.checklist, judge.stages = self.stages[min(stage, len(self.stages) - 1)], ()
        return judge

    def prepare(self, params: dict, prompts: Sequence[str]) -> Asked:
        """Token ids of all questions about each prompt, and their weights."""
        around = "Question: {} Answer:" if self.config.layout == "chat" else "{}"
        texts = [around.format(question) for question in self.checklist.questions]
        rows = pack([[self.reader.fill(text, prompt) for text in texts] for prompt in prompts])
        weights = jnp.asarray(self.checklist.weights, jnp.float32)
        return Asked(*rows, jnp.broadcast_to(weights, (len(prompts), len(texts))))

    def answers(self, params: dict, frames: Array, query: Asked) -> Array:
        """Answers to all questions about one prompt, [B, Q] float32; see `graded`.

        Args:
          params: nested dictionary as in `abstract_params`.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: of one prompt.
        """
        config, model = self.config, nnx.merge(self.graph, params)
        total = frames.shape[1]
        if config.layout == "chat":
            chosen = nearest_frames(total, self.rate, config.frames)
            between = [self.reader.encode(str(index)) for index in range(len(chosen))]
        else:
            chosen = even_distances(total, self.rate, config.frames, config.seconds)
            between = [[]] * len(chosen)
        pixels = cogvlm_input(frames, config.vision.size)[:, chosen]
        rows = by_frame(model.vision, pixels.reshape(-1, *pixels.shape[2:]))
        ids = [config.first]
        for text in between:
            ids += [*[ROW] * config.vision.rows, *text]
        positions = compressed_positions(np.asarray([*ids, config.first]) == ROW)[:-1]
        rows = rows.reshape(frames.shape[0], -1, rows.shape[-1])
        prefix = begin(model.decoder, ids, rows, positions=positions)
        logits = model.decoder.logits(ask(model.decoder, prefix, query.tokens, query.seen))
        yes = self.reader.answer("yes")
        if not self.graded:
            return says(logits, yes)
        return log_odds(logits, yes, self.reader.answer("no"))

    def score(self, params: dict, frames: Array, query: Asked) -> Array:
        """Mean of weight times answer, [B] float32; arguments as for `answers`."""
        return (self.answers(params, frames, query) * query.weights).mean(-1)
