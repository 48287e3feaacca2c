"""Prompts as Open-Sora 1.2 gives them to T5: with scores at their end, cleaned, 300 tokens long."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from tts_jax.language.captions import clean_caption

T5_LENGTH = 300  # tokens of a prompt, padding included


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What captions of the training videos said of them at their end.

    Attributes:
      aesthetic: of LAION's predictor, some 4 to 7; None to say nothing.
      motion: of optical flow; None to say nothing.
      camera: how it moves, such as "pan left"; None to say nothing.
    """

    aesthetic: float | None = 6.5
    motion: float | None = None
    camera: str | None = None

    def append(self, prompt: str) -> str:
        """The prompt with the scores that it does not name itself."""
        entries = {
            "aesthetic score": None if self.aesthetic is None else f"{self.aesthetic:.1f}",
            "motion score": None if self.motion is None else f"{self.motion:.1f}",
            "camera motion": self.camera,
        }
        missing = [
            f" {name}: {value}."
            for name, value in entries.items()
            if value is not None and f"{name}:" not in prompt
        ]
        return prompt + "".join(missing)


def prepare(prompts: Sequence[str], scores: Scores) -> list[str]:
    """Texts for T5's tokenizer, which gives `T5_LENGTH` tokens and a mask of those of the text.

    The unconditional text goes no such way: the denoiser has learned states of it, and takes as
    many of them as the prompt has tokens.

    Args:
      prompts: as a user writes them; "" is the unconditional one and stays so.
      scores: appended before cleaning.
    """
    return [clean_caption(scores.append(prompt)) if prompt else "" for prompt in prompts]


def texts_of_clips(prompt: str, clips: int) -> list[str]:
    """The prompt of each clip of a video.

    Args:
      prompt: one for all clips, or several behind the numbers of the clips that they begin with, as
        in "|0|a house|2|a house on fire".
      clips: how many.

    Raises:
      ValueError: the numbers are none, or do not rise.
    """
    if not prompt.startswith("|0|"):
        return [prompt] * clips
    _, *entries = prompt.split("|")
    numbers, texts = entries[::2], entries[1::2]
    if len(numbers) != len(texts) or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{prompt!r} has no text behind the number of each clip")
    starts = [int(number) for number in numbers]
    if sorted(set(starts)) != starts:
        raise ValueError(f"the clips {starts} of {prompt!r} do not rise")
    return [texts[bisect.bisect_right(starts, clip) - 1] for clip in range(clips)]
