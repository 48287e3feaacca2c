"""VideoScore (arXiv 2406.15252): Mantis-Idefics2 with five regression outputs.

SigLIP of any image size, a gated projection, a perceiver that makes a few rows of every frame
(Idefics2, arXiv 2405.02246), Mistral, and a linear layer at the last position. The text comes
before the frames and is the same for all branches: it is their common prefix.

B branches  T frames  H W frame size  h w patches of a column and a row  n latents  D width.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.checkpoints import abstract_params
from tts_jax.language.decoder import Decoder, DecoderConfig
from tts_jax.language.reader import Reader
from tts_jax.nn.attention import attend
from tts_jax.nn.linear import Linear
from tts_jax.nn.mlp import GatedMLP
from tts_jax.nn.norms import RMSNorm
from tts_jax.nn.stack import stacked
from tts_jax.verifiers.judging import ROW, Questions, pack, weave
from tts_jax.vision.resize import fit_between, normalise_levels, resize, to_levels
from tts_jax.vision.siglip import MEAN, STD, SiglipConfig, SiglipTower, by_frame

FAKE, IMAGE = "<fake_token_around_image>", "<image>"
DIMENSIONS = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """Sizes of the perceiver.

    Attributes:
      latents: rows of a frame.
      layers, heads, kv_heads, head_size: of its attention.
    """

    latents: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True, kw_only=True)
class VideoScoreConfig:
    """Parts of the judge, and how it looks at a video.

    Attributes:
      outputs: numbers that it gives.
      frames: most frames; of more, every one at equal distances from the first on.
      shortest, longest: bounds of a frame's sides, pixels.
    """

    vision: SiglipConfig
    perceiver: PerceiverConfig
    decoder: DecoderConfig
    outputs: int = 5
    frames: int = 16
    shortest: int = 378
    longest: int = 980

    @classmethod
    def videoscore(cls, frames: int = 16) -> "VideoScoreConfig":
        """TIGER-Lab/VideoScore; VideoScore-v1.1 has 48 frames."""
        return cls(
            vision=SiglipConfig.so400m(side=70),
            perceiver=PerceiverConfig(latents=64, layers=3, heads=16, kv_heads=4, head_size=96),
            decoder=DecoderConfig(
                vocabulary=32003,
                width=4096,
                heads=32,
                kv_heads=8,
                head_size=128,
                layers=32,
                mlp=14336,
                window=4096,
                head="none",
            ),
            frames=frames,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "VideoScoreConfig":
        """The sizes in a published `config.json`, already parsed.

        Sizes that it leaves out are those of Idefics2-8B and its Mistral.

        Raises:
          ValueError: settings that the judge does not have.
        """
        vision, text, perceiver = (
            config[f"{part}_config"] for part in ("vision", "text", "perceiver")
        )
        if perceiver.get("hidden_act", "silu") != "silu":
            raise ValueError(f"perceiver_config.hidden_act is {perceiver['hidden_act']!r}")
        usual = cls.videoscore().perceiver
        decoder = DecoderConfig.from_reference(text, "mistral", DecoderConfig.mistral_7b())
        labels = config.get("id2label")
        return cls(
            vision=SiglipConfig.from_reference(
                vision, side=vision["image_size"] // vision["patch_size"]
            ),
            perceiver=PerceiverConfig(
                latents=perceiver.get("resampler_n_latents", usual.latents),
                layers=perceiver.get("resampler_depth", usual.layers),
                heads=perceiver.get("resampler_n_heads", usual.heads),
                kv_heads=perceiver.get("num_key_value_heads", usual.kv_heads),
                head_size=perceiver.get("resampler_head_dim", usual.head_size),
            ),
            decoder=dataclasses.replace(decoder, head="none"),
            outputs=config.get("num_labels") or (len(labels) if labels else 5),
        )


class PerceiverBlock(nnx.Module):
    """Latents attend to a frame's rows and to themselves, then pass a gated layer."""

    def __init__(self, config: VideoScoreConfig, *, rngs: nnx.Rngs):
        sizes, width = config.perceiver, config.decoder.width
        inner, kept = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size

        def norm():
            return RMSNorm(width, eps=config.decoder.epsilon, rngs=rngs)

        self.norm_latents, self.norm_context, self.norm = norm(), norm(), norm()
        self.q = Linear(width, inner, use_bias=False, rngs=rngs)
        self.k = Linear(width, kept, use_bias=False, rngs=rngs)
        self.v = Linear(width, kept, use_bias=False, rngs=rngs)
        self.out = Linear(inner, width, use_bias=False, rngs=rngs)
        self.mlp = GatedMLP(width, 4 * width, rngs=rngs)
        self.heads = sizes.heads, sizes.head_size

    def __call__(self, x: Array, context: Array, mask: Array | None) -> Array:
        latents = self.norm_latents(x)
        both = jnp.concatenate([self.norm_context(context), latents], axis=1)
        heads, size = self.heads
        q, k, v = (
            layer(t).reshape(*t.shape[:2], -1, size)
            for layer, t in ((self.q, latents), (self.k, both), (self.v, both))
        )
        k, v = (jnp.repeat(t, heads // t.shape[2], axis=2) for t in (k, v))
        x = x + self.out(attend(q, k, v, mask).reshape(*x.shape[:2], -1))
        return x + self.mlp(self.norm(x))


class Perceiver(nnx.Module):
    """A few rows of every frame, however many patches it has."""

    def __init__(self, config: VideoScoreConfig, *, rngs: nnx.Rngs):
        width = config.decoder.width
        self.latents = nnx.Param(
            nnx.initializers.normal(0.02)(rngs.params(), (config.perceiver.latents, width))
        )
        self.blocks = stacked(partial(PerceiverBlock, config), config.perceiver.layers, rngs=rngs)
        self.norm = RMSNorm(width, eps=config.decoder.epsilon, rngs=rngs)

    def __call__(self, context: Array, seen: Array | None) -> Array:
        """Rows of frames.

        Args:
          context: projected patches, [B, P, D].
          seen: those that are no padding, [B, P] bool; all if None.

        Returns:
          [B, n, D].
        """
        x = jnp.broadcast_to(self.latents[...], (context.shape[0], *self.latents.shape))
        mask = None
        if seen is not None:
            ones = jnp.ones((seen.shape[0], self.latents.shape[0]), bool)
            mask = jnp.concatenate([seen, ones], axis=1)[:, None]
        x = jax.lax.scan(lambda x, block: (block(x, context, mask), None), x, self.blocks)[0]
        return self.norm(x)


class VideoScore(nnx.Module):
    """Tower, projection, perceiver, language model, linear layer."""

    def __init__(self, config: VideoScoreConfig, *, rngs: nnx.Rngs):
        self.config = config
        text = config.decoder
        self.vision = SiglipTower(config.vision, rngs=rngs)
        self.projection = GatedMLP(config.vision.width, text.mlp, text.width, rngs=rngs)
        self.perceiver = Perceiver(config, rngs=rngs)
        self.decoder = Decoder(text, rngs=rngs)
        self.score = nnx.Linear(text.width, config.outputs, rngs=rngs)

    def see(self, pixels: Array, mask: Array | None = None, places: Array | None = None) -> Array:
        """Rows of frames.

        Args:
          pixels: normalised, [B, H, W, 3].
          mask, places: see `SiglipTower`.

        Returns:
          [B, n, D].
        """
        x = self.vision(pixels, mask, places)
        x = self.projection(x.reshape(x.shape[0], -1, x.shape[-1]))
        return self.perceiver(x, None if mask is None else mask.reshape(x.shape[0], -1))

    def states(self, text: Array, seen: Array, ids: Sequence[int], rows: Array) -> Array:
        """States of the tokens of videos after a text that they have in common.

        Args:
          text: token ids, [L] int32.
          seen: those that are no padding, [L] bool.
          ids: of the video, with `ROW` for every row, [L'].
          rows: [B, R, D].

        Returns:
          [B, L', D].
        """
        _, prefix = self.decoder(self.decoder.embed(text)[None], seen=seen[None])
        return self.decoder(weave(self.decoder, ids, rows), prefix=prefix)[0]


def spread_frames(total: int, most: int) -> np.ndarray:
    """All frames, or `most` at equal distances from the first on, int."""
    if total <= most:
        return np.arange(total)
    return np.arange(0, total, total / most).astype(int)[:most]


class VideoScoreVerifier:
    """The mean of VideoScore's outputs, or one of them."""

    name = "videoscore"
    needs = "video"

    def __init__(
        self, config: VideoScoreConfig, reader: Reader, template: str, output: int | None = None
    ):
        """Builds the graph; allocates no parameters.

        Args:
          config: sizes.
          reader: of the language model's tokens.
          template: what the judge reads before the frames, with `{text_prompt}` in it; the
            published one lies in VideoScore's repository.
          output: index of the one that is the score, see `DIMENSIONS`; None for the mean of all.
        """
        self.config = config
        self.reader = reader
        self.template = template
        self.output = output
        self.graph, self.abstract_params = abstract_params(VideoScore, config)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Questions:
        """Token ids of the text before the frames, of each prompt."""
        first = self.reader.special("<s>")
        fill = self.reader.fill
        return pack([[[first, *fill(self.template, p, "{text_prompt}")]] for p in prompts])

    def outputs(self, params: dict, frames: Array, query: Questions) -> Array:
        """All outputs, see `DIMENSIONS`.

        Args:
          params: nested dictionary as in `abstract_params`.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: of one prompt.

        Returns:
          [B, outputs] float32.
        """
        config, model = self.config, nnx.merge(self.graph, params)
        frames = frames[:, spread_frames(frames.shape[1], config.frames)]
        branches, count = frames.shape[:2]
        pixels = idefics_input(frames, config.shortest, config.longest)
        rows = by_frame(model.see, pixels.reshape(-1, *pixels.shape[2:]))
        around, between = self.reader.special(FAKE), self.reader.encode(" ")
        ids = [around, *[ROW] * config.perceiver.latents, around, *between] * count
        rows = rows.reshape(branches, -1, rows.shape[-1])
        states = model.states(query.tokens[0], query.seen[0], ids, rows)
        return model.score(states[:, -1]).astype(jnp.float32)

    def score(self, params: dict, frames: Array, query: Questions) -> Array:
        """The score, [B] float32; arguments as for `outputs`."""
        outputs = self.outputs(params, frames, query)
        return outputs.mean(-1) if self.output is None else outputs[:, self.output]


def idefics_input(frames: Array, shortest: int, longest: int) -> Array:
    """Frames in [0, 1] as Idefics2's processor gives them, [..., H, W, 3] -> [..., H', W', 3]."""
    size = fit_between(*frames.shape[-3:-1], shortest, longest)
    return normalise_levels(resize(to_levels(frames), size, "bilinear", quantise=True), MEAN, STD)
