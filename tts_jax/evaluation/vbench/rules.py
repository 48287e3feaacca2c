"""VBench's rules: from what networks say about a video to its record, and to a dataset's score.

Definition: https://github.com/Vchitect/VBench, version 1, text to video; arXiv 2311.17982. What
looks odd here is what published scores were made with, and is kept so that scores compare.

T frames  P pairs of frames  H W frame size  h w padded size  D width of an embedding.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

COLOURS = tuple("white red pink blue silver purple orange green gray yellow black grey".split())
_SIDEWAYS = ("on the left of", "on the right of")
_UPRIGHT = ("on the top of", "on the bottom of")
RELATIONS = _SIDEWAYS + _UPRIGHT
SMALLEST_SIDE = 128  # below it the coarsest correlation of the flow networks has one cell


@dataclass(frozen=True)
class Verdict:
    """What a rule says about one video.

    Attributes:
      record: the video's entry in VBench's result file, without its path; None leaves it out.
      total, count: added over videos, total / count is the score of one process.
      separate: its part in the mean over videos that several processes take; None where they add
        totals and counts as one process does.
    """

    record: dict | None
    total: float
    count: int
    separate: float | None = field(default=None, kw_only=True)


def _one(score: float, **more) -> Verdict:
    """A video that counts once."""
    score = float(score)
    return Verdict({"video_results": score, **more}, score, 1)


def combine(verdicts: Sequence[Verdict], *, several_processes: bool = False) -> float:
    """The score of a dataset.

    Args:
      verdicts: one per video.
      several_processes: average as the original does when its videos are split over processes,
        which for some dimensions gives another number.

    Raises:
      ValueError: there is nothing to average.
    """
    counted = [v for v in verdicts if v.count]
    if not counted:
        raise ValueError("no video has what the dimension measures, so that it has no score")
    if several_processes and counted[0].separate is not None:
        return float(np.mean([v.separate for v in counted]))
    return float(sum(v.total for v in counted) / sum(v.count for v in counted))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def neighbour_similarity(features: np.ndarray) -> np.ndarray:
    """Mean of the cosines with the previous and with the first frame, each at least zero.

    Args:
      features: [T, D] float.

    Returns:
      [T - 1] float64.

    Raises:
      ValueError: fewer than two frames.
    """
    unit = _unit(features)
    if len(unit) < 2:
        raise ValueError("consistency needs at least two frames")
    previous = np.maximum((unit[1:] * unit[:-1]).sum(-1), 0)
    return (previous + np.maximum(unit[1:] @ unit[0], 0)) / 2


def subject_consistency(features: np.ndarray) -> Verdict:
    """DINO features of all frames, [T, D] float; one process pools frames, several average videos.

    Raises:
      ValueError: fewer than two frames.
    """
    similarity = neighbour_similarity(features)
    mean = float(similarity.mean())
    total = float(similarity.sum())
    return Verdict({"video_results": mean}, total, len(similarity), separate=mean)


def background_consistency(features: np.ndarray) -> Verdict:
    """CLIP features of all frames, [T, D] float; frames are pooled.

    Raises:
      ValueError: fewer than two frames.
    """
    similarity = neighbour_similarity(features)
    total, count = float(similarity.sum()), len(similarity)
    record = {"video_results": total / count, "video_sim": total, "cnt_per_video": count}
    return Verdict(record, total, count)


def neighbour_difference(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames.

    Args:
      frames: [T, H, W, 3] uint8.

    Returns:
      [T - 1] float64, 8-bit levels.

    Raises:
      ValueError: fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError("temporal flickering needs at least two frames")
    levels = np.asarray(frames, np.int16)
    return np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(levels)], np.float64)


def temporal_flickering(frames: np.ndarray) -> Verdict:
    """All frames at their own size, [T, H, W, 3] uint8; means something on still videos only.

    Raises:
      ValueError: fewer than two frames.
    """
    return _one((255 - neighbour_difference(frames).mean()) / 255)


def motion_smoothness(frames: np.ndarray, interpolated: np.ndarray) -> Verdict:
    """Compares the odd frames with what was interpolated between the even ones.

    Args:
      frames: [T, H, W, 3] uint8.
      interpolated: [(T - 1) // 2, H, W, 3] float in [0, 1] or a little outside; they are cut off to
        bytes, not rounded.

    Raises:
      ValueError: fewer than three frames, or interpolated frames of another shape.
    """
    if len(frames) < 3:
        raise ValueError("motion smoothness needs at least three frames")
    dropped = frames[1 : len(frames) - (len(frames) % 2 == 0) : 2]
    if interpolated.shape != dropped.shape:
        raise ValueError(
            f"interpolated frames must be {list(dropped.shape)}, not {list(interpolated.shape)}"
        )
    found = np.clip(np.asarray(interpolated, np.float32) * 255, 0, 255).astype(np.uint8)
    difference = np.abs(found.astype(np.int16) - dropped).mean(axis=(1, 2, 3))
    return _one((255 - difference.mean()) / 255)


def largest_flow(flow: np.ndarray, share: float) -> np.ndarray:
    """Mean of the longest vectors of each flow field.

    Args:
      flow: [P, h, w, 2] float, pixels, at the padded size.
      share: of the h * w vectors, rounded down to whole vectors.

    Returns:
      [P] float64.
    """
    length = np.linalg.norm(np.asarray(flow, np.float32), axis=-1).reshape(len(flow), -1)
    count = max(int(share * length.shape[1]), 1)
    return np.sort(length, axis=1)[:, -count:].mean(axis=1, dtype=np.float64)


def motion_threshold(height: int, width: int) -> float:
    """The flow in pixels that counts as motion in frames of a size before padding."""
    return 6.0 * min(height, width) / 256


def pairs_needed(frames: int) -> int:
    """Pairs that must move so that a video of so many sampled frames does; zero for two frames."""
    return round(4 * frames / 16)


def moves(scores: Sequence[float], height: int, width: int) -> bool:
    """Whether enough pairs move; two frames always do and one never does.

    Args:
      scores: `largest_flow` of the neighbour pairs with the share 0.05.
      height, width: frame size before padding.
    """
    threshold, frames = motion_threshold(height, width), len(scores) + 1
    moving = sum(score > threshold for score in scores)
    return bool(len(scores) and moving >= pairs_needed(frames))


def dynamic_degree(flow: np.ndarray, height: int, width: int) -> Verdict:
    """Whether a video moves.

    Args:
      flow: [P, h, w, 2] float, of the neighbour pairs of the sampled frames.
      height, width: frame size before padding.
    """
    found = moves(largest_flow(flow, 0.05) if len(flow) else [], height, width)
    return Verdict({"video_results": found}, float(found), 1)


def is_static(flow: np.ndarray, height: int, width: int) -> bool:
    """The filter before temporal flickering.

    Args:
      flow: [T + 1, h, w, 2] float: of the T - 1 neighbour pairs of all frames, then from the first
        frame to the last, then back.
      height, width: frame size before padding.

    Raises:
      ValueError: fewer than three fields.
    """
    if len(flow) < 3:
        raise ValueError("the static filter needs two frames and both flows between the ends")
    scores = largest_flow(flow, 0.02)
    threshold, allowed = static_limits(len(flow) - 1, height, width)
    few = (scores[:-2] > threshold).sum() <= allowed
    return bool(few and (scores[-2:] <= 2 * allowed * threshold).all())


def static_limits(frames: int, height: int, width: int) -> tuple[float, int]:
    """The static filter's threshold in pixels, and how many neighbour pairs may exceed it."""
    return 3.0 * min(height, width) / 256, round(2 * frames / 16)


def aesthetic_quality(features: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Verdict:
    """LAION's linear head on CLIP ViT-L/14 embeddings, over ten; not clipped.

    Args:
      features: of all frames, [T, D] float; made unit vectors first.
      weight: [1, D] float.
      bias: [1] float.
    """
    return aesthetic_scores(aesthetic_head(features, weight, bias))


def aesthetic_head(features: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The head's scores, [..., D] -> [...] float64, trained on 0 to 10."""
    return _unit(features) @ np.asarray(weight, np.float64)[0] + np.float64(bias[0])


def aesthetic_scores(scores: np.ndarray) -> Verdict:
    """The head's scores of all frames, [T] float."""
    return _one(np.mean(scores) / 10)


def imaging_quality(scores: np.ndarray) -> Verdict:
    """MUSIQ's scores of all frames, [T] float from 0 to 100; the record stays on that scale."""
    mean = float(np.mean(scores))
    return Verdict({"video_results": mean}, mean / 100, 1)


def _frames(successes: Sequence[bool]) -> Verdict:
    """The share of frames that succeed, pooled over videos."""
    good, count = int(sum(successes)), len(successes)
    record = {"video_results": good / count, "success_frame_count": good, "frame_count": count}
    return Verdict(record, float(good), count)


def object_class(frames: Sequence[Mapping], name: str) -> Verdict:
    """Frames in which the named class was detected.

    Args:
      frames: one per sampled frame; "class" lists the classes found.
      name: the class wanted.
    """
    return _frames([name in frame["class"] for frame in frames])


def multiple_objects(frames: Sequence[Mapping], names: str) -> Verdict:
    """Frames in which both classes were detected.

    Args:
      frames: as for `object_class`.
      names: two classes joined by " and ".
    """
    wanted = names.split(" and ")
    return _frames([all(name in frame["class"] for name in wanted) for frame in frames])


def color(frames: Sequence[Mapping], colour: str, prompt: str) -> Verdict:
    """Frames whose captions give the object its colour, of those that give it any.

    The object is what is left of the prompt without articles and colour. The class that is compared
    with it is that of a frame's first detection, for all its captions. A video in which no colour
    is seen is left out.

    Args:
      frames: one per sampled frame; "class" and "caption" list the detections.
      colour: the colour wanted.
      prompt: as in "a red car".
    """
    name = prompt.replace("a ", "").replace("an ", "").replace(colour, "").strip()
    seen = right = 0
    for frame in frames:
        if not frame["class"] or frame["class"][0] != name:
            continue
        seen += any(word in caption for caption in frame["caption"] for word in COLOURS)
        right += any(colour in caption for caption in frame["caption"])
    if not seen:
        return Verdict(None, 0.0, 0)
    return _one(right / seen, cur_success_frame_rate=right / seen)


def box_relation(a: Sequence[float], b: Sequence[float], relation: str) -> float:
    """How well two boxes stand side by side or one over the other; which is where does not matter.

    Args:
      a, b: left, top, right, bottom.
      relation: one of `RELATIONS`.

    Returns:
      0 in the wrong direction, otherwise 1, or 0.1 over the overlap where that is not below 0.1.

    Raises:
      ValueError: another relation.
    """
    if relation not in RELATIONS:
        raise ValueError(f"{relation!r} is none of {', '.join(RELATIONS)}")
    across = abs((a[0] + a[2]) - (b[0] + b[2]))
    along = abs((a[1] + a[3]) - (b[1] + b[3]))
    if not (across > along if relation in _SIDEWAYS else along > across):
        return 0.0
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    overlap = common / (areas - common) if areas > common else 0.0
    return 1.0 if overlap < 0.1 else 0.1 / overlap


def spatial_relationship(
    frames: Sequence[Mapping], objects: tuple[str, str], relation: str
) -> Verdict:
    """The best pair of each frame, two boxes of one class included.

    Args:
      frames: one per sampled frame; "class" and "box" list the detections.
      objects: the two classes.
      relation: one of `RELATIONS`.

    Raises:
      ValueError: another relation.
    """
    scores = []
    for frame in frames:
        found = zip(frame["class"], frame["box"], strict=True)
        boxes = [box for name, box in found if name in objects]
        pairs = ((a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
        scores.append(max((box_relation(a, b, relation) for a, b in pairs), default=0.0))
    mean = float(np.mean(scores))
    record = {"video_results": mean, "frame_results": scores}
    return Verdict(record, float(sum(scores)), len(scores), separate=mean)


def scene(captions: Sequence[str], name: str) -> Verdict:
    """Frames whose caption contains every word of the scene's name, inside of words too.

    Args:
      captions: one per sampled frame.
      name: as in "art gallery".
    """
    return _frames([all(word in caption for word in name.split()) for caption in captions])


def human_action(logits: np.ndarray, prompt: str, labels: Sequence[str]) -> Verdict:
    """Whether the action is among the five likeliest, and likely.

    Args:
      logits: [C] float; they are read through a sigmoid.
      prompt: as in "A person is riding a bike"; what follows a hyphen is ignored.
      labels: the C classes, lower case.

    Raises:
      ValueError: the prompt names no action.
    """
    _, found, action = prompt.lower().partition("person is ")
    if not found:
        raise ValueError(f"{prompt!r} does not say what a person is doing")
    action = action.split("-")[0]
    likely = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    best = np.argsort(-likely, kind="stable")[:5]
    right = any(labels[i] == action and round(float(likely[i]), 4) >= 0.85 for i in best)
    return Verdict({"video_results": right, "cor_num_per_video": int(right)}, float(right), 1)


def appearance_style(features: np.ndarray, text: np.ndarray) -> Verdict:
    """Cosine of every frame with the style's name; several processes take the last frame only.

    Args:
      features: CLIP embeddings of all frames, [T, D] float.
      text: of the phrase, [D] float.
    """
    scores = (_unit(features) @ _unit(text)).tolist()
    record = {
        "video_results": float(np.mean(scores)),
        "frame_results": scores,
        "cur_sim": scores[-1],
    }
    return Verdict(record, float(sum(scores)), len(scores), separate=scores[-1])


def text_consistency(video: np.ndarray, text: np.ndarray) -> Verdict:
    """Overall consistency and temporal style: the cosine of a video and its prompt, [D] float."""
    return _one(_unit(video) @ _unit(text))
