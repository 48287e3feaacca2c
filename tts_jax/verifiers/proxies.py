"""Stand-ins without weights, for worlds and machines where the networks of a benchmark are absent.

They are pixel statistics and no dimension of VBench: none enters its Quality, Semantic or Total, or
stands beside its scores, whatever it is near to. The prompt does not matter to any of them.

B branches  T frames  H W frame size.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates

from tts_jax.nn.encoder import normalise
from tts_jax.vision.resize import to_levels

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BINS = 4
_WINDOW, _REFINEMENTS, _SMALLEST = 5, 3, 8
_STEADY = 4.0  # added to squared gradients: where nothing is to be seen nothing moves


def flow_motion(frames: Array) -> Array:
    """How far the fastest twentieth of the pixels moves from frame to frame, in sides of a frame.

    The flow is Lucas and Kanade's (IJCAI 1981) on a pyramid, from windows of 5x5 pixels. Near to
    the dynamic degree, which asks RAFT; where repeated patterns or what enters at a border move
    fast, it is two to three times too large.

    Args:
      frames: [T, H, W, 3] levels from 0 to 255.

    Returns:
      [] float32; 0 for a single frame.
    """
    if len(frames) < 2:
        return jnp.float32(0)
    grey = frames @ jnp.asarray(_LUMA)
    flow = jax.lax.map(lambda pair: _pyramid_flow(*pair), (grey[:-1], grey[1:]))
    length = jnp.linalg.norm(flow, axis=-1).reshape(len(flow), -1)
    largest = jax.lax.top_k(length, max(length.shape[1] // 20, 1))[0]
    return largest.mean() / min(frames.shape[1:3])


def _pyramid_flow(first: Array, second: Array) -> Array:
    """[H, W] twice -> [H, W, 2] float32, rows then columns."""
    if min(first.shape) >= 2 * _SMALLEST:
        coarse = 2 * _pyramid_flow(_halve(first), _halve(second))
        flow = coarse.repeat(2, 0).repeat(2, 1)
        pad = [(0, n - m) for n, m in zip(first.shape, flow.shape, strict=False)]
        flow = jnp.pad(flow, [*pad, (0, 0)], mode="edge")
    else:
        flow = jnp.zeros((*first.shape, 2))
    rows, columns = jnp.meshgrid(*map(jnp.arange, first.shape), indexing="ij")
    down, across = jnp.gradient(first)
    a, b, c = (_window(x) for x in (down * down, down * across, across * across))
    a, c = a + _STEADY, c + _STEADY
    for _ in range(_REFINEMENTS):
        places = [rows + flow[..., 0], columns + flow[..., 1]]
        change = map_coordinates(second, places, order=1, mode="nearest") - first
        p, q = _window(down * change), _window(across * change)
        step = jnp.stack([c * p - b * q, a * q - b * p], -1) / (a * c - b * b)[..., None]
        flow -= jnp.clip(step, -1, 1)  # what moves further moved at the level before
        flow = jnp.stack([_window(flow[..., i]) for i in range(2)], -1)
    return flow


def _halve(x: Array) -> Array:
    height, width = (n // 2 * 2 for n in x.shape)
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _window(x: Array) -> Array:
    """Means over windows."""
    padded = jnp.pad(x, _WINDOW // 2, mode="edge")
    total = jax.lax.reduce_window(padded, 0.0, jax.lax.add, (_WINDOW, _WINDOW), (1, 1), "VALID")
    return total / _WINDOW**2


def midframe_error(frames: Array) -> Array:
    """Minus the mean difference of every second frame from the mean of its neighbours, of 1.

    Near to the motion smoothness, which has AMT draw that frame: here motion itself is an error.

    Args:
      frames: [T, H, W, 3] levels from 0 to 255.

    Returns:
      [] float32, at most 0; 0 for fewer than three frames.
    """
    kept, dropped = frames[::2], frames[1:-1:2]
    if not len(dropped):
        return jnp.float32(0)
    between = (kept[:-1] + kept[1:])[: len(dropped)] / 2
    return -jnp.abs(between - dropped).mean() / 255


def feature_consistency(frames: Array) -> Array:
    """VBench's mean of cosines with the previous and the first frame, of colours in four quarters.

    Near to the consistency of subject and background, which ask DINO and CLIP. Features are the
    shares of 4x4x4 colours in each quarter of a frame.

    Args:
      frames: [T, H, W, 3] levels from 0 to 255.

    Returns:
      [] float32 in [0, 1]; 1 for a single frame.
    """
    if len(frames) < 2:
        return jnp.float32(1)
    height, width = (max(n // 2, 1) for n in frames.shape[1:3])
    steps = jnp.floor(frames * (_BINS / 256)).astype(jnp.int32)
    colour = steps @ jnp.asarray([_BINS**2, _BINS, 1])
    halves = colour[:, :height], colour[:, -height:]
    quarters = [x for half in halves for x in (half[..., :width], half[..., -width:])]
    counts = [(x[..., None] == jnp.arange(_BINS**3)).mean((1, 2)) for x in quarters]
    unit = normalise(jnp.concatenate(counts, -1))
    return ((unit[1:] * unit[:-1]).sum(-1) + unit[1:] @ unit[0]).mean() / 2


def colorfulness(frames: Array) -> Array:
    """Hasler and Suesstrunk's colourfulness (SPIE 5007, 2003), the mean over frames.

    Near to nothing that a network says of aesthetics, but grey and pale videos have little of it.

    Args:
      frames: [T, H, W, 3] levels from 0 to 255.

    Returns:
      [] float32, from 0 (grey) to some 110 (extremely colourful).
    """
    red, green, blue = (frames[..., i] for i in range(3))
    opponents = jnp.stack([red - green, (red + green) / 2 - blue])
    spread = jnp.sqrt(opponents.var((2, 3)).sum(0))
    return (spread + 0.3 * jnp.sqrt((opponents.mean((2, 3)) ** 2).sum(0))).mean()


def sharpness(frames: Array) -> Array:
    """The deviation of the Laplacian of luma, the mean over frames; noise counts as sharpness.

    Near to the imaging quality, which asks MUSIQ.

    Args:
      frames: [T, H, W, 3] levels from 0 to 255, at least three pixels high and wide.

    Returns:
      [] float32, not negative; 0 where frames are smaller.
    """
    if min(frames.shape[1:3]) < 3:
        return jnp.float32(0)
    x = frames @ jnp.asarray(_LUMA)
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return (around - 4 * x[:, 1:-1, 1:-1]).std((1, 2)).mean()


class ProxyVerifier:
    """A stand-in as a verifier.

    Attributes:
      name: begins with "proxy_".
    """

    needs = "video"

    def __init__(self, name: str, function: Callable[[Array], Array]):
        """Takes the function of one video's levels, [T, H, W, 3], to its score."""
        self.name, self._function = name, function

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """An empty query per prompt, [P, 0] float32."""
        return jnp.zeros((len(prompts), 0))

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """Scores, [B, T, H, W, 3] float in [0, 1] -> [B] float32; rounded to 8 bits first."""
        return jax.lax.map(self._function, to_levels(frames)).astype(jnp.float32)


STATISTICS = {
    "proxy_flow_motion": flow_motion,
    "proxy_midframe_error": midframe_error,
    "proxy_feature_consistency": feature_consistency,
    "proxy_colorfulness": colorfulness,
    "proxy_sharpness": sharpness,
}
PROXIES = {name: partial(ProxyVerifier, name, run) for name, run in STATISTICS.items()}
