"""VideoLLaMA3 (arXiv 2501.13106) asked one question about a video; the answer's log-odds.

SigLIP with rotated queries and keys, the mean of four neighbours, two linear layers, Qwen2.5. Rows
of a frame that (nearly) equal those of the frame before are left out: here they stay in their
places, unseen, and positions count the others, which gives the same numbers in fixed shapes.

B branches  T frames  H W frame size  h w patches of a column and of a row  n rows of a frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.decoder import Decoder, DecoderConfig
from tts_jax.language.reader import PLACEHOLDER, Reader
from tts_jax.nn.mlp import MLP
from tts_jax.verifiers.judging import ROW, Questions, ask, begin, log_odds, pack, says
from tts_jax.vision.resize import fit_area, normalise_levels, resize, to_levels
from tts_jax.vision.siglip import MEAN, STD, SiglipConfig, SiglipTower, by_frame

SYSTEM = "You are a helpful assistant."
QUESTION = (
    f'Somebody asked for a video of this: "{PLACEHOLDER}" Does the video above show just that, '
    "in good quality and with natural motion? Answer with one word in lower case, yes or no."
)


@dataclass(frozen=True, kw_only=True)
class VideoLLaMA3Config:
    """Parts of the judge, and how it looks at a video.

    Attributes:
      merge: patches of a side that become one row.
      threshold: a row is left out if its pixels differ from those of the frame before by no more
        than this, on average, in normalised values times 255; None to read all.
      rows: most rows of a video before any are left out.
      fps: frames of a second that are looked at.
      frames: most of them.
    """

    vision: SiglipConfig
    decoder: DecoderConfig
    merge: int = 2
    threshold: float | None = 0.1
    rows: int = 16384
    fps: float = 1.0
    frames: int = 180

    @classmethod
    def videollama3_7b(cls) -> "VideoLLaMA3Config":
        """DAMO-NLP-SG/VideoLLaMA3-7B."""
        return cls(vision=SiglipConfig.so400m(), decoder=DecoderConfig.qwen2_7b())

    @classmethod
    def from_reference(cls, config: Mapping) -> "VideoLLaMA3Config":
        """The sizes in the published `config.json` of the original, already parsed.

        Where it names its tower only, that tower is SigLIP so400m with rotated queries and keys.

        Raises:
          ValueError: settings that the judge does not have.
        """
        if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
            raise ValueError(f"mm_projector_type is {config['mm_projector_type']!r}")
        tower = config.get("vision_encoder_config")
        return cls(
            vision=SiglipConfig.so400m() if tower is None else SiglipConfig.from_reference(tower),
            decoder=DecoderConfig.from_reference(config, "qwen2"),
            threshold=0.1 if config.get("use_token_compression", True) else None,
        )


class VideoLLaMA3(nnx.Module):
    """Tower, two linear layers, language model."""

    def __init__(self, config: VideoLLaMA3Config, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = SiglipTower(config.vision, rngs=rngs)
        self.projector = MLP(config.vision.width, config.decoder.width, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)

    def features(self, pixels: Array) -> Array:
        """Means of neighbouring patches' states, [B, H, W, 3] -> [B, n, D]."""
        x, n = self.vision(pixels), self.config.merge
        count, rows, columns, width = x.shape
        x = x.reshape(count, rows // n, n, columns // n, n, width).mean((2, 4))
        return x.reshape(count, -1, width)

    def see(self, pixels: Array) -> Array:
        """Rows of the language model, [B, H, W, 3] -> [B, n, D]."""
        return self.projector(self.features(pixels))

    def keep(self, pixels: Array) -> Array:
        """Which rows of videos are read, [B, T, H, W, 3] normalised -> [B, T, n] bool."""
        side = self.config.vision.patch * self.config.merge
        videos, count, height, width, _ = pixels.shape
        tiles = (videos, count, height // side, side, width // side, side, 3)
        moved = jnp.abs(jnp.diff(pixels.reshape(tiles), axis=1)).mean((3, 5, 6)) * 255
        moved = moved.reshape(videos, count - 1, -1) > self.config.threshold
        first = jnp.arange(moved.shape[-1]) == 0
        moved = moved | (first & ~moved.any(-1, keepdims=True))
        return jnp.concatenate([jnp.ones_like(moved, shape=(videos, 1, first.size)), moved], axis=1)


def second_by_second(total: int, rate: float, fps: float, most: int) -> np.ndarray:
    """Middles of equal stretches of a video, or `most` frames at equal distances, int.

    Args:
      total: frames of the video.
      rate: frames of a second.
      fps: frames that are wanted of a second.
      most: of all.
    """
    stretch = int(max(1, min(rate // fps, total)))
    chosen = np.arange(stretch // 2, total, stretch)
    return chosen if len(chosen) <= most else np.linspace(0, total - 1, most).astype(int)


def frame_size(height: int, width: int, frames: int, factor: int, rows: int) -> tuple[int, int]:
    """Size of the frames of a video of which all share a number of rows (VideoLLaMA3)."""
    return fit_area(height, width, factor, 16 * factor**2, int(rows * factor**2 / frames))


class VideoLLaMA3Verifier:
    """Log-odds of yes over no, or +1 and -1."""

    name = "videollama3"
    needs = "video"

    def __init__(
        self,
        config: VideoLLaMA3Config,
        reader: Reader,
        question: str = QUESTION,
        *,
        rate: float = 24.0,
        graded: bool = True,
    ):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          reader: of the language model's tokens.
          question: with `PLACEHOLDER` in it, to be answered by yes or no.
          rate: frames of a second of the videos.
          graded: log-odds; otherwise +1 if the likeliest token is yes, else -1.
        """
        self.config = config
        self.reader = reader
        self.question = question
        self.rate = rate
        self.graded = graded
        self.graph, self.abstract_params = abstract_params(VideoLLaMA3, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Questions:
        """Token ids of what follows the video, of each prompt."""
        template = f"\n{self.question}<|im_end|>\n<|im_start|>assistant\n"
        return pack([[self.reader.fill(template, prompt)] for prompt in prompts])

    def score(self, params: dict, frames: Array, query: Questions) -> Array:
        """The score, [B] float32; arguments as in the protocol."""
        config, model = self.config, nnx.merge(self.graph, params)
        chosen = second_by_second(frames.shape[1], self.rate, config.fps, config.frames)
        frames = frames[:, chosen]
        branches, count = frames.shape[:2]
        factor = config.vision.patch * config.merge
        size = frame_size(*frames.shape[2:4], count, factor, config.rows)
        levels = resize(to_levels(frames), size, "bicubic", quantise=True)
        pixels = normalise_levels(levels, MEAN, STD)
        rows = by_frame(model.see, pixels.reshape(-1, *pixels.shape[2:]))
        per_frame, width = rows.shape[1:]
        keep = None
        if config.threshold is not None and count > 1:
            keep = model.keep(pixels).reshape(branches, -1)
        start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>"
        ids = self.reader.fill(start, "")
        for index, second in enumerate(chosen / self.rate):
            before = "," if index else "user\n"
            ids += [*self.reader.encode(f"{before}Time {second:.1f}s:"), *[ROW] * per_frame]
        rows = rows.reshape(branches, -1, width)
        prefix = begin(model.decoder, ids, rows, keep=keep)
        states = ask(model.decoder, prefix, query.tokens, query.seen)[:, 0]
        logits = model.decoder.logits(states)
        yes, no = self.reader.answer("yes"), self.reader.answer("no")
        return log_odds(logits, yes, no) if self.graded else says(logits, yes)
