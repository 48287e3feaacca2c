"""VBench's dimensions as verifiers of a search, named "vbench.<dimension>".

A search that is judged by the yardstick of its own evaluation overfits that yardstick: what it
reaches is an upper bound for searches that do not see it, and no method's score.

Scores are the dimensions' own, of one video, from networks that are called inside of the search's
programs, with parameters that it places. Where a dimension needs a text it is the branch's prompt;
the appearance style, whose text in VBench is a phrase of the prompt, takes the whole prompt, and
the human action what follows "person is".

B branches  T frames  H W frame size  P pairs of frames  D width of an embedding.
"""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import Array

from tts_jax.checkpoints import CheckpointError
from tts_jax.evaluation.vbench import inputs, rules
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, Network, Networks
from tts_jax.evaluation.vbench.networks import load_networks
from tts_jax.evaluation.vbench.rules import SMALLEST_SIDE
from tts_jax.evaluation.vbench.sampling import motion_stride
from tts_jax.nn.encoder import normalise
from tts_jax.verifiers.flicker import temporal_flickering
from tts_jax.vision.resize import to_levels

PREFIX = "vbench."
WARNING = (
    "the search is judged by VBench's own measure, {}: what it reaches is an upper bound, "
    "no method's score"
)
_SIDE = 256  # pixels, of the frames with which a network is traced to find its parameters


class Lifted:
    """A network whose parameters are an argument.

    Attributes:
      network: as dimensions call it, with its parameters inside.
      params: these parameters, by their number.
    """

    def __init__(self, network: Network, *shapes: tuple[int, ...]):
        """Finds the parameters by tracing a call.

        Args:
          network: whose call can be traced.
          shapes: of the call's arrays.
        """
        self.network = network
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        found = [x for x in self._trace(*arrays).consts if isinstance(x, jax.Array)]
        self.params = {str(i): x for i, x in enumerate(found)}
        self._names = {id(x): name for name, x in self.params.items()}

    def _trace(self, *arrays):
        return jax.make_jaxpr(self.network.call)(*arrays)

    def __call__(self, params: Mapping[str, Array], *arrays: Array) -> Array:
        """All rows, some at a time, as the network itself.

        Args:
          params: as `self.params`, wherever they lie.
          arrays: of equally many rows.
        """
        count = len(arrays[0])
        size = min(self.network.at_once, count)
        rest = -count % size
        parts = [jnp.concatenate([x, jnp.repeat(x[-1:], rest, 0)]) for x in arrays]
        parts = [x.reshape(-1, size, *x.shape[1:]) for x in parts]
        traced = self._trace(*(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in parts))
        consts = [params[self._names[id(x)]] if id(x) in self._names else x for x in traced.consts]
        closed = jax.extend.core.ClosedJaxpr(traced.jaxpr, consts)
        (found,) = jax.lax.map(lambda part: jax.extend.core.jaxpr_as_fun(closed)(*part), parts)
        return found.reshape(-1, *found.shape[2:])[:count]


