"""The networks of NOVA (arXiv 2412.14169), as published in baaivision's nova-d48w1024-osp480.

The video encoder reads the prompt and the frames so far and gives condition tokens for the next
frame. The image encoder reads these and the frame's tokens so far and gives a feature for every
token. The patch decoder predicts a token's noise from its feature.

n passes of guidance  T frames of the video  H W latent size  C channels  L text tokens  D width
N tokens of a frame  P channels of one, p*p*C  M condition tokens of a frame  S places of the cache
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend
from tts_jax.nn.embeddings import frequencies, timestep_sinusoid
from tts_jax.nn.linear import Linear
from tts_jax.nn.norms import LayerNorm, layer_norm
from tts_jax.nn.stack import stacked

SINUSOID = 256  # channels of the sinusoid of a scalar
MOTION_TOKENS = 2  # flow and frame rate


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the networks.

    Attributes:
      latent_channels: C.
      patch: p, latents along a side of a token; a condition token has twice as many.
      grid: rows and columns of a frame's tokens.
      video_grid: rows and columns of its condition tokens.
      time_base: the last frame's position if there were one more; a video's frames are spread
        evenly over positions from 0 to it, however many there are.
      text_width, text_length, text_rows: of the text encoder's states, tokens of a prompt, and rows
        of the table of states that stand behind a prompt's end.
      video_layers, image_layers, decoder_layers: blocks; half of the image encoder's, rounded down,
        see only the condition and the tokens generated so far.
      video_heads, image_heads: attention heads.
      width, decoder_width: D of the encoders, and the patch decoder's.
      mlp_ratio: hidden channels of a feed-forward layer over D.
      mixer_rank: of the layer that restates a frame's condition relative to the first frame's; 0
        where there is none.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    latent_channels: int = 4
    patch: int = 2
    grid: tuple[int, int]
    video_grid: tuple[int, int]
    time_base: int
    text_width: int
    text_length: int
    text_rows: int = 512
    video_layers: int
    image_layers: int
    decoder_layers: int
    video_heads: int
    image_heads: int
    width: int
    decoder_width: int
    mlp_ratio: int = 4
    mixer_rank: int = 0
    attention: str = "auto"

    def __post_init__(self):
        if self.height != self.video_grid[0] * 2 * self.patch or (
            self.latent_width != self.video_grid[1] * 2 * self.patch
        ):
            raise ValueError(
                f"a frame of {self.grid} tokens cannot have {self.video_grid} condition tokens; "
                "there is one for every four"
            )
        if self.width % self.video_heads or self.width % self.image_heads or self.width % 4:
            raise ValueError(
                f"a width of {self.width} does not suit {self.video_heads} and "
                f"{self.image_heads} heads, or is no multiple of 4"
            )
        if self.text_length > self.text_rows:
            raise ValueError(
                f"prompts have {self.text_length} tokens, the table has {self.text_rows} rows"
            )

    @property
    def height(self) -> int:
        """H of the latents."""
        return self.grid[0] * self.patch

    @property
    def latent_width(self) -> int:
        """W of the latents."""
        return self.grid[1] * self.patch

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def condition_tokens(self) -> int:
        """M."""
        return self.video_grid[0] * self.video_grid[1]

    @property
    def prompt_tokens(self) -> int:
        """Tokens that stand for a prompt and its motion."""
        return self.text_length + MOTION_TOKENS

    @property
    def patch_channels(self) -> int:
        """P."""
        return self.patch**2 * self.latent_channels

    @classmethod
    def d48w1024_osp480(cls) -> "TransformerConfig":
        """nova-d48w1024-osp480."""
        return cls(
            grid=(30, 48),
            video_grid=(15, 24),
            time_base=16,
            text_width=2560,
            text_length=256,
            video_layers=16,
            image_layers=32,
            decoder_layers=3,
            video_heads=16,
            image_heads=16,
            width=1024,
            decoder_width=1280,
            mixer_rank=24,
        )

    @classmethod
    def from_reference(cls, config: Mapping) -> "TransformerConfig":
        """Reads the `config.json` that stands beside the published weights.

        Args:
          config: the parsed file; its entry "derived", if any, names what it leaves out.

        Raises:
          ValueError: the file asks for something that the text-to-video checkpoint has not.
        """
        video, image, decoder = (
            config[f"{part}"] for part in ("video_encoder", "image_encoder", "image_decoder")
        )
        derived = config.get("derived", {})
        stride = config["image_stride"]
        patch = 15 // stride + 1
        grid = tuple(config["image_base_size"])
        sides = tuple(side // stride // patch for side in config["image_size"])
        if video["embed_dim"] != image["embed_dim"]:
            raise ValueError(
                f"the encoders are {video['embed_dim']} and {image['embed_dim']} wide; the port "
                "supports equal widths only"
            )
        if config.get("rotary_pos_embed"):
            raise ValueError("rotary_pos_embed is on; the port supports absolute positions only")
        if sides != grid:
            raise ValueError(f"image_size gives {sides} tokens, image_base_size {grid}")
        time_base, *video_grid = config["video_base_size"]
        return cls(
            latent_channels=config["image_dim"],
            patch=patch,
            grid=grid,
            video_grid=tuple(video_grid),
            time_base=time_base,
            text_width=config["text_token_dim"],
            text_length=config["text_token_len"],
            text_rows=derived.get("text_embed_weight_rows", 512),
            video_layers=video["depth"],
            image_layers=image["depth"],
            decoder_layers=decoder.get("depth", 3),
            video_heads=video["num_heads"],
            image_heads=image["num_heads"],
            width=image["embed_dim"],
            decoder_width=decoder["embed_dim"],
            mlp_ratio=derived.get("mlp_ratio", 4),
            mixer_rank=config.get("video_mixer_rank") or 0,
        )


def patchify(latents: Array, patch: int) -> Array:
    """Tokens of frames, row-major; channels of one are (row, column, channel) of its latents.

    Args:
      latents: [..., H, W, C].
      patch: p.

    Returns:
      [..., N, p*p*C].
    """
    *lead, height, width, channels = latents.shape
    rows, columns = height // patch, width // patch
    split = latents.reshape(*lead, rows, patch, columns, patch, channels)
    return jnp.moveaxis(split, -3, -4).reshape(*lead, rows * columns, patch**2 * channels)


def unpatchify(tokens: Array, patch: int, grid: tuple[int, int]) -> Array:
    """The inverse of `patchify`, [..., N, p*p*C] -> [..., H, W, C]."""
    *lead, _, channels = tokens.shape
    rows, columns = grid
    split = tokens.reshape(*lead, rows, columns, patch, patch, channels // patch**2)
    return jnp.moveaxis(split, -3, -4).reshape(*lead, rows * patch, columns * patch, -1)


def space_table(grid: tuple[int, int], width: int) -> np.ndarray:
    """Sines and cosines of columns, then of rows, float32 [rows * columns, D]."""
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1) * frequencies(width // 4)
    waves = [f(angles) for angles in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(waves, axis=-1).astype(np.float32)


def scalar_sinusoid(values: Array) -> Array:
    """Sines, then cosines, of unscaled values: [B] -> [B, SINUSOID], float32."""
    return jnp.roll(timestep_sinusoid(values, SINUSOID), SINUSOID // 2, axis=-1)


class MLP(nnx.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(inputs, outputs, rngs=rngs)
        self.fc2 = Linear(outputs, outputs, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        return self.fc2(jax.nn.silu(self.fc1(x.astype(self.fc1.kernel.dtype))))


class Block(nnx.Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, width: int, heads: int, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(width, eps=1e-5)
        self.qkv = Linear(width, 3 * width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=1e-5)
        self.up = Linear(width, config.mlp_ratio * width, rngs=rngs)
        self.down = Linear(config.mlp_ratio * width, width, rngs=rngs)
        self.heads = heads
        self.implementation = config.attention

    @jax.named_scope("attention")
    def project(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values, [B, L, heads, K] each."""
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        return parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]

    def finish(self, x: Array, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """What the block makes of its input, given what its queries look at."""
        seen = attend(q, k, v, mask, implementation=self.implementation)
        with jax.named_scope("attention"):
            x = x + self.norm1(self.out(seen.reshape(x.shape))).astype(x.dtype)
        with jax.named_scope("mlp"):
            h = self.down(jax.nn.gelu(self.up(x), approximate=False))
        return x + self.norm2(h).astype(x.dtype)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Tokens [B, L, D]; mask broadcastable to [B, L, L], True where a query sees a key."""
        return self.finish(x, *self.project(x), mask)


def run(blocks: Block, x: Array, mask: Array | None = None) -> Array:
    """Applies stacked blocks one after the other; see `Block`."""
    return jax.lax.scan(lambda x, block: (block(x, mask), None), x, blocks)[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of every block, [layers, n, S, heads, K] each; zeros where none are yet."""

    keys: Array
    values: Array


class TextEmbed(nnx.Module):
    """States of a text encoder to tokens, and the states that stand behind a prompt's end."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        shape = config.text_rows, config.text_width
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.proj = Linear(config.text_width, config.width, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=1e-5)

    def pad(self, states: Array, mask: Array) -> Array:
        """The table's rows wherever a mask [B, L] is False, [B, L, D_text]."""
        return jnp.where(mask[..., None], states, self.table[: mask.shape[1]])

    def __call__(self, states: Array) -> Array:
        """[B, L, D_text] -> [B, L, D]."""
        states = states.astype(self.proj.kernel.dtype)
        return self.norm(self.proj(states)).astype(states.dtype)


class Mixer(nnx.Module):
    """Scale and shift by which a frame's condition differs from the first frame's."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.lora = Linear(config.width, config.mixer_rank, use_bias=False, rngs=rngs)
        self.proj = Linear(config.mixer_rank, 2 * config.width, rngs=rngs)

    def __call__(self, first: Array, x: Array) -> Array:
        """Features of the first frame and of this one, [n, M, D] each, -> [n, M, D]."""
        scale, shift = jnp.split(self.proj(self.lora(jax.nn.silu(x))), 2, axis=-1)
        return first * (1 + scale) + shift


class VideoEncoder(nnx.Module):
    """Prompt and frames so far to features of the next frame, a frame sees no later one."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        inputs = 4 * config.patch_channels
        self.patch_embed = Linear(inputs, config.width, rngs=rngs)

        build = partial(Block, config.width, config.video_heads, config)
        self.blocks = stacked(build, config.video_layers, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=1e-5)
        self.mixer = Mixer(config, rngs=rngs) if config.mixer_rank else None

    def whole(self, prompt: Array, frames: Array) -> Array:
        """Features of all frames at once.

        Args:
          prompt: prompt tokens, [n, L + 2, D].
          frames: tokens of every frame's inputs, [n, T, M, D].

        Returns:
          [n, T, M, D].
        """
        passes, count, each, width = frames.shape
        x = jnp.concatenate([prompt, frames.reshape(passes, -1, width)], axis=1)
        frame = np.arange(x.shape[1]) - prompt.shape[1]
        frame = np.maximum(frame // each, 0)
        x = run(self.blocks, x, jnp.asarray(frame[:, None] >= frame[None, :])[None])
        return self._norm(x[:, prompt.shape[1] :]).reshape(passes, count, each, width)

    def start(self, prompt: Array, frame: Array, places: int) -> tuple[Array, Cache]:
        """Features of the first frame, and a cache that has room for others.

        Args:
          prompt: prompt tokens, [n, L + 2, D].
          frame: tokens of its input, [n, M, D].
          places: S, at least L + 2 + M.

        Returns:
          [n, M, D], and the cache.
        """

        def step(x, block):
            q, k, v = block.project(x)
            return block.finish(x, q, k, v, None), (k, v)

        x, (keys, values) = jax.lax.scan(step, jnp.concatenate([prompt, frame], 1), self.blocks)
        room = [(0, 0), (0, 0), (0, places - x.shape[1]), (0, 0), (0, 0)]
        cache = Cache(jnp.pad(keys, room), jnp.pad(values, room))
        return self._norm(x[:, prompt.shape[1] :]), cache

    def go_on(self, frame: Array, cache: Cache, begin: int | Array) -> tuple[Array, Cache]:
        """Features of a further frame, and the cache with its keys and values.

        Args:
          frame: tokens of its input, [n, M, D].
          cache: of the frames before it.
          begin: filled places of the cache.

        Returns:
          [n, M, D], and the cache.
        """
        seen = (jnp.arange(cache.keys.shape[2]) < begin + frame.shape[1])[None, None]

        def step(x, layer):
            block, keys, values = layer
            q, k, v = block.project(x)
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), begin, 1)
                for old, new in ((keys, k), (values, v))
            )
            return block.finish(x, q, keys, values, seen), (keys, values)

        x, kept = jax.lax.scan(step, frame, (self.blocks, cache.keys, cache.values))
        return self._norm(x), Cache(*kept)

    def mix(self, first: Array, features: Array) -> Array:
        """Condition tokens of a frame after the first, from the features of both, [n, M, D]."""
        return features if self.mixer is None else self.mixer(first, features)

    def _norm(self, x: Array) -> Array:
        return self.norm(x).astype(x.dtype)


