"""RAFT (arXiv 2003.12039), the optical flow that VBench's dynamic degree measures.

Definition: https://github.com/princeton-vl/RAFT, the large model.

B batch  H W image size  h w an eighth of it  C channels. Channels last; a flow is (x, y) in pixels.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.vision.flow import (
    STRIDE,
    Encoder,
    FrozenBatchNorm,
    check_size,
    conv,
    correlate,
    grid,
    lookup,
    pyramid,
)


@dataclass(frozen=True, kw_only=True)
class RAFTConfig:
    """Sizes of the network.

    Attributes:
      stages: widths of the encoders.
      features: width of what is correlated.
      hidden, context: widths of what is refined, and of what the first frame adds to every step.
      levels, radius: of the correlation's pyramid, and of the windows looked up in it.
      correlation, motion: widths of two layers on the windows, and of two on the flow.
      joined: width of both together, with the flow itself.
      head: width inside what reads the flow and the weights of upsampling.
      iterations: refinements.
    """

    stages: tuple[int, ...]
    features: int
    hidden: int
    context: int
    levels: int
    radius: int
    correlation: tuple[int, ...]
    motion: tuple[int, ...]
    joined: int
    head: int
    iterations: int

    @classmethod
    def raft_things(cls) -> "RAFTConfig":
        """raft-things.pth, as used by VBench's dynamic degree and static filter."""
        return cls(
            stages=(64, 96, 128),
            features=256,
            hidden=128,
            context=128,
            levels=4,
            radius=4,
            correlation=(256, 192),
            motion=(128, 64),
            joined=128,
            head=256,
            iterations=20,
        )


class MotionEncoder(nnx.Module):
    """Features of a flow and of the correlation found along it."""

    def __init__(self, config: RAFTConfig, *, rngs: nnx.Rngs):
        windows = config.levels * (2 * config.radius + 1) ** 2
        wide, narrow = config.correlation
        self.corr1 = conv(windows, wide, (1, 1), rngs=rngs)
        self.corr2 = conv(wide, narrow, (3, 3), rngs=rngs)
        self.flow1 = conv(2, config.motion[0], (7, 7), rngs=rngs)
        self.flow2 = conv(*config.motion, (3, 3), rngs=rngs)
        self.out = conv(narrow + config.motion[1], config.joined - 2, (3, 3), rngs=rngs)

    def __call__(self, flow: Array, found: Array) -> Array:
        """[B, h, w, 2] and [B, h, w, windows] to [B, h, w, joined]."""
        x = jax.nn.relu(self.corr2(jax.nn.relu(self.corr1(found))))
        y = jax.nn.relu(self.flow2(jax.nn.relu(self.flow1(flow))))
        x = jax.nn.relu(self.out(jnp.concatenate([x, y], axis=-1)))
        return jnp.concatenate([x, flow], axis=-1)


class GRU(nnx.Module):
    """A gated recurrent unit of convolutions along one axis."""

    def __init__(self, hidden: int, inputs: int, size: tuple[int, int], *, rngs: nnx.Rngs):
        self.update = conv(hidden + inputs, hidden, size, rngs=rngs)
        self.reset = conv(hidden + inputs, hidden, size, rngs=rngs)
        self.candidate = conv(hidden + inputs, hidden, size, rngs=rngs)

    def __call__(self, state: Array, x: Array) -> Array:
        """[B, h, w, hidden] and [B, h, w, C] to the next [B, h, w, hidden]."""
        both = jnp.concatenate([state, x], axis=-1)
        update, reset = jax.nn.sigmoid(self.update(both)), jax.nn.sigmoid(self.reset(both))
        candidate = jnp.tanh(self.candidate(jnp.concatenate([reset * state, x], axis=-1)))
        return (1 - update) * state + update * candidate


class Head(nnx.Module):
    """Two convolutions."""

    def __init__(self, inputs: int, width: int, outputs: int, size: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, (3, 3), rngs=rngs)
        self.conv2 = conv(width, outputs, (size, size), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] to [B, h, w, outputs]."""
        return self.conv2(jax.nn.relu(self.conv1(x)))


def upsample(flow: Array, weights: Array) -> Array:
    """Flow of every pixel, a convex combination of that of nine cells.

    Args:
      flow: [B, h, w, 2], in cells.
      weights: logits, [B, h, w, 9 * 8 * 8]: neighbour slowest, then row and column in the cell.

    Returns:
      [B, 8 h, 8 w, 2], in pixels.
    """
    batch, height, width, _ = flow.shape
    weights = weights.reshape(batch, height, width, 9, STRIDE, STRIDE)
    padded = jnp.pad(STRIDE * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = [padded[:, r : r + height, c : c + width] for r in range(3) for c in range(3)]
    flow = jnp.einsum("bhwnrc,nbhwd->bhrwcd", jax.nn.softmax(weights, axis=3), jnp.stack(near))
    return flow.reshape(batch, STRIDE * height, STRIDE * width, 2)


class RAFT(nnx.Module):
    """Correlates two frames once, then refines a flow along which it looks the correlation up."""

    def __init__(self, config: RAFTConfig, *, rngs: nnx.Rngs):
        self.config = config
        hidden, inputs = config.hidden, config.context + config.joined
        self.features = Encoder(config.stages, config.features, rngs=rngs)
        self.context = Encoder(config.stages, hidden + config.context, FrozenBatchNorm, rngs=rngs)
        self.motion = MotionEncoder(config, rngs=rngs)
        self.across = GRU(hidden, inputs, (1, 5), rngs=rngs)
        self.down = GRU(hidden, inputs, (5, 1), rngs=rngs)
        self.flow = Head(hidden, config.head, 2, 3, rngs=rngs)
        self.weights = Head(hidden, config.head, 9 * STRIDE**2, 1, rngs=rngs)

    def refine(
        self, first: Array, second: Array, iterations: int | Array | None = None
    ) -> tuple[Array, Array]:
        """Flow from one frame to another.

        Args:
          first, second: levels from 0 to 255, [B, H, W, 3] each; sides are multiples of 8.
          iterations: refinements, by default as in the config; may be traced, so that one
            executable serves every number.

        Returns:
          Flow of cells, [B, h, w, 2] in cells, and of pixels, [B, H, W, 2] in pixels.

        Raises:
          ValueError: a side is too short for the correlation's pyramid, or no multiple of 8.
        """
        config = self.config
        check_size(*first.shape[1:3], config.levels)
        first, second = 2 * first / 255 - 1, 2 * second / 255 - 1
        one, two = jnp.split(self.features(jnp.concatenate([first, second])), 2)
        volumes = pyramid(correlate(one, two), config.levels)
        state, context = jnp.split(self.context(first), [config.hidden], axis=-1)
        state, context = jnp.tanh(state), jax.nn.relu(context)
        start = grid(*one.shape[1:3])

        def step(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            state, flow = carry
            motion = self.motion(flow, lookup(volumes, start + flow, config.radius))
            x = jnp.concatenate([context, motion], axis=-1)
            state = self.down(self.across(state, x), x)
            return state, flow + self.flow(state)

        count = config.iterations if iterations is None else iterations
        still = jnp.zeros((*one.shape[:3], 2), state.dtype)
        state, flow = jax.lax.fori_loop(0, count, step, (state, still))
        return flow, upsample(flow, self.weights(state) / 4)

    def __call__(self, first: Array, second: Array) -> Array:
        """Flow of every pixel, [B, H, W, 2]; see `refine`."""
        return self.refine(first, second)[1]
