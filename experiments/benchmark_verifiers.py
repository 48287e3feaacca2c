r"""Measures a checklist of questions about a video, asked on one shared prefix and one by one.

python -m experiments.benchmark_verifiers
python -m experiments.benchmark_verifiers --questions=29 --frames=24 --repetitions=3

Prints
- the floating-point operations of VisionReward at its published size, counted with nothing
  allocated: all questions on one reading of the video, and a reading for every question;
- the time of both at a mid size, with random weights and in float32, after compilation, and by how
  much their scores differ.

Other work on the machine slows both sides: times are the least of all repetitions.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from rich.console import Console
from rich.table import Table

from converters import cli
from tts_jax.language.decoder import DecoderConfig
from tts_jax.search.flops import count_flops
from tts_jax.verifiers.judging import Questions
from tts_jax.verifiers.visionreward import (
    Checklist,
    VisionReward,
    VisionRewardConfig,
    VisionRewardVerifier,
)
from tts_jax.vision.eva import EVAConfig

LENGTH = 32  # tokens of a question, its padding included

MID = VisionRewardConfig(
    vision=EVAConfig(
        size=112, patch=14, width=192, heads=4, layers=4, mlp=768, outputs=256, hidden=768
    ),
    decoder=DecoderConfig(
        vocabulary=4096, width=256, heads=8, kv_heads=2, head_size=32, layers=6, mlp=768
    ),
    first=0,
)


class Ids:
    """Stands for a tokenizer: every text is one token."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [len(text) % 97]

    def answer(self, word: str) -> int:
        """The first token of an answer."""
        return {"yes": 1, "no": 2}[word]


def define(values: flags.FlagValues) -> None:
    """Adds this program's flags."""
    flags.DEFINE_integer("questions", 29, "of the checklist", 1, flag_values=values)
    flags.DEFINE_integer("frames", 24, "that the judge looks at", 1, flag_values=values)
    flags.DEFINE_integer("branches", 1, "videos", 1, flag_values=values)
    flags.DEFINE_integer("repetitions", 3, "of a timed call", 1, flag_values=values)
    flags.DEFINE_bool("time", True, "measure times, too", flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Runs what the flags ask for; returns the exit code."""
    console = Console()
    published = VisionRewardConfig.visionreward_video()
    whole, single = flops(published, values.questions, values.frames, values.branches)
    table = Table("", "shared", "one by one", "ratio", title=f"{values.questions} questions")
    ratio = whole / (values.questions * single)
    rows = [whole / 1e12, values.questions * single / 1e12]
    table.add_row("TFLOP, published size", *(f"{row:.1f}" for row in rows), f"{ratio:.3f}")
    if values.time:
        shared, apart, difference = seconds(
            MID, values.questions, values.frames, values.branches, values.repetitions
        )
        cells = f"{shared:.2f}", f"{apart:.2f}", f"{shared / apart:.3f}"
        table.add_row("seconds, mid size", *cells)
        table.caption = f"largest difference of the scores: {difference:.1e}"
    console.print(table)
    return 0


def judge(config: VisionRewardConfig, frames: int, questions: int) -> VisionRewardVerifier:
    """A judge with a checklist of questions that do not matter."""
    checklist = Checklist(("?",) * questions, (1.0,) * questions)
    config = dataclasses.replace(config, frames=frames)
    return VisionRewardVerifier(config, Ids(), checklist)


def flops(
    config: VisionRewardConfig, questions: int, frames: int, branches: int
) -> tuple[int, int]:
    """Operations of a whole checklist, and of one question by itself."""
    counts = []
    for count in (questions, 1):
        verifier = judge(config, frames, count)
        size = verifier.config.vision.size
        clip = jax.ShapeDtypeStruct((branches, frames, size, size, 3), jnp.float32)
        query = Questions(
            jax.ShapeDtypeStruct((count, LENGTH), jnp.int32),
            jax.ShapeDtypeStruct((count, LENGTH), bool),
        )
        counts.append(count_flops(verifier.answers, verifier.abstract_params, clip, query))
    return counts[0], counts[1]


def seconds(
    config: VisionRewardConfig, questions: int, frames: int, branches: int, repetitions: int
) -> tuple[float, float, float]:
    """Least times of a checklist, shared and one by one, and the difference of their answers."""
    verifier = judge(config, frames, questions)
    params = nnx.to_pure_dict(nnx.state(VisionReward(config, rngs=nnx.Rngs(0))))
    size = config.vision.size
    clip = jax.random.uniform(jax.random.key(0), (branches, frames, size, size, 3))
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, config.decoder.vocabulary, (questions, LENGTH)).astype(np.int32)
    seen = np.arange(LENGTH) < rng.integers(8, LENGTH, (questions, 1))
    answers = jax.jit(verifier.answers)

    def shared() -> np.ndarray:
        return np.asarray(answers(params, clip, Questions(tokens, seen)))

    def apart() -> np.ndarray:
        rows = [Questions(tokens[i : i + 1], seen[i : i + 1]) for i in range(questions)]
        return np.concatenate([np.asarray(answers(params, clip, row)) for row in rows], axis=1)

    with jax.default_matmul_precision("highest"):
        difference = float(np.abs(shared() - apart()).max())
        times = [min(_time(run) for _ in range(repetitions)) for run in (shared, apart)]
    return times[0], times[1], difference


def _time(run: Callable[[], np.ndarray]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def program(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run(main, define, __doc__, argv)


if __name__ == "__main__":
    sys.exit(program())