class ImageEncoder(nnx.Module):
    """Condition and generated tokens of a frame to features of all its tokens."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.patch_embed = Linear(config.patch_channels, config.width, rngs=rngs)

        build = partial(Block, config.width, config.image_heads, config)
        half = config.image_layers // 2
        self.blocks = stacked(build, half, rngs=rngs)
        self.full_blocks = stacked(build, config.image_layers - half, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=1e-5)

    def __call__(
        self, condition: Array, blank: Array, known: Array, places: Array, valid: Array
    ) -> Array:
        """Features of all tokens; only known ones are read.

        Args:
          condition: condition tokens, [n, M, D].
          blank: what stands for a token that is not known, [D].
          known: known tokens, [V, P], any V.
          places: where they are, distinct, [V].
          valid: those of them that count, [V] bool.

        Returns:
          [n, N, D].
        """
        config = self.config
        table = jnp.asarray(space_table(config.grid, config.width), condition.dtype)
        passes, first = condition.shape[0], condition.shape[1]
        empty = blank.astype(condition.dtype) + table
        seen = self.patch_embed(known.astype(condition.dtype)) + table[places]
        seen = jnp.broadcast_to(seen, (passes, *seen.shape))
        x = jnp.concatenate([condition, seen], axis=1)
        mask = jnp.concatenate([jnp.ones(first, bool), valid])[None, None]
        x = run(self.blocks, x, mask if len(places) else None)
        condition, seen = x[:, :first], x[:, first:]
        tokens = jnp.broadcast_to(empty, (passes, *empty.shape))
        if len(places):
            seen = jnp.where(valid[:, None], seen, empty[places])
            tokens = tokens.at[:, places].set(seen, unique_indices=True)
        x = run(self.full_blocks, jnp.concatenate([condition, tokens], axis=1))
        return self.norm(x[:, first:]).astype(x.dtype)


class DecoderBlock(nnx.Module):
    """x + gate * norm(mlp(modulated x))."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.modulation = Linear(width, 3 * width, rngs=rngs)
        self.mlp = MLP(width, width, rngs=rngs)
        self.norm = LayerNorm(width, eps=1e-5)

    def __call__(self, x: Array, condition: Array) -> Array:
        scale, shift, gate = jnp.split(self.modulation(condition), 3, axis=-1)
        h = layer_norm(x).astype(x.dtype) * (1 + scale) + shift
        return x + gate * self.norm(self.mlp(h)).astype(x.dtype)


