"""What the video autoencoders share.

B batch  T frames  H W size  C channels. Channels last.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tts_jax.nn.attention import attend
from tts_jax.nn.conv import CausalConv3d, GroupNorm
from tts_jax.nn.linear import Linear


def silu(x: Array) -> Array:
    """x times its logistic function, computed in float32, of any shape and type."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def posterior_mode(moments: Array) -> Array:
    """The mean, [..., C], of posterior moments [..., 2C]."""
    return jnp.split(moments, 2, axis=-1)[0]


def posterior_sample(moments: Array, noise: Array) -> Array:
    """A draw from the posterior.

    Args:
      moments: mean and log-variance, [..., 2C].
      noise: standard normal, [..., C].

    Returns:
      mean + exp(logvar / 2) * noise with the log-variance clamped to [-30, 20], [..., C].
    """
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean + jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0)) * noise


class ResnetBlock(nnx.Module):
    """Two convolutions, each after a group norm, around which the input goes on.

    A flat block treats every frame by itself. Convolutions of another one see earlier frames, and
    its norms take their statistics over all frames.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        *,
        flat: bool,
        epsilon: float = 1e-6,
        repeat_first: bool = True,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        def norm(channels: int) -> GroupNorm:
            return GroupNorm(channels, groups, epsilon=epsilon, over_time=not flat)

        def conv(inputs: int, size: tuple[int, int, int]) -> CausalConv3d:
            return CausalConv3d(
                inputs, outputs, size, repeat_first=repeat_first, bias=bias, rngs=rngs
            )

        size = (1 if flat else 3, 3, 3)
        self.norm1, self.conv1 = norm(inputs), conv(inputs, size)
        self.norm2, self.conv2 = norm(outputs), conv(outputs, size)
        self.shortcut = conv(inputs, (1, 1, 1)) if inputs != outputs else None

    def __call__(self, x: Array) -> Array:
        """[B, T, H, W, C] -> [B, T, H, W, C']."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class MidBlock(nnx.Module):
    """A residual block, attention inside every frame, a residual block."""

    def __init__(self, channels: int, groups: int, *, flat: bool, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            [ResnetBlock(channels, channels, groups, flat=flat, rngs=rngs) for _ in range(2)]
        )
        self.norm = GroupNorm(channels, groups, over_time=not flat)
        self.q, self.k, self.v, self.out = (Linear(channels, channels, rngs=rngs) for _ in range(4))

    def __call__(self, x: Array) -> Array:
        """[B, T, H, W, C] -> the same shape."""
        first, second = self.resnets
        x = first(x)
        frames = self.norm(x).reshape(x.shape[0] * x.shape[1], -1, 1, x.shape[-1])
        with jax.named_scope("attention"):
            seen = attend(*(layer(frames) for layer in (self.q, self.k, self.v)))
            x = x + self.out(seen).reshape(x.shape)
        return second(x)
