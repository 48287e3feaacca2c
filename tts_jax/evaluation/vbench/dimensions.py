"""VBench's sixteen dimensions: what each asks of networks or of recorded detections, and its rule.

A dimension asks networks about a video, then applies a rule to their answers, so that a network
plugs in by its name in `NETWORKS` (definition: https://github.com/Vchitect/VBench, version 1).
Several dimensions ask together: what two of them want to know of a video is computed once, and
the rows of all videos go through a network side by side.

N frames or pairs in one call  T frames of the video  H W its size  h w padded or resized size
S side of a square input  D width of an embedding.
"""

import contextvars
import itertools
import math
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from tts_jax.evaluation.vbench import inputs, rules
from tts_jax.evaluation.vbench.rules import SMALLEST_SIDE, Verdict
from tts_jax.evaluation.vbench.sampling import motion_stride
from tts_jax.evaluation.vbench.scores import NAMES
from tts_jax.verifiers.proxies import STATISTICS

NETWORKS = {
    "dino": "DINO ViT-B/16: normalised frames [N, h, w, 3] -> class tokens [N, D]",
    "clip_b32": "CLIP ViT-B/32: normalised frames [N, S, S, 3] -> embeddings [N, D]",
    "clip_b32_text": "CLIP ViT-B/32: texts -> embeddings [N, D]",
    "aesthetic": "CLIP ViT-L/14 and LAION's linear head: normalised frames [N, S, S, 3] -> [N]",
    "viclip": "ViCLIP: normalised clips [N, 8, S, S, 3] -> embeddings [N, D]",
    "viclip_text": "ViCLIP: texts -> embeddings [N, D]",
    "musiq": "MUSIQ for SPAQ: frames in [0, 1] [N, h, w, 3] -> scores from 0 to 100 [N]",
    "raft": "RAFT: two frames in [0, 255], each [N, h, w, 3] -> flow in pixels [N, h, w, 2]",
    "amt": "AMT-S: two frames in [0, 1], each [N, h, w, 3] -> the frame between [N, h, w, 3]",
    "umt": "UMT ViT-L/16 for Kinetics-400: normalised clips [N, 16, S, S, 3] -> logits [N, C]",
}
OF_TEXTS = ("clip_b32_text", "viclip_text")
AT_ONCE = 2  # networks; each has its own activations, and more would not have cores of their own
RECORDED = {
    "objects": "GRiT's objects: class and box",
    "dense_captions": "GRiT's dense captions: class and caption",
    "captions": "Tag2Text's captions",
}