class PatchDecoder(nnx.Module):
    """A token's noise, or velocity, from its noisy channels, its feature and the time."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width
        self.patch_embed = Linear(config.patch_channels, width, rngs=rngs)
        self.time = MLP(SINUSOID, width, rngs=rngs)
        self.feature = MLP(config.width, width, rngs=rngs)
        self.blocks = stacked(partial(DecoderBlock, width), config.decoder_layers, rngs=rngs)
        self.modulation = Linear(width, 2 * width, rngs=rngs)
        self.head = Linear(width, config.patch_channels, rngs=rngs)

    def embed_times(self, times: Array) -> Array:
        """What times, unscaled, add to the conditions of tokens, [B] -> [B, D_decoder]."""
        return self.time(timestep_sinusoid(times, SINUSOID))

    def embed_features(self, features: Array) -> Array:
        """What features add to them, [..., D] -> [..., D_decoder]."""
        return self.feature(features)

    def __call__(self, noisy: Array, condition: Array) -> Array:
        """Predictions for tokens.

        Args:
          noisy: their channels, [..., P].
          condition: sum of their embedded time and features, [..., D_decoder].

        Returns:
          [..., P], float32.
        """
        q = jax.nn.silu(condition)
        x = self.patch_embed(noisy.astype(q.dtype))
        x, _ = jax.lax.scan(lambda x, block: (block(x, q), None), x, self.blocks)
        scale, shift = jnp.split(self.modulation(q), 2, axis=-1)
        x = layer_norm(x).astype(x.dtype) * (1 + scale) + shift
        return self.head(x).astype(jnp.float32)


class Transformer(nnx.Module):
    """All networks of a checkpoint."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text = TextEmbed(config, rngs=rngs)
        self.flow = MLP(SINUSOID, config.width, rngs=rngs)
        self.rate = MLP(SINUSOID, config.width, rngs=rngs)
        self.time = MLP(SINUSOID, config.width, rngs=rngs)
        self.time_norm = LayerNorm(config.width, eps=1e-5)
        self.begin = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.width)))
        self.blank = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.width)))
        self.video = VideoEncoder(config, rngs=rngs)
        self.image = ImageEncoder(config, rngs=rngs)
        self.decoder = PatchDecoder(config, rngs=rngs)

    def embed_motion(self, flow: Array, rate: Array) -> Array:
        """Tokens of the optical flow and the frame rate, [B] each -> [B, 2, D]."""
        return jnp.stack(
            [self.flow(scalar_sinusoid(flow)), self.rate(scalar_sinusoid(rate))], axis=1
        )

    def embed_prompt(self, states: Array, flow: Array, rate: Array) -> Array:
        """Prompt tokens: text, flow, frame rate.

        Args:
          states: of the text encoder, the table's rows behind a prompt's end, [B, L, D_text].
          flow: strength of motion, [B]; 5 is usual.
          rate: frames per second, [B]; 12 is usual.

        Returns:
          [B, L + 2, D].
        """
        return jnp.concatenate([self.text(states), self.embed_motion(flow, rate)], axis=1)

    def embed_times(self, frames: Array, count: int) -> Array:
        """Vectors of frames of a video of `count`, [B] -> [B, D]."""
        places = frames.astype(jnp.float32) * self.config.time_base / count
        embedded = self.time(scalar_sinusoid(places))
        return self.time_norm(embedded).astype(embedded.dtype)

    def frame_inputs(
        self, previous: Array | None, frame: int | Array, count: int, bare: Sequence[bool]
    ) -> Array:
        """Tokens from which the video encoder makes a frame's features.

        Args:
          previous: the frame before it, [H, W, C]; None for the first.
          frame: its index, of `count`.
          count: T.
          bare: of every pass, whether it sees no frame.

        Returns:
          [n, M, D].
        """
        config, begin = self.config, self.begin[...]
        shape = config.condition_tokens, config.width
        if previous is None:
            tokens = begin
        else:
            patches = patchify(previous, 2 * config.patch).astype(begin.dtype)
            tokens = self.video.patch_embed(patches)
        table = jnp.asarray(space_table(config.video_grid, config.width), begin.dtype)
        tokens = tokens + self.embed_times(jnp.asarray(frame)[None], count) + table
        bare_tokens = jnp.broadcast_to(begin, shape)
        return jnp.stack([bare_tokens if empty else tokens for empty in bare])