class DimensionVerifier:
    """A dimension of VBench as a verifier.

    Where a video is too short for the dimension, as the first units of one are, the score is that
    of a still video.
    """

    needs = "video"

    def __init__(self, dimension: str, networks: Networks, fps: float | None = None):
        """Takes the networks apart.

        Args:
          dimension: its name.
          networks: by their names in `tts_jax.evaluation.vbench.dimensions.NETWORKS`.
          fps: frames a second of the files that are written of the videos.

        Raises:
          ValueError: no such dimension, one whose detections other programs record, a network that
            lacks, or no frame rate where the score depends on it.
        """
        if dimension not in DIMENSIONS:
            raise ValueError(f"{dimension!r} is no VBench dimension; {', '.join(_SCORES)} judge")
        if dimension not in _SCORES:
            raise ValueError(
                f"{PREFIX}{dimension} cannot judge a search: other programs record its detections"
            )
        if lack := DIMENSIONS[dimension].lacks(networks, {}):
            raise ValueError(f"{PREFIX}{dimension} cannot be computed: {lack}")
        if dimension == "dynamic_degree" and not fps:
            raise ValueError(
                f"{PREFIX}{dimension} looks at eight frames a second and needs the option fps, "
                "that of the written files"
            )
        self.name, self.fps = f"{PREFIX}{dimension}", fps
        self._dimension, self._networks = dimension, networks
        self._lifted = {
            name: Lifted(networks[name], *_shapes(name, networks[name].size))
            for name in DIMENSIONS[dimension].networks
            if not name.endswith("_text")
        }

    @property
    def params(self) -> dict[str, dict[str, Array]]:
        """Parameters of the networks, by their names."""
        return {name: lifted.params for name, lifted in self._lifted.items()}

    @property
    def abstract_params(self) -> dict:
        """Their shapes."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.params)

    def prepare(self, params: dict, prompts: Sequence[str]) -> Array:
        """Unit embeddings of the prompts, [P, D] float32; of human actions their classes, [P, 1]
        int32, -1 where a prompt names none, with a warning; otherwise nothing, [P, 0]."""
        texts = [name for name in DIMENSIONS[self._dimension].networks if name.endswith("_text")]
        if texts:
            found = np.asarray(self._networks[texts[0]](np.asarray(list(prompts))))
            return normalise(jnp.asarray(found, jnp.float32))
        if self._dimension == "human_action":
            labels = self._networks["umt"].labels
            return jnp.asarray([[_action(prompt, labels)] for prompt in prompts], jnp.int32)
        return jnp.zeros((len(prompts), 0))

    def score(self, params: dict, frames: Array, query: Array) -> Array:
        """The dimension's score of each video.

        Args:
          params: as `self.params`.
          frames: [B, T, H, W, 3] float32 in [0, 1]; rounded to 8 bits first.
          query: of one prompt.

        Returns:
          [B] float32.

        Raises:
          ValueError: sides of frames that a flow network has no answer for.
        """
        if self._dimension in ("dynamic_degree", "motion_smoothness"):
            height, width = frames.shape[2:4]
            if min(height, width) < SMALLEST_SIDE:
                raise ValueError(
                    f"{self.name} needs sides of at least {SMALLEST_SIDE} pixels, "
                    f"not {height} x {width}"
                )
        judge = _SCORES[self._dimension]
        one = lambda video: judge(self, params, video, query)  # noqa: E731
        return jax.lax.map(one, to_levels(frames)).astype(jnp.float32)

    def ask(self, params: dict, name: str, *arrays: Array) -> Array:
        """What a network says of rows."""
        return self._lifted[name](params[name], *arrays)

    def size(self, name: str) -> int:
        """Side of a network's input."""
        return self._networks[name].size


def _shapes(name: str, size: int) -> list[tuple[int, ...]]:
    """Of some arrays that a network takes."""
    if name in ("raft", "amt"):
        return [(1, _SIDE, _SIDE, 3)] * 2
    if name == "musiq":
        return [(1, _SIDE, _SIDE, 3)]
    clip = {"viclip": (8,), "umt": (16,)}.get(name, ())
    return [(1, *clip, size, size, 3)]


def _action(prompt: str, labels: Sequence[str]) -> int:
    """The class that a prompt names, as `rules.human_action` reads it; -1 if it names none."""
    action = prompt.lower().partition("person is ")[2].split("-")[0]
    if action in labels:
        return labels.index(action)
    warnings.warn(
        f"the prompt {prompt!r} names no action that {PREFIX}human_action knows; all videos are "
        "equal to it",
        stacklevel=3,
    )
    return -1


# Each takes a verifier, parameters, one video's levels [T, H, W, 3] from 0 to 255, and its query.


def _consistency(name: str, prepare: Callable) -> Callable:
    def score(verifier, params, levels, query):
        if len(levels) < 2:
            return jnp.float32(1)
        unit = normalise(verifier.ask(params, name, prepare(levels, verifier.size(name))))
        previous = jnp.maximum((unit[1:] * unit[:-1]).sum(-1), 0)
        return (previous + jnp.maximum(unit[1:] @ unit[0], 0)).mean() / 2

    return score


def _flickering(verifier, params, levels, query):
    return temporal_flickering(levels[None] / 255)[0]