@dataclass(frozen=True)
class Network:
    """A network as dimensions call it.

    Attributes:
      call: see `NETWORKS`; arrays are float32.
      size: side of a square input, or the shorter side of DINO's.
      at_once: most rows, such as frames or pairs, in one call; calls are about even, and the last
        is filled up, so that there are few shapes. A size of earlier calls is taken again, as
        another one is to be compiled, unless more than half of the rows would be fillings.
      labels: classes of a classifier.
      pixels: most of an array in one call, if that is fewer rows; one row may have more.
    """

    call: Callable[..., np.ndarray]
    size: int = 224
    at_once: int = 16
    labels: tuple[str, ...] = ()
    pixels: int | None = None
    _sizes: dict[tuple, set[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """All rows, some at a time."""
        return _join(list(self.parts(*arrays)))

    def parts(self, *arrays: np.ndarray) -> Iterator[np.ndarray]:
        """The answers of one call after the other."""
        rows = self._rows(arrays)
        for start in range(0, len(arrays[0]), rows):
            parts = [np.asarray(x[start : start + rows]) for x in arrays]
            count = len(parts[0])
            if rest := rows - count:
                parts = [np.concatenate([x, np.repeat(x[-1:], rest, 0)]) for x in parts]
            yield np.asarray(self.call(*parts))[:count]

    def forget(self) -> None:
        """Sizes of earlier calls, so that what follows is the same without them."""
        self._sizes.clear()

    def _rows(self, arrays: Sequence[np.ndarray]) -> int:
        """Of one call."""
        count, most = len(arrays[0]), self.at_once
        if self.pixels is not None:
            most = max(1, min(most, self.pixels // math.prod(arrays[0].shape[1:3])))
        known = self._sizes.setdefault(tuple(x.shape[1:] for x in arrays), set())
        computed = {-(-count // size) * size: size for size in sorted(known) if size <= most}
        if computed and (least := min(computed)) <= 2 * count:
            return computed[least]
        if (calls := -(-count // most)) > 1:  # as even as multiples of four make it
            most = min(most, -(-count // (4 * calls)) * 4)
        known.add(rows := min(most, count))
        return rows


Networks = Mapping[str, Network]


@dataclass(frozen=True, eq=False)
class Video:
    """One video, and what is known of it; equal to itself only.

    Attributes:
      name: for messages.
      frames: [T, H, W, 3] uint8.
      fps: frames a second.
      prompt: that it was made from.
      info: VBench's `auxiliary_info` of the prompt: name of a dimension to what it looks for.
      recorded: what detectors said of its middle frames, by the names in `RECORDED`.
    """

    name: str
    frames: np.ndarray
    fps: float
    prompt: str
    info: Mapping = field(default_factory=dict)
    recorded: Mapping[str, Sequence] = field(default_factory=dict)

    def __post_init__(self):
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or 0 in self.frames.shape:
            raise ValueError(f"{self.name}: frames must be [T, H, W, 3] and not empty")
        if self.frames.dtype != np.uint8:
            raise ValueError(f"{self.name}: frames must be bytes, not {self.frames.dtype}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1:3]


@dataclass(frozen=True)
class Ask:
    """A question to a network; equal questions about one video have one answer.

    Of networks of texts, whose input has nothing of a video, equal ones have one answer anyway.

    Attributes:
      network: a name in `NETWORKS`.
      prepare: makes of the frames, if it is not of texts, and of `args`, the array or arrays whose
        rows the network takes.
      args: of `prepare`.
    """

    network: str
    prepare: Callable
    args: tuple[Hashable, ...] = ()


Asking = Generator[Ask, np.ndarray, Any]  # yields questions, is sent the answers, returns something


@dataclass(frozen=True)
class Dimension:
    """One dimension.

    Attributes:
      name: VBench's.
      judge: a video and the networks to its verdict, or to questions and then the verdict.
      networks: names in `NETWORKS`.
      recorded: a name in `RECORDED`, or None.
      needs_info: whether it looks for what `Video.info` names, which custom videos do not have.
    """

    name: str
    judge: Callable[[Video, Networks], Asking | Verdict]
    networks: tuple[str, ...] = ()
    recorded: str | None = None
    needs_info: bool = False

    def lacks(self, networks: Networks, recorded: Mapping) -> str | None:
        """What keeps it from being computed, in words; None if nothing does."""
        missing = [name for name in self.networks if name not in networks]
        if missing:
            return f"no network {' and '.join(missing)}"
        if self.recorded is not None and self.recorded not in recorded:
            return f"no recorded {self.recorded}"
        return None

    def asking(self, video: Video, networks: Networks) -> Asking:
        """Asks about a video and returns its verdict; see `ask_all`.

        Raises:
          ValueError: it is too short or too small, lacks what the dimension needs, or a network
            gave what is no number; the message names it.
        """
        if self.needs_info and self.name not in video.info:
            raise ValueError(f"{video.name}: nothing says what {self.name} looks for")
        if self.recorded is not None and self.recorded not in video.recorded:
            raise ValueError(f"{video.name}: no {self.recorded} are recorded")
        try:
            verdict = self.judge(video, networks)
            if not isinstance(verdict, Verdict):
                verdict = yield from verdict
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{video.name}: {error}") from error
        if not math.isfinite(verdict.total):
            raise ValueError(f"{video.name}: {self.name} is not a number")
        return verdict

    def __call__(self, video: Video, networks: Networks) -> Verdict:
        """Judges a video by itself.

        Raises:
          ValueError: as `asking`.
        """
        return ask(self.asking(video, networks), video, networks)


def ask(asking: Asking, video: Video, networks: Networks) -> Any:
    """What one asking about one video returns; see `ask_all`.

    Raises:
      ValueError: the asking does, or a network or the preparation of its input.
    """
    (found,) = ask_all([(asking, video)], networks)
    if isinstance(found, ValueError):
        raise found
    return found


def ask_all(askings: Sequence[tuple[Asking, Video]], networks: Networks) -> list:
    """What several askings return that go on side by side.

    Equal questions about one video are answered once, also where the askings are of different
    dimensions. Rows of all videos go through a network together where their shapes agree, and some
    networks work at the same time.

    Args:
      askings: each with the video that it is about.
      networks: that they ask.

    Returns:
      For each what it returns, or the ValueError that ended it.
    """
    found, answers = [None] * len(askings), [None] * len(askings)
    open_ones = list(range(len(askings)))
    while open_ones:
        asked = {}
        for i in open_ones:
            asking, video = askings[i]
            try:
                refused = isinstance(answers[i], ValueError)
                ask = (asking.throw if refused else asking.send)(answers[i])
                asked[i] = ask, None if ask.network in OF_TEXTS else video
            except StopIteration as end:
                found[i] = end.value
            except ValueError as error:
                found[i] = error
        known = _answer(list(dict.fromkeys(asked.values())), networks)
        open_ones = list(asked)
        for i, question in asked.items():
            answers[i] = known[question]
    return found


Question = tuple[Ask, Video | None]
Answers = dict[Question, np.ndarray | ValueError]


def _answer(questions: Sequence[Question], networks: Networks) -> Answers:
    """Answers of all networks: one is compiled, or gets its input, while another one computes."""
    jobs = []
    for name in dict.fromkeys(ask.network for ask, _ in questions):
        own = [question for question in questions if question[0].network == name]
        views = {(ask.prepare, ask.args) for ask, _ in own}
        for job, seen in jobs:
            if views & seen:  # the same input, made once
                job[name] = own
                seen |= views
                break
        else:
            jobs.append(({name: own}, views))
    stop, answers = threading.Event(), {}
    if len(jobs) == 1:
        return _work(jobs[0][0], networks, stop)
    with ThreadPoolExecutor(AT_ONCE, "network") as pool:
        try:
            waiting = [
                pool.submit(contextvars.copy_context().run, _work, job, networks, stop)
                for job, _ in jobs
            ]
            for done in as_completed(waiting):
                answers |= done.result()
        except BaseException:  # an interrupt waits for the calls that run, and for no others
            stop.set()
            raise
    return answers


def _work(
    job: Mapping[str, Sequence[Question]], networks: Networks, stop: threading.Event
) -> Answers:
    """Answers of networks; rows of one network and one shape go through it together."""
    prepared, groups, answers = {}, {}, {}
    for name, questions in job.items():
        for question in questions:
            ask, video = question
            view = ask.prepare, ask.args, video
            if view not in prepared:
                prepared[view] = _prepare(ask, video)
            if isinstance(prepared[view], ValueError):
                answers[question] = prepared[view]
            else:
                shapes = tuple(x.shape[1:] for x in prepared[view])
                groups.setdefault((name, shapes), {})[question] = prepared[view]
    for (name, _), group in groups.items():
        ends = np.cumsum([len(arrays[0]) for arrays in group.values()])
        parts = networks[name].parts(*map(_join, zip(*group.values(), strict=True)))
        try:
            rows = []
            while not stop.is_set() and (part := next(parts, None)) is not None:
                rows.append(part)
            if not stop.is_set():
                answers |= zip(group, np.split(_join(rows), ends[:-1]), strict=True)
        except ValueError as error:
            answers |= dict.fromkeys(group, error)
    return answers


def _prepare(ask: Ask, video: Video | None) -> tuple[np.ndarray, ...] | ValueError:
    try:
        arrays = ask.prepare(*([] if video is None else [video.frames]), *ask.args)
    except ValueError as error:
        return error
    return tuple(np.asarray(x) for x in (arrays if isinstance(arrays, tuple) else (arrays,)))


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_side(video: Video, name: str) -> None:
    """Refuses frames on which a flow network has no answer.

    Raises:
      ValueError: a side is below `SMALLEST_SIDE`.
    """
    if min(video.size) < SMALLEST_SIDE:
        height, width = video.size
        raise ValueError(
            f"{name} needs sides of at least {SMALLEST_SIDE} pixels, not {height} x {width}; "
            "enlarge the video, and say so beside its score"
        )


def _flow_pairs(
    frames: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    padded = inputs.pad_to(frames, 8).astype(np.float32)
    first, second = np.transpose(pairs)
    return padded[first], padded[second]


def flow_between(video: Video, pairs: Sequence[tuple[int, int]]) -> Asking:
    """Asks "raft" for the optical flow of pairs of frames, at the padded size.

    Args:
      video: sides of at least `SMALLEST_SIDE`.
      pairs: indices of frames.

    Returns:
      [P, h, w, 2] float.

    Raises:
      ValueError: the video is too small.
    """
    check_side(video, "optical flow")
    if not pairs:
        return np.zeros((0, *video.size, 2), np.float32)
    return (yield Ask("raft", _flow_pairs, (tuple(pairs),)))


def is_static(video: Video) -> Asking:
    """Asks whether the filter before temporal flickering keeps a video.

    Raises:
      ValueError: it is too small or has one frame.
    """
    last = len(video.frames) - 1
    pairs = [(t, t + 1) for t in range(last)] + [(0, last), (last, 0)]
    return rules.is_static((yield from flow_between(video, pairs)), *video.size)


def _subject(video: Video, networks: Networks) -> Asking:
    features = yield Ask("dino", inputs.dino_input, (networks["dino"].size,))
    return rules.subject_consistency(features)


def _background(video: Video, networks: Networks) -> Asking:
    features = yield Ask("clip_b32", inputs.clip_frames, (networks["clip_b32"].size,))
    return rules.background_consistency(features)


def _flickering(video: Video, networks: Networks) -> Verdict:
    return rules.temporal_flickering(video.frames)


def _kept_pairs(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = inputs.pad_to(frames[::2], 16).astype(np.float32) / 255
    return kept[:-1], kept[1:]


def _smoothness(video: Video, networks: Networks) -> Asking:
    check_side(video, "frame interpolation")
    if len(video.frames) < 3:
        raise ValueError("motion smoothness needs at least three frames")
    between = yield Ask("amt", _kept_pairs)
    return rules.motion_smoothness(video.frames, inputs.unpad(between, *video.size))


def _dynamic(video: Video, networks: Networks) -> Asking:
    places = range(0, len(video.frames), motion_stride(video.fps))
    flow = yield from flow_between(video, list(itertools.pairwise(places)))
    return rules.dynamic_degree(flow, *video.size)


def _aesthetic(video: Video, networks: Networks) -> Asking:
    scores = yield Ask("aesthetic", inputs.clip_frames, (networks["aesthetic"].size,))
    return rules.aesthetic_scores(scores)


def _imaging(video: Video, networks: Networks) -> Asking:
    return rules.imaging_quality((yield Ask("musiq", inputs.imaging_input)))


def _umt_clip(frames: np.ndarray, size: int) -> np.ndarray:
    return inputs.umt_input(frames, size)[None]


def _action(video: Video, networks: Networks) -> Asking:
    network = networks["umt"]
    (logits,) = yield Ask("umt", _umt_clip, (network.size,))
    if len(network.labels) != len(logits):
        raise ValueError(f"{len(logits)} classes and {len(network.labels)} labels")
    return rules.human_action(logits, video.prompt, network.labels)


def _text(text: str) -> np.ndarray:
    return np.asarray([text])


def _style(video: Video, networks: Networks) -> Asking:
    size = networks["clip_b32"].size
    frames = yield Ask("clip_b32", inputs.clip_frames, (size, "picture"))
    style = video.info["appearance_style"]["appearance_style"]
    (text,) = yield Ask("clip_b32_text", _text, (style,))
    return rules.appearance_style(frames, text)


def _viclip_clip(frames: np.ndarray, size: int) -> np.ndarray:
    return inputs.viclip_input(frames, size)[None]


def _prompt(video: Video, networks: Networks) -> Asking:
    (clip,) = yield Ask("viclip", _viclip_clip, (networks["viclip"].size,))
    (text,) = yield Ask("viclip_text", _text, (video.prompt,))
    return rules.text_consistency(clip, text)


def _object(video: Video, networks: Networks) -> Verdict:
    wanted = video.info["object_class"]["object"]
    return rules.object_class(video.recorded["objects"], wanted)


def _objects(video: Video, networks: Networks) -> Verdict:
    wanted = video.info["multiple_objects"]["object"]
    return rules.multiple_objects(video.recorded["objects"], wanted)


def _color(video: Video, networks: Networks) -> Verdict:
    wanted = video.info["color"]["color"]
    return rules.color(video.recorded["dense_captions"], wanted, video.prompt)


def _spatial(video: Video, networks: Networks) -> Verdict:
    wanted = video.info["spatial_relationship"]["spatial_relationship"]
    objects = wanted["object_a"], wanted["object_b"]
    return rules.spatial_relationship(video.recorded["objects"], objects, wanted["relationship"])


def _scene(video: Video, networks: Networks) -> Verdict:
    return rules.scene(video.recorded["captions"], video.info["scene"]["scene"]["scene"])


_VICLIP = ("viclip", "viclip_text")
_FOUND = dict(recorded="objects", needs_info=True)
_ALL = (
    Dimension("subject_consistency", _subject, ("dino",)),
    Dimension("background_consistency", _background, ("clip_b32",)),
    Dimension("temporal_flickering", _flickering),
    Dimension("motion_smoothness", _smoothness, ("amt",)),
    Dimension("dynamic_degree", _dynamic, ("raft",)),
    Dimension("aesthetic_quality", _aesthetic, ("aesthetic",)),
    Dimension("imaging_quality", _imaging, ("musiq",)),
    Dimension("object_class", _object, **_FOUND),
    Dimension("multiple_objects", _objects, **_FOUND),
    Dimension("human_action", _action, ("umt",)),
    Dimension("color", _color, recorded="dense_captions", needs_info=True),
    Dimension("spatial_relationship", _spatial, **_FOUND),
    Dimension("scene", _scene, recorded="captions", needs_info=True),
    Dimension("appearance_style", _style, ("clip_b32", "clip_b32_text"), needs_info=True),
    Dimension("temporal_style", _prompt, _VICLIP),
    Dimension("overall_consistency", _prompt, _VICLIP),
)
DIMENSIONS = {name: next(d for d in _ALL if d.name == name) for name in NAMES}


def _stand_in(name: str) -> Dimension:
    """A statistic without weights that is measured beside dimensions, and is none."""
    run = jax.jit(STATISTICS[name])

    def judge(video: Video, networks: Networks) -> Verdict:
        value = float(run(video.frames.astype(np.float32)))
        return Verdict({"video_results": value}, value, 1)

    return Dimension(name, judge)


STAND_INS = {name: _stand_in(name) for name in STATISTICS}
