"""VideoReward (VideoAlign, arXiv 2501.13918): Qwen2-VL with a reward at three special tokens.

Visual quality, motion quality, text alignment: each token closes its criterion in the text after
the video. Positions are 0, 1, 2, ... on all axes, as the published forward has them.

B branches  T frames  H W frame size  L tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.decoder import Cache, Decoder, DecoderConfig
from tts_jax.language.reader import Reader
from tts_jax.nn.linear import Linear
from tts_jax.verifiers.judging import ROW, Questions, begin, pack
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD
from tts_jax.vision.qwen2_vl import Qwen2VisionConfig, Qwen2VisionTower
from tts_jax.vision.resize import fit_area, resize
from tts_jax.vision.siglip import by_frame

MARKS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
NAMES = ("VQ", "MQ", "TA")
SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True, kw_only=True)
class VideoRewardConfig:
    """Parts of the judge, and how it looks at a video.

    Attributes:
      means, deviations: of the rewards in training, in the order of `NAMES`.
      fps: frames of a second that are looked at.
      least, most: bounds of a frame's area, pixels.
    """

    vision: Qwen2VisionConfig
    decoder: DecoderConfig
    means: tuple[float, ...] = (3.6757, 1.1646, 2.8105)
    deviations: tuple[float, ...] = (2.2476, 1.3811, 2.5121)
    fps: float = 2.0
    least: int = 128 * 28 * 28
    most: int = 448 * 448

    @classmethod
    def videoreward(cls) -> "VideoRewardConfig":
        """KwaiVGI/VideoReward, merged into Qwen/Qwen2-VL-2B-Instruct."""
        return cls(
            vision=Qwen2VisionConfig.qwen2_vl_2b(),
            decoder=DecoderConfig(
                vocabulary=151660,
                width=1536,
                heads=12,
                kv_heads=2,
                head_size=128,
                layers=28,
                mlp=8960,
                theta=1000000.0,
                epsilon=1e-6,
                bias=True,
                head="none",
                sections=(16, 24, 24),
            ),
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "VideoRewardConfig":
        """The sizes in a published `config.json` of Qwen2-VL, already parsed.

        Raises:
          ValueError: settings that the judge does not have.
        """
        decoder = DecoderConfig.from_reference(config, "qwen2")
        fields = {}
        if (scale := config.get("normalisation")) is not None:
            fields = {
                "means": tuple(scale[name]["mean"] for name in NAMES),
                "deviations": tuple(scale[name]["std"] for name in NAMES),
            }
        return cls(
            vision=Qwen2VisionConfig.from_reference(config["vision_config"]),
            decoder=dataclasses.replace(decoder, head="none"),
            **fields,
        )


class VideoReward(nnx.Module):
    """Tower with its merger, language model, a linear layer without bias."""

    def __init__(self, config: VideoRewardConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = Qwen2VisionTower(config.vision, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)
        self.reward = Linear(config.decoder.width, 1, use_bias=False, rngs=rngs)

    def see(self, pixels: Array) -> Array:
        """Rows of the language model, [B, depth, H, W, 3] -> [B, n, D]."""
        return self.vision.merge(self.vision(pixels))

    def read(self, hidden: Array, tokens: Array, marks: Sequence[int]) -> Array:
        """Rewards at special tokens, [B, L, D] and [B, L] -> [B, marks] float32."""
        places = jnp.argmax(tokens[..., None] == jnp.asarray(marks), axis=1)
        states = jnp.take_along_axis(hidden, places[..., None], axis=1)
        return self.reward(states)[..., 0].astype(jnp.float32)

    def rewards(self, prefix: Cache, tokens: Array, seen: Array, marks: Sequence[int]) -> Array:
        """Rewards of videos for one text.

        Args:
          prefix: of what comes before the text, for B branches.
          tokens, seen: the text, [L].
          marks: ids of the special tokens.

        Returns:
          [B, marks] float32, not normalised.
        """
        shape = prefix.positions.shape[0], tokens.shape[0]
        x = jnp.broadcast_to(self.decoder.embed(tokens), (*shape, self.config.decoder.width))
        hidden, _ = self.decoder(x, seen=jnp.broadcast_to(seen, shape), prefix=prefix)
        return self.read(hidden, jnp.broadcast_to(tokens, shape), marks)

    def normalised(self, rewards: Array) -> Array:
        """(reward - mean) / deviation of training, [B, 3] -> [B, 3]."""
        return (rewards - jnp.asarray(self.config.means)) / jnp.asarray(self.config.deviations)


def even_frames(total: int, rate: float, fps: float, least: int = 4, most: int = 768) -> np.ndarray:
    """An even number of frames at equal distances, first and last included, int.

    Args:
      total: frames of the video.
      rate: frames of a second.
      fps: frames that are wanted of a second.
      least, most: bounds of their number, which is also at most `total`, or 2.
    """
    most = max(min(most, total) // 2 * 2, 2)
    count = min(max(total / rate * fps, least), most)
    count = min(max(round(count / 2) * 2, 2), most)
    return np.round(np.linspace(0, total - 1, count)).astype(int)


class VideoRewardVerifier:
    """The sum of the three normalised rewards, or one of them."""

    name = "videoreward"
    needs = "video"

    def __init__(
        self,
        config: VideoRewardConfig,
        reader: Reader,
        template: str,
        *,
        rate: float = 16.0,
        output: str | None = None,
    ):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          reader: of the language model's tokens, the three special ones included.
          template: what follows the video, with `{text_prompt}` and each of `MARKS` in it; the
            published one lies in VideoAlign's repository.
          rate: frames of a second of the videos.
          output: one of `NAMES`; None for the sum of all.

        Raises:
          ValueError: unknown output, or a template without one of `MARKS`.
        """
        if output not in (*NAMES, None) or not all(mark in template for mark in MARKS):
            raise ValueError(f"videoreward has {', '.join(NAMES)} at {', '.join(MARKS)}")
        self.config = config
        self.reader = reader
        self.template = template
        self.rate = rate
        self.output = output
        self.graph, self.abstract_params = abstract_params(VideoReward, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Questions:
        """Token ids of what follows the video, of each prompt."""
        text = f"<|vision_end|>{self.template}<|im_end|>\n<|im_start|>assistant\n"
        return pack([[self.reader.fill(text, p, "{text_prompt}")] for p in prompts])

    def outputs(self, params: dict, frames: Array, query: Questions) -> Array:
        """Normalised rewards in the order of `NAMES`.

        Args:
          params: nested dictionary as in `abstract_params`.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: of one prompt.

        Returns:
          [B, 3] float32.
        """
        config, model = self.config, nnx.merge(self.graph, params)
        frames = frames[:, even_frames(frames.shape[1], self.rate, config.fps)]
        pixels = reward_input(frames, config.vision.factor, config.least, config.most)
        depth = config.vision.depth
        pairs = pixels.reshape(-1, depth, *pixels.shape[2:])
        rows = by_frame(model.see, pairs)
        rows = rows.reshape(frames.shape[0], -1, rows.shape[-1])
        start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        ids = [*self.reader.fill(start, ""), *[ROW] * rows.shape[1]]
        marks = [self.reader.special(mark) for mark in MARKS]
        prefix = begin(model.decoder, ids, rows)
        return model.normalised(model.rewards(prefix, query.tokens[0], query.seen[0], marks))

    def score(self, params: dict, frames: Array, query: Questions) -> Array:
        """The score, [B] float32; arguments as for `outputs`."""
        outputs = self.outputs(params, frames, query)
        return outputs.sum(-1) if self.output is None else outputs[:, NAMES.index(self.output)]


def reward_input(frames: Array, factor: int, least: int, most: int) -> Array:
    """Frames in [0, 1] as VideoReward reads clips in memory, [..., H, W, 3] -> [..., H', W', 3]."""
    size = fit_area(*frames.shape[-3:-1], factor, least, most)
    x = jnp.clip(resize(frames, size, "bicubic"), 0.0, 1.0)
    return (x - jnp.asarray(CLIP_MEAN)) / jnp.asarray(CLIP_STD)
