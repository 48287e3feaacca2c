"""Causal 3-D convolution and per-frame group norm, the layers of causal video VAEs.

B batch  T frames  H W size  I O channels  kt kh kw kernel size. Channels last, [B, T, H, W, C].
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class Window:
    """What the causal convolutions of one network remember between two temporal windows of a clip.

    Convolutions take their own entry in the order in which they run, so that a network threads one
    object through its calls. Made and consumed inside one call: a function that uses it stays pure.

    Attributes:
      first: whether this window starts the clip.
      kept: the last kt - 1 input frames of every convolution so far, [B, kt - 1, H, W, I] each;
        of modules that run as one (`tts_jax.nn.stack.in_turn`) a list, with a leading axis.
    """

    def __init__(self, past: Iterable[Any] | None = None):
        self.first = past is None
        self.kept: list[Any] = []
        self._past = iter(() if past is None else past)

    def recall(self) -> Any:
        """What was kept by the convolution that runs now, None at the start of a clip."""
        return None if self.first else next(self._past)


class CausalConv3d(nnx.Module):
    """3-D convolution that sees no later frame.

    Space is padded with zeros, by default on all sides, time in front with zeros or with the first
    frame.

    The temporal taps are folded onto channels and one 2-D convolution does the work, which XLA runs
    several times faster on CPU than a 3-D one, and no slower elsewhere.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: Sequence[int] = (3, 3, 3),
        *,
        time_stride: int = 1,
        space_stride: int = 1,
        repeat_first: bool = False,
        padding: tuple[int, int] | None = None,
        lead: int | None = None,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        shape = (*size, inputs, outputs)
        self.kernel = nnx.Param(jax.nn.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.time_stride = time_stride
        self.space_stride = space_stride
        self.repeat_first = repeat_first
        self.lead = size[0] - 1 if lead is None else lead  # frames of padding in front of a clip
        self.padding = padding  # rows above and below, and columns; None: half a kernel

    @jax.named_scope("conv")
    def __call__(self, x: Array, window: Window | None = None) -> Array:
        """Convolves a clip, or the next window of one.

        Args:
          x: [B, T, H, W, I].
          window: the memory of a clip that is processed in temporal windows; None for a whole clip.

        Returns:
          [B, T', H', W', O]; T' = (T + lead - kt) // time_stride + 1 for a whole clip.
        """
        kernel, lead = self.kernel[...].astype(x.dtype), self.lead
        bias = 0 if self.bias is None else self.bias[...].astype(x.dtype)
        kt, kh, kw, inputs, outputs = kernel.shape
        if kt == kh == kw == self.time_stride == self.space_stride == 1:
            return x @ kernel[0, 0, 0] + bias
        if window is None:
            # earlier taps would only meet zeros
            spare = 0 if self.repeat_first else min(max(kt - x.shape[1], 0), lead)
            kernel, kt, lead = kernel[spare:], kt - spare, lead - spare
            x = self._lengthen(x, lead)
        elif kt > 1:
            past = window.recall()
            joined = self._lengthen(x, lead) if past is None else jnp.concatenate([past, x], 1)
            window.kept.append(joined[:, joined.shape[1] - (kt - 1) :])
            x = joined if past is None else joined[:, self.time_stride - 1 :]
        stride = self.time_stride
        frames = (x.shape[1] - kt) // stride + 1
        taps = [x[:, a : a + (frames - 1) * stride + 1 : stride] for a in range(kt)]
        folded = jnp.concatenate(taps, axis=-1)
        folded = folded.reshape(-1, *folded.shape[2:])
        out = jax.lax.conv_general_dilated(
            folded,
            kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * inputs, outputs),
            window_strides=(self.space_stride, self.space_stride),
            padding=((kh // 2, kh // 2), (kw // 2, kw // 2))
            if self.padding is None
            else (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out.reshape(x.shape[0], frames, *out.shape[1:]) + bias

    def _lengthen(self, x: Array, frames: int) -> Array:
        if self.repeat_first:
            return jnp.concatenate([x[:, :1]] * frames + [x], axis=1)
        return jnp.pad(x, ((0, 0), (frames, 0), (0, 0), (0, 0), (0, 0)))


def pointwise(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> CausalConv3d:
    """A convolution of every place by itself."""
    return CausalConv3d(inputs, outputs, (1, 1, 1), rngs=rngs)


class GroupNorm(nnx.Module):
    """Group norm with scale and bias; its float32 statistics are those of a frame or of a clip.

    They are gathered by channel, and only then by group: channels that lie side by side are added
    several times faster on CPU than the few of a group are.
    """

    def __init__(
        self, channels: int, groups: int, *, epsilon: float = 1e-6, over_time: bool = False
    ):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.groups = groups
        self.epsilon = epsilon
        self.axes = (-4, -3, -2) if over_time else (-3, -2)

    @jax.named_scope("norm")
    def __call__(self, x: Array) -> Array:
        """Normalises [..., T, H, W, C] over H, W, the channels of a group, and T if over time."""
        wide = x.astype(jnp.float32)
        wide -= self._mean(wide)
        wide *= jax.lax.rsqrt(self._mean(jnp.square(wide)) + self.epsilon) * self.scale[...]
        return (wide + self.bias[...]).astype(x.dtype)

    def _mean(self, x: Array) -> Array:
        """Of every channel's group, one long over the axes of space, and of time if over time."""
        channels = x.mean(self.axes, keepdims=True)
        groups = channels.reshape(*channels.shape[:-1], self.groups, -1)
        means = groups.mean(-1, keepdims=True)
        return jnp.broadcast_to(means, groups.shape).reshape(channels.shape)
