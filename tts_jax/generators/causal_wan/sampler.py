"""How causal Wan makes a video: chunk by chunk, in a few steps with fresh noise between them.

As Self-Forcing samples (arXiv 2506.08009, repository guandeh17/Self-Forcing).

B batch  T latent frames  F frames of a chunk  H W latent size  C channels  N steps of a chunk
P tokens of a frame.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.generators.wan.transformer import KeysValues, Past, Transformer
from tts_jax.solvers.rectified_flow import clean_estimate, shift_levels

TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a video is sampled.

    Attributes:
      frames: of the video, 1 + a multiple of 4.
      height, width: of the video in pixels.
      text_length: tokens of a prompt, padding included, whose states are zero.
      chunk: latent frames of a chunk; the video's are a multiple.
      first_alone: whether the first latent frame is a chunk of its own before the others.
      steps: times of the denoising steps, in [0, 1000].
      warped: whether these are places in the table of times, counted from its end, instead.
      shift: of the table's noise levels towards 1.
      context_time: time that clean chunks are read at.
      window: latent frames that a chunk sees, its own included; 0 for all.
      sink: first frames that never leave the window.
      segment: what a segment is, "chunk" or "step".
      tiled: whether frames are decoded in overlapping tiles.
    """

    frames: int = 81
    height: int = 480
    width: int = 832
    text_length: int = 512
    chunk: int = 3
    first_alone: bool = False
    steps: tuple[float, ...] = (1000, 750, 500, 250)
    warped: bool = True
    shift: float = 5.0
    context_time: float = 0.0
    window: int = 0
    sink: int = 0
    segment: str = "chunk"
    tiled: bool = False

    def __post_init__(self):
        if self.segment not in ("chunk", "step"):
            raise ValueError(f"segment is 'chunk' or 'step', not {self.segment!r}")
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; at least 1 is needed")
        if not self.steps or not all(0 <= t <= TIMES for t in self.steps):
            raise ValueError(f"steps are times in [0, {TIMES}], not {self.steps}")
        if self.warped and any(int(t) != t for t in self.steps):
            raise ValueError(f"warped steps are places in a table, not {self.steps}")
        if self.window and self.window < self.chunk + self.sink:
            raise ValueError(
                f"a window of {self.window} frames does not hold a chunk of {self.chunk} and "
                f"{self.sink} that stay"
            )

    @cached_property
    def table(self) -> np.ndarray:
        """Noise levels from 1 downwards, float32 [1000]; times are 1000 times these."""
        return shift_levels(np.linspace(1, 0, TIMES + 1)[:TIMES], self.shift).astype(np.float32)

    @cached_property
    def times(self) -> np.ndarray:
        """Times of a chunk's steps, float32 [N]."""
        steps = np.asarray(self.steps)
        if not self.warped:
            return steps.astype(np.float32)
        table = np.append(self.table * np.float32(TIMES), np.float32(0))
        return table[TIMES - steps.astype(int)]

    @cached_property
    def levels(self) -> np.ndarray:
        """Noise levels of a chunk's steps, float32 [N]: those of the nearest times of the table."""
        return self.levels_of(self.times)

    def levels_of(self, times: np.ndarray) -> np.ndarray:
        """Noise levels of times, [n] -> float32 [n]."""
        distance = np.abs(self.table * np.float32(TIMES) - np.asarray(times)[:, None])
        return self.table[distance.argmin(axis=1)]


def split(frames: int, chunk: int, *, first_alone: bool = False) -> tuple[int, ...]:
    """Latent frames of every chunk of a video.

    Raises:
      ValueError: the frames are not whole chunks.
    """
    first = (1,) if first_alone else ()
    count, rest = divmod(frames - len(first), chunk)
    if frames < 1 or rest:
        after = " after the first" if first else ""
        raise ValueError(f"{frames} latent frames are not chunks of {chunk}{after}")
    return first + (chunk,) * count


def visible(chunks: Sequence[int], window: int = 0, sink: int = 0) -> list[list[int]]:
    """The frames before each chunk that it sees.

    Args:
      chunks: frames of each.
      window, sink: as of `SamplerConfig`; where a chunk would not fit, the oldest frames after the
        sink leave, parts of chunks too.
    """
    seen, kept, end = [], [], 0
    for count in chunks:
        if window and (over := len(kept) + count - window) > 0:
            kept = kept[:sink] + kept[sink + over :]
        seen.append(kept)
        kept, end = [*kept, *range(end, end + count)], end + count
    return seen


def frame_mask(chunks: Sequence[int], window: int = 0, sink: int = 0) -> np.ndarray:
    """Which frames see which when clean chunks are read together, bool [T, T]."""
    mask, end = np.zeros((sum(chunks),) * 2, bool), 0
    for count, before in zip(chunks, visible(chunks, window, sink), strict=True):
        mask[end : end + count, [*before, *range(end, end + count)]] = True
        end += count
    return mask


def read_past(
    model: Transformer, latents: Array, text: KeysValues, chunks: Sequence[int], config
) -> Past:
    """Keys and values of the clean chunks that the next one sees, in one call.

    Args:
      model: the denoiser.
      latents: of all chunks before, [B, T, H, W, C].
      text: keys and values of the text.
      chunks: frames of these chunks, and of the next one.
      config: `SamplerConfig`.
    """
    *before, _ = chunks
    window, sink = config.window, config.sink
    time = jnp.full(latents.shape[0], config.context_time, jnp.float32)
    own = model.read_clean(latents, text, time, frame_mask(before, window, sink))
    frames = np.asarray(visible(chunks, window, sink)[-1])
    tokens = own.keys.shape[2] // latents.shape[1]
    places = (frames[:, None] * tokens + np.arange(tokens)).reshape(-1)
    kept = own
    if len(places) < own.keys.shape[2]:
        kept = KeysValues(*(x[:, :, places] for x in own))
    return Past(kept, jnp.int32(len(places)))


def start_past(model: Transformer, batch: int) -> Past:
    """The past of the first chunk."""
    return Past.empty(model.config, batch, 0, model.dtype)


def denoise(
    model: Transformer,
    latents: Array,
    text: KeysValues,
    past: Past,
    first: int,
    steps: range,
    config: SamplerConfig,
    draw: Callable[[Array], Array],
) -> Array:
    """Takes steps of a chunk, each from its noisy latents to their clean estimate.

    Args:
      model: the denoiser.
      latents: noise before step 0, the clean estimate of the step before otherwise,
        [B, F, H, W, C].
      text, past: keys and values of the text and of the clean chunks before.
      first: position of the chunk's first frame.
      steps: which.
      config: times and levels.
      draw: of the index of a step, the noise that leads to its level.

    Returns:
      The last clean estimate, [B, F, H, W, C] float32.
    """
    times, levels = jnp.asarray(config.times), jnp.asarray(config.levels)

    def call(noisy: Array, step) -> Array:
        time = jnp.full(noisy.shape[0], times[step])
        velocity, _ = model.chunk(noisy, text, time, past, first)
        return clean_estimate(noisy, velocity, levels[step])

    def further(clean: Array, step: Array) -> tuple[Array, None]:
        noisy = (1 - levels[step]) * clean + levels[step] * draw(step)
        return call(noisy, step), None

    rest = list(steps)
    if rest and rest[0] == 0:
        latents, rest = call(latents, 0), rest[1:]
    if rest:
        latents, _ = jax.lax.scan(further, latents, jnp.asarray(rest))
    return latents
