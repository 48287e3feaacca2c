"""What the two Pyramid-Flow denoisers share (arXiv 2410.05954, `jy0205/Pyramid-Flow`).

Tokens live in two arrays through all blocks: the context (text, then the clean history) and the
own tokens of the noisy clip. Attention is causal in time, so with a history the context never
sees the own tokens: it depends on the parent only, and a `vmap` over siblings that leaves it
unmapped computes it once.

B batch  T latent frames  H W latent size  C latent channels  L tokens  D width  N heads
K head size. Channels last.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tts_jax.nn.attention import TokenMask, attend, attend_in_parts, by_kernel
from tts_jax.nn.embeddings import frequencies, norm_and_turn, timestep_sinusoid
from tts_jax.nn.linear import Linear, evens_first
from tts_jax.nn.norms import RMSNorm, layer_norm_once
from tts_jax.nn.sequence import by_sequence, head_axes

PATCH = 2
SINUSOID_WIDTH = 256


class DenoiserConfig(Protocol):
    """Sizes that the shared layers read.

    Attributes:
      heads: attention heads, N.
      head_size: channels of a head, K.
      width: D, which is N * K.
      latent_channels: C; a token is a patch of 2 x 2 latents, 4C values.
      rope_axes: channels of a head rotated by time, row and column; they sum to K.
      qk_epsilon: added to the mean square of queries and keys where they are normalised.
      text_width: width of the text states.
      pooled_width: width of the pooled text vector.
      mlp_ratio: hidden width of the feed-forward layers over D.
      attention: implementation name of `tts_jax.nn.attention.attend`.
    """

    heads: int
    head_size: int
    width: int
    latent_channels: int
    rope_axes: tuple[int, int, int]
    qk_epsilon: float
    text_width: int
    pooled_width: int
    mlp_ratio: int
    attention: str


class Clip(NamedTuple):
    """A clean clip of the history.

    Attributes:
      latents: [B, T, H, W, C].
      times: index of each frame in the video, [T]; may be traced.
      valid: bool [T]; a frame that is False is padding and influences nothing.
    """

    latents: Array
    times: Array
    valid: Array


class Rope(NamedTuple):
    """Cosines and sines of the rotation angles, float32 [L, K/2] each."""

    cos: Array
    sin: Array


class Layout(NamedTuple):
    """Positions and visibility of the tokens of one call, the same for every block.

    Attributes:
      context_rope: angles of text and history tokens.
      own_rope: angles of the noisy clip's tokens.
      context_mask: of the context's queries and its keys, or all keys for a first frame, the only
        one that the text can see before it is clean.
      own_mask: of the noisy clip's queries and all keys.
    """

    context_rope: Rope
    own_rope: Rope
    context_mask: TokenMask
    own_mask: TokenMask

    def history_rope(self, length: int) -> Rope:
        """Angles of the history's tokens, which follow `length` tokens of text."""
        return Rope(*(table[length:] for table in self.context_rope))


def patchify(latents: Array) -> Array:
    """Patches of 2 x 2 latents, [B, T, H, W, C] -> [B, T*H/2*W/2, 4C], channel fastest."""
    b, t, h, w, c = latents.shape
    patches = latents.reshape(b, t, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return patches.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, -1, PATCH * PATCH * c)


def unpatchify(tokens: Array, frames: int, height: int, width: int) -> Array:
    """The inverse of `patchify`, [B, L, 4C] -> [B, frames, height, width, C]."""
    b = tokens.shape[0]
    patches = tokens.reshape(b, frames, height // PATCH, width // PATCH, PATCH, PATCH, -1)
    return patches.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, frames, height, width, -1)


def token_grid(shape: Sequence[int]) -> tuple[int, int]:
    """Token rows and columns of a clip of shape [B, T, H, W, C]."""
    return shape[2] // PATCH, shape[3] // PATCH


def spatial_positions(size: int, own_size: int) -> np.ndarray:
    """Token coordinates of a clip's axis on the token grid of the noisy clip, float64 [size]."""
    positions = (np.arange(size) + 0.5) * (own_size / size) - 0.5
    return np.clip(positions, 0, own_size - 1)