def _smoothness(verifier, params, levels, query):
    if len(levels) < 3:
        return jnp.float32(1)
    kept = inputs.pad_to(levels[::2], 16) / 255
    between = verifier.ask(params, "amt", kept[:-1], kept[1:])
    between = jnp.floor(jnp.clip(inputs.unpad(between, *levels.shape[1:3]) * 255, 0, 255))
    return 1 - jnp.abs(between - levels[1::2][: len(between)]).mean() / 255


def _dynamic(verifier, params, levels, query):
    places = range(0, len(levels), motion_stride(verifier.fps))
    pairs = list(itertools.pairwise(places))
    if not pairs:
        return jnp.float32(0)
    height, width = levels.shape[1:3]
    padded = inputs.pad_to(levels, 8)
    first, second = np.transpose(pairs)
    flow = verifier.ask(params, "raft", padded[first], padded[second])
    length = jnp.linalg.norm(flow, axis=-1).reshape(len(flow), -1)
    largest = jax.lax.top_k(length, max(int(0.05 * length.shape[1]), 1))[0].mean(-1)
    moving = (largest > rules.motion_threshold(height, width)).sum()
    return (moving >= rules.pairs_needed(len(places))).astype(jnp.float32)


def _aesthetic(verifier, params, levels, query):
    x = inputs.clip_frames(levels, verifier.size("aesthetic"))
    return verifier.ask(params, "aesthetic", x).mean() / 10


def _imaging(verifier, params, levels, query):
    return verifier.ask(params, "musiq", inputs.imaging_input(levels)).mean() / 100


def _likely(verifier, params, levels, query):
    clip = inputs.umt_input(levels, verifier.size("umt"))
    chances = jax.nn.sigmoid(verifier.ask(params, "umt", clip[None])[0])
    best, places = jax.lax.top_k(chances, min(5, len(chances)))
    return ((places == query[0]) & (jnp.round(best, 4) >= 0.85)).any()


def _style(verifier, params, levels, query):
    x = inputs.clip_frames(levels, verifier.size("clip_b32"), "picture")
    return (normalise(verifier.ask(params, "clip_b32", x)) @ query).mean()


def _text(verifier, params, levels, query):
    clip = inputs.viclip_input(levels, verifier.size("viclip"))
    return normalise(verifier.ask(params, "viclip", clip[None]))[0] @ query


_SCORES = {
    "subject_consistency": _consistency("dino", inputs.dino_input),
    "background_consistency": _consistency("clip_b32", inputs.clip_frames),
    "temporal_flickering": _flickering,
    "motion_smoothness": _smoothness,
    "dynamic_degree": _dynamic,
    "aesthetic_quality": _aesthetic,
    "imaging_quality": _imaging,
    "human_action": _likely,
    "appearance_style": _style,
    "temporal_style": _text,
    "overall_consistency": _text,
}
NAMES = tuple(PREFIX + dimension for dimension in _SCORES)


def open_dimension(
    name: str, checkpoint: Path | str | None, options: Mapping[str, Any]
) -> DimensionVerifier:
    """A dimension's verifier with its networks.

    Args:
      name: "vbench.<dimension>".
      checkpoint: folder of the one network that it needs, see
        `tts_jax.evaluation.vbench.networks.LOADERS`; None where it needs none.
      options: "fps", frames a second of the written files.

    Raises:
      ValueError: as of `DimensionVerifier`, another network than VBench's, or another option.
      CheckpointError: no folder, or one that does not hold the network.
    """
    dimension = name.removeprefix(PREFIX)
    if unknown := set(options) - {"fps"}:
        raise ValueError(f"{name} has no option {min(unknown)!r}; it has fps")
    networks = {}
    if dimension in _SCORES and DIMENSIONS[dimension].networks:
        needed = DIMENSIONS[dimension].networks[0]
        if checkpoint is None:
            raise CheckpointError(
                f"{name} has no embedded checkpoint: convert {needed} and name its folder"
            )
        if not Path(checkpoint).is_dir():
            raise CheckpointError(f"checkpoint {checkpoint} of {name} does not exist")
        networks = load_networks({needed: checkpoint})
    return DimensionVerifier(dimension, networks, options.get("fps"))