def clip_rope(
    times: Array, grid: tuple[int, int], own_grid: tuple[int, int], axes: Sequence[int]
) -> Rope:
    """Rotation of the tokens of one clip.

    Args:
      times: frame indices, [T]; may be traced.
      grid: token rows and columns of the clip.
      own_grid: token rows and columns of the noisy clip, whose coordinates are used.
      axes: channels of a head for time, row and column.

    Returns:
      Cosines and sines, float32 [T * rows * columns, K/2].
    """
    rows, columns = (
        spatial_positions(size, own)[:, None] * frequencies(axis // 2)
        for size, own, axis in zip(grid, own_grid, axes[1:], strict=True)
    )
    time = jnp.asarray(times, jnp.float32)[:, None] * frequencies(axes[0] // 2).astype(np.float32)
    shape = (time.shape[0], *grid)

    def over_tokens(function, module):
        parts = (
            function(time)[:, None, None],
            module(rows).astype(np.float32)[None, :, None],
            module(columns).astype(np.float32)[None, None, :],
        )
        parts = [jnp.broadcast_to(part, (*shape, part.shape[-1])) for part in parts]
        return jnp.concatenate(parts, axis=-1).reshape(int(np.prod(shape[1:])) * shape[0], -1)

    return Rope(over_tokens(jnp.cos, np.cos), over_tokens(jnp.sin, np.sin))


class Frames(NamedTuple):
    """Frames in the order of their tokens; text is one of them.

    Attributes:
      times: [F], never decreasing; may be traced. A frame of padding has that of the frame before.
      tokens: of each frame, F of them.
    """

    times: Array
    tokens: tuple[int, ...]

    def then(self, times: Array, valid: Array, tokens: int) -> "Frames":
        """With frames of so many tokens after these."""
        times = jnp.where(valid, jnp.asarray(times, jnp.float32), -jnp.inf)
        joined = jax.lax.cummax(jnp.concatenate([self.times, times]))
        return Frames(joined, (*self.tokens, *[tokens] * times.shape[0]))

    def ends(self, keys: "Frames") -> Array:
        """How many tokens of other frames are not later than each token of these, [L] int32."""
        earlier = self.times[:, None] >= keys.times
        count = jnp.where(earlier, np.array(keys.tokens, np.int32), 0).sum(1, dtype=jnp.int32)
        return jnp.repeat(
            count, np.array(self.tokens, np.int32), total_repeat_length=sum(self.tokens)
        )


def make_layout(
    own_shape: Sequence[int],
    times: Array,
    history: Sequence[Clip],
    text_mask: Array,
    config: DenoiserConfig,
) -> Layout:
    """Positions and masks of the joint sequence [text; history; own].

    A query may attend to a key of the same validity whose time is not later than its own. Text
    has time 0. Padding attends to padding only, so that no row is empty.

    Args:
      own_shape: shape of the noisy clip, [B, T, H, W, C].
      times: its frame indices, [T].
      history: clean clips, oldest first.
      text_mask: [B, L], 1 for a real token.
      config: sizes of the model.
    """
    batch, length = text_mask.shape
    own_grid = token_grid(own_shape)
    half = config.head_size // 2
    ropes = [Rope(jnp.ones((length, half)), jnp.zeros((length, half)))]
    frames = Frames(jnp.zeros(1), (length,))
    valid = [text_mask.astype(bool)]
    for clip in history:
        grid = token_grid(clip.latents.shape)
        ropes.append(clip_rope(clip.times, grid, own_grid, config.rope_axes))
        frames = frames.then(clip.times, clip.valid, math.prod(grid))
        own = jnp.repeat(jnp.asarray(clip.valid, bool), math.prod(grid))
        valid.append(jnp.broadcast_to(own, (batch, own.shape[0])))
    context_rope = Rope(*(jnp.concatenate(parts) for parts in zip(*ropes, strict=True)))
    context_valid = jnp.concatenate(valid, axis=1)

    own_frames = Frames(jnp.zeros(0), ()).then(times, True, math.prod(own_grid))
    all_frames = frames.then(times, True, math.prod(own_grid))
    own_valid = jnp.ones((batch, sum(own_frames.tokens)), bool)
    all_valid = jnp.concatenate([context_valid, own_valid], axis=1)
    seen = (frames, context_valid) if history else (all_frames, all_valid)
    # a lone frame is later than all others
    ends = own_frames.ends(all_frames) if len(own_frames.tokens) > 1 else None
    return Layout(
        context_rope=context_rope,
        own_rope=clip_rope(times, own_grid, own_grid, config.rope_axes),
        context_mask=TokenMask(frames.ends(seen[0]), context_valid, seen[1]),
        own_mask=TokenMask(ends, own_valid, all_valid),
    )


def attend_from_own(
    context: Sequence[Array], own: Sequence[Array], layout: Layout, implementation: str
) -> Array:
    """Attention of the own tokens to all tokens; arguments as for `attend_causally`.

    Returns:
      Heads of the own tokens, [B, L_own, N, K].
    """
    keys = context[1], own[1]
    if by_kernel(own[0], keys, implementation) and not head_axes(own[0].shape[2]):
        ends = np.cumsum([0, *(k.shape[1] for k in keys)]).tolist()
        masks = [layout.own_mask.of_keys(*pair) for pair in itertools.pairwise(ends)]
        parts = list(zip(keys, (context[2], own[2]), masks, strict=True))
        return attend_in_parts(own[0], parts, implementation=implementation)
    joint = [jnp.concatenate(pair, axis=1) for pair in zip(context[1:], own[1:], strict=True)]
    return attend(own[0], *joint, layout.own_mask, implementation=implementation)


def attend_causally(
    context: Sequence[Array], own: Sequence[Array], layout: Layout, implementation: str
) -> tuple[Array, Array]:
    """Joint attention of context and own tokens, kept apart.

    Args:
      context: queries, keys and values of text and history, [B, L_context, N, K] each.
      own: those of the noisy clip, [B, L_own, N, K] each.
      layout: masks of this call.
      implementation: name of the attention.

    Returns:
      Heads of the context, [B, L_context, N, K], and of the own tokens, [B, L_own, N, K].
    """
    seen = context[1:]
    if layout.context_mask.key_groups.shape[1] > context[1].shape[1]:
        seen = [jnp.concatenate(pair, axis=1) for pair in zip(seen, own[1:], strict=True)]
    heads = attend(context[0], *seen, layout.context_mask, implementation=implementation)
    return heads, attend_from_own(context, own, layout, implementation)


@jax.named_scope("norm")
def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Adaptive layer norm: LN(x) * (1 + scale) + shift, computed in float32, in the dtype of x."""
    return (layer_norm_once(x) * (1 + scale) + shift).astype(x.dtype)


def gated(x: Array, gate: Array, update: Array) -> Array:
    """Residual update x + gate * update."""
    return x + (gate * update).astype(x.dtype)


class MLP(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, sizes: tuple[int, int, int], activation, *, rngs: nnx.Rngs):
        self.up = Linear(sizes[0], sizes[1], rngs=rngs)
        self.down = Linear(sizes[1], sizes[2], rngs=rngs)
        self.activation = activation

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        return self.down(self.activation(self.up(x)))


class Modulation(nnx.Module):
    """Shifts, scales and gates from the conditioning vector; zero at the start of a training."""

    def __init__(self, width: int, count: int, *, rngs: nnx.Rngs):
        self.linear = Linear(
            width, count * width, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )
        self.count = count

    @jax.named_scope("modulation")
    def __call__(self, temb: Array) -> list[Array]:
        """[B, D] -> `count` arrays [B, 1, D], float32."""
        values = self.linear(jax.nn.silu(temb)).astype(jnp.float32)
        return jnp.split(values[:, None], self.count, axis=-1)


class Projection(nnx.Module):
    """Queries, keys and values of one stream: linear, RMS norm over the head, rotation."""

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        self.q = Linear(config.width, config.width, rngs=rngs)
        self.k = Linear(config.width, config.width, rngs=rngs)
        self.v = Linear(config.width, config.width, rngs=rngs)
        self.q_norm = RMSNorm(config.head_size, eps=config.qk_epsilon, rngs=rngs)
        self.k_norm = RMSNorm(config.head_size, eps=config.qk_epsilon, rngs=rngs)
        self.heads = (config.heads, config.head_size)

    @jax.named_scope("attention")
    def __call__(self, x: Array, rope: Rope | None) -> tuple[Array, Array, Array]:
        """[B, L, D] -> three arrays [B, L, N, K]; `rope` None leaves the tokens unrotated.

        Channels of queries and keys stand in the order of `evens_first`.
        """
        layers = self.q, self.k, self.q_norm, self.k_norm
        to_q, to_k, q_norm, k_norm = (evens_first(layer, self.heads[1]) for layer in layers)
        count, size = self.heads
        halves = count, 2, size // 2
        q, k = (
            norm_and_turn(norm, layer.to_heads(x, halves), rope)
            for layer, norm in ((to_q, q_norm), (to_k, k_norm))
        )
        v = self.v.to_heads(x, self.heads)
        return q, k, v


class Stream(nnx.Module):
    """One side of a double block: the weights of the text or of the latents."""

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.modulation = Modulation(width, 6, rngs=rngs)
        self.attention = Projection(config, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.mlp = MLP((width, config.mlp_ratio * width, width), jax.nn.gelu, rngs=rngs)

    def update(self, x: Array, heads: Array, modulation: Sequence[Array]) -> Array:
        """Adds the attention's output, of heads [B, L, N, K], and the feed-forward layer's."""
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        with jax.named_scope("attention"):
            x = gated(x, gate, self.out.from_heads(heads))
        return gated(x, mlp_gate, self.mlp(modulate(x, mlp_shift, mlp_scale)))


class DoubleBlock(nnx.Module):
    """Joint attention of text and latents, each with its own weights."""

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        self.text = Stream(config, rngs=rngs)
        self.image = Stream(config, rngs=rngs)
        self.implementation = config.attention

    def __call__(
        self, text: Array, history: Array, own: Array, temb: Array, layout: Layout
    ) -> tuple[Array, Array, Array]:
        """Updates text [B, L, D], history [B, L_history, D] and own tokens [B, L_own, D]."""
        length = text.shape[1]
        text_modulation, modulation = self.text.modulation(temb), self.image.modulation(temb)
        text_heads = self.text.attention(modulate(text, *text_modulation[:2]), None)
        history_heads = self.image.attention(
            modulate(history, *modulation[:2]), layout.history_rope(length)
        )
        own_heads = self.image.attention(modulate(own, *modulation[:2]), layout.own_rope)
        context_heads = [
            jnp.concatenate(pair, axis=1) for pair in zip(text_heads, history_heads, strict=True)
        ]
        context_out, own_out = attend_causally(
            context_heads, own_heads, layout, self.implementation
        )
        return (
            self.text.update(text, context_out[:, :length], text_modulation),
            self.image.update(history, context_out[:, length:], modulation),
            self.image.update(own, own_out, modulation),
        )


def repeat(blocks: nnx.Module, streams: tuple[Array, ...], temb: Array, layout: Layout):
    """Runs stacked blocks one after the other.

    Args:
      blocks: a block whose leaves have a leading layer axis.
      streams: tokens, as the block takes and returns them.
      temb: the conditioning vector, [B, D].
      layout: positions and masks of this call.

    Returns:
      The streams after the last block.
    """
    # only matrix products are kept for a backward pass: the rest is cheaper to redo
    step = jax.checkpoint(
        lambda x, block: (block(*x, temb, layout), None),
        policy=jax.checkpoint_policies.checkpoint_dots,
    )
    return jax.lax.scan(step, streams, blocks)[0]


class Denoiser(nnx.Module):
    """Velocity of a noisy clip, given the text and the clean clips before it.

    A variant adds its blocks and says how they run.
    """

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        width, token = config.width, PATCH**2 * config.latent_channels
        self.config = config
        self.time_embed = MLP((SINUSOID_WIDTH, width, width), jax.nn.silu, rngs=rngs)
        self.pooled_embed = MLP((config.pooled_width, width, width), jax.nn.silu, rngs=rngs)
        self.text_embed = Linear(config.text_width, width, rngs=rngs)
        self.latent_embed = Linear(token, width, rngs=rngs)
        self.add_blocks(config, rngs=rngs)
        self.out_modulation = Modulation(width, 2, rngs=rngs)
        self.out = Linear(width, token, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    @abstractmethod
    def add_blocks(self, config: DenoiserConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the parts that the variants do not share."""

    @abstractmethod
    def run_blocks(
        self, text: Array, history: Array, own: Array, temb: Array, layout: Layout
    ) -> Array:
        """Text [B, L, D], history [B, L_history, D] and own tokens [B, L_own, D] to the last."""

    @property
    def dtype(self) -> jnp.dtype:
        """Type of weights and activations."""
        return self.latent_embed.kernel.dtype

    def embed_condition(self, timestep: Array, pooled: Array) -> Array:
        """The vector that modulates every stream, [B, D], of timestep [B] and pooled [B, D_p]."""
        sinusoid = timestep_sinusoid(timestep, SINUSOID_WIDTH)
        return self.time_embed(sinusoid.astype(self.dtype)) + self.pooled_embed(
            pooled.astype(self.dtype)
        )

    def embed_clip(self, latents: Array, own_grid: tuple[int, int]) -> Array:
        """Tokens of a clip.

        Args:
          latents: [B, T, H, W, C].
          own_grid: token rows and columns of the noisy clip.

        Returns:
          [B, T*H/2*W/2, D].
        """
        del own_grid  # only a variant with positions in its tokens needs it
        return self.latent_embed(patchify(latents).astype(self.dtype))

    def embed_latents(self, latents: Array, history: Sequence[Clip]) -> tuple[Array, Array]:
        """Tokens of all clips.

        Args:
          latents: the noisy clip, [B, T, H, W, C].
          history: clean clips, oldest first.

        Returns:
          Tokens of the history in order, [B, L_history, D], none for an empty one, and of the noisy
          clip, [B, L_own, D].
        """
        own_grid = token_grid(latents.shape)
        past = [jnp.zeros((latents.shape[0], 0, self.config.width), self.dtype)]
        past += [self.embed_clip(clip.latents, own_grid) for clip in history]
        return jnp.concatenate(past, axis=1), self.embed_clip(latents, own_grid)

    def normalise_out(self, own: Array, temb: Array) -> Array:
        """Final adaptive layer norm of the own tokens."""
        scale, shift = self.out_modulation(temb)
        return modulate(own, shift, scale)

    def __call__(
        self,
        latents: Array,
        times: Array,
        history: tuple[Clip, ...],
        text: Array,
        text_mask: Array,
        pooled: Array,
        timestep: Array,
    ) -> Array:
        """Predicts the velocity.

        Args:
          latents: the noisy clip, [B, T, H, W, C].
          times: indices of its frames in the video, [T], later than all of the history; may be
            traced, so that one executable serves every unit.
          history: clean clips, oldest and coarsest first; () for the first frame.
          text: text encoder states, [B, L, D_text].
          text_mask: 1 for a real token, [B, L].
          pooled: pooled text vector, [B, D_pooled].
          timestep: diffusion time in [0, 1000], [B].

        Returns:
          Velocity, [B, T, H, W, C], float32.
        """
        temb = self.embed_condition(timestep, pooled)
        return self.denoise(latents, times, history, text, text_mask, temb)

    def denoise(
        self,
        latents: Array,
        times: Array,
        history: tuple[Clip, ...],
        text: Array,
        text_mask: Array,
        temb: Array,
    ) -> Array:
        """Velocity for the conditioning vector `temb` [B, D]; the rest is as in `__call__`."""
        layout = make_layout(latents.shape, times, history, text_mask, self.config)
        text = self.text_embed(text.astype(self.dtype))
        past, own = map(by_sequence, self.embed_latents(latents, history))
        own = self.run_blocks(text, past, own, temb, layout)
        velocity = self.out(self.normalise_out(own, temb)).astype(jnp.float32)
        return unpatchify(velocity, *latents.shape[1:4])
