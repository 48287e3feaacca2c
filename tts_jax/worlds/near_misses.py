"""Videos of the moving-shapes world that are almost what a caption says, to train verifiers on.

A near miss is made by construction, never by the oracle: the objects of a caption are laid out, one
thing is made wrong, and the result is drawn. T frames  H W frame size.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tts_jax.worlds.moving_shapes import (
    _MARGIN,
    _PIXEL_X,
    _PIXEL_Y,
    _RADIUS,
    _SPEED,
    BACKGROUND,
    COLOURS,
    FRAMES,
    MOTIONS,
    SHAPES,
    SIZE,
    Object,
    _signed_distance,
    caption_of,
    captions,
    parse,
)

Scene = tuple[tuple[str, str], ...]


@dataclasses.dataclass
class Actor:
    """One drawn object, free to change from frame to frame.

    Attributes:
      thing: what a caption would call it.
      centres: [T, 2] as (x, y), pixels.
      shapes: [T, S] weights of the world's shapes in the outline.
      colours: [T, 3] in [0, 1].
      opacity: [T] in [0, 1].
      radius: pixels.
      stretch: ratio of width to height.
      softness: width of the edge, pixels.
    """

    thing: Object
    centres: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray
    opacity: np.ndarray
    radius: float
    stretch: float = 1.0
    softness: float = 1.0

    def cover(self, times: Sequence[int]) -> np.ndarray:
        """Share of each pixel that the object covers, [len(times), H, W, 1]."""
        offset = self.centres[times][:, None, None]
        wide = np.sqrt(self.stretch)
        x = (_PIXEL_X - offset[..., 0]) / wide
        y = (_PIXEL_Y - offset[..., 1]) * wide
        weights = self.shapes[times]
        distance = sum(
            weights[:, i, None, None] * _signed_distance(SHAPES[i], x, y, self.radius)
            for i in np.flatnonzero(weights.any(0))
        )
        share = np.clip(0.5 - distance / self.softness, 0.0, 1.0)
        return (share * self.opacity[times][:, None, None])[..., None]


class Sample(NamedTuple):
    """A drawn video and what it shows.

    Attributes:
      frames: [F, H, W, 3] uint8, the drawn times only.
      scene: colours and shapes of its objects, or None if no caption's scene fits.
      objects: its objects with their motions, or None if no caption fits.
    """

    frames: np.ndarray
    scene: Scene | None
    objects: tuple[Object, ...] | None


def scene_of(objects: Sequence[Object]) -> Scene:
    """Colours and shapes of objects, whatever their order and motion."""
    return tuple(sorted((thing.colour, thing.shape) for thing in objects))


def one_word_changes(caption: str, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Captions that differ in one colour, one shape or one motion, by kind.

    Args:
      caption: a caption of the world.
      kinds: of "colour", "shape", "motion", "number"; a change of number drops one of two objects,
        and is empty for captions of one.
    """
    objects = parse(caption)
    values = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": tuple(MOTIONS)}
    taken = {thing.colour for thing in objects}
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for kind in kinds:
        if kind == "number":
            if len(objects) > 1:
                found[kind] = [str(thing) for thing in objects]
            continue
        for index, thing in enumerate(objects):
            for value in values[kind]:
                if value == getattr(thing, kind) or (kind == "colour" and value in taken):
                    continue
                changed = list(objects)
                changed[index] = dataclasses.replace(thing, **{kind: value})
                found[kind].append(caption_of(changed))
    return found


def _track(motion: str, rng, others: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Centres [T, 2]; of several draws, the first that keeps 12 pixels from the others."""
    tries = 24
    travel = np.array(MOTIONS[motion]) * rng.uniform(*_SPEED, (tries, 1)) * (FRAMES - 1)
    low = _MARGIN + np.maximum(-travel, 0.0)
    high = SIZE - _MARGIN - np.maximum(travel, 0.0)
    start = rng.uniform(low, high)
    steps = np.arange(FRAMES)[None, :, None] / (FRAMES - 1)
    tracks = start[:, None] + travel[:, None] * steps
    if not others:
        return tracks[0]
    gaps = np.min([np.abs(tracks - o).max(-1).min(-1) for o in others], axis=0)
    return tracks[np.argmax(gaps >= 12.0)] if (gaps >= 12.0).any() else tracks[gaps.argmax()]


def _actor(thing: Object, centres: np.ndarray, rng) -> Actor:
    return Actor(
        thing=thing,
        centres=centres + rng.normal(0, rng.uniform(0, 0.25), (FRAMES, 2)),
        shapes=np.tile(np.eye(len(SHAPES))[SHAPES.index(thing.shape)], (FRAMES, 1)),
        colours=np.tile(COLOURS[thing.colour], (FRAMES, 1)),
        opacity=np.ones(FRAMES),
        radius=rng.uniform(*_RADIUS) * rng.uniform(0.95, 1.06),
        stretch=np.exp(rng.normal(0, 0.05)),
        softness=rng.uniform(1.0, 2.2),
    )


def cast(objects: Sequence[Object], rng, others: Sequence[Actor] = ()) -> list[Actor]:
    """Lays objects out as the renderer would, with small imperfections that leave them right."""
    actors = list(others)
    for thing in objects:
        centres = _track(thing.motion, rng, [actor.centres for actor in actors])
        actors.append(_actor(thing, centres, rng))
    return actors[len(others) :]


def paint(actors: Sequence[Actor], times: Sequence[int]) -> np.ndarray:
    """Draws actors at the given times, [len(times), H, W, 3] uint8."""
    times = np.asarray(times)
    frames = np.broadcast_to(BACKGROUND, (len(times), SIZE, SIZE, 3))
    for actor in actors:
        cover = actor.cover(times)
        frames = frames * (1 - cover) + actor.colours[times][:, None, None] * cover
    return np.round(frames * 255).astype(np.uint8)


def _other(rng, values, but):
    return rng.choice([value for value in values if value not in but])


def _extra(actors, rng, last):
    colours = [actor.thing.colour for actor in actors]
    colour = rng.choice(colours) if rng.random() < 0.4 else _other(rng, list(COLOURS), colours)
    thing = Object(str(colour), str(rng.choice(SHAPES)), str(rng.choice(list(MOTIONS))))
    return [*actors, *cast([thing], rng, actors)], True, True


def _missing(actors, rng, last):
    actors = list(actors)
    actors.pop(rng.integers(len(actors)))
    return actors, True, True


def _spoil(change: Callable, *, scene: bool):
    """A near miss that changes one actor; `scene` says whether the static scene stays right."""

    def miss(actors, rng, last):
        index = int(rng.integers(len(actors)))
        spoiled = dataclasses.replace(
            actors[index],
            **{
                k: getattr(actors[index], k).copy()
                for k in ("centres", "shapes", "colours", "opacity")
            },
        )
        change(spoiled, rng, last)
        return [*actors[:index], spoiled, *actors[index + 1 :]], scene, False

    return miss


def _morph(actor, rng, last):
    other = SHAPES.index(_other(rng, SHAPES, [actor.thing.shape]))
    weight = rng.uniform(0.5, 0.65)
    actor.shapes = actor.shapes * (1 - weight) + np.eye(len(SHAPES))[other] * weight


def _mix(actor, rng, last):
    other = np.array(COLOURS[_other(rng, list(COLOURS), [actor.thing.colour])])
    weight = rng.uniform(0.5, 0.65)
    actor.colours = actor.colours * (1 - weight) + other * weight


def _fade(actor, rng, last):
    actor.opacity *= rng.uniform(0.12, 0.36)


def _blur(actor, rng, last):
    actor.softness = rng.uniform(7.0, 10.0)


def _resize(actor, rng, last):
    if rng.random() < 0.5:
        actor.radius *= rng.choice([rng.uniform(0.4, 0.6), rng.uniform(1.5, 1.8)])
    else:
        actor.stretch = np.exp(rng.choice([-1, 1]) * rng.uniform(0.6, 0.9))


def _moment(rng, last):
    """A time in the first two thirds, so that a change can be seen long enough before `last`."""
    return int(rng.integers(1, max(2 * last // 3, 1) + 1))


def _switch_shape(actor, rng, last):
    other = SHAPES.index(_other(rng, SHAPES, [actor.thing.shape]))
    actor.shapes[_moment(rng, last) :] = np.eye(len(SHAPES))[other]


def _switch_colour(actor, rng, last):
    other = _other(rng, list(COLOURS), [actor.thing.colour])
    actor.colours[_moment(rng, last) :] = COLOURS[other]


def _vanish(actor, rng, last):
    moment = _moment(rng, last)
    gone = slice(moment, None) if rng.random() < 0.6 else slice(0, moment)
    actor.opacity[gone] = rng.choice([0.0, 0.2])


def _misstep(actor, rng, last):
    """Wrong motion that no motion word fits: too slow, aslant, shaking, stopping or turning."""
    direction = np.array(MOTIONS[actor.thing.motion])
    time = np.arange(FRAMES)[:, None]
    middle = actor.centres.mean(0)
    kind = rng.choice(["slow", "aslant", "shake"] + ["stop", "turn"] * (last >= 4))
    if kind == "shake":
        actor.centres += rng.normal(0, rng.uniform(1.8, 3.0), (FRAMES, 2))
    elif kind == "slow" or not direction.any():
        axis = direction if direction.any() else list(MOTIONS.values())[rng.integers(4)]
        moved = (time - time.mean()) * np.array(axis) * rng.uniform(0.4, 0.65)
        actor.centres = middle + moved
    elif kind == "aslant":
        side = direction[::-1] * rng.choice([-1, 1])
        actor.centres += (time - time.mean()) * side * rng.uniform(0.6, 1.2)
        actor.centres = np.clip(actor.centres, 4, SIZE - 4)
    else:
        moment = int(rng.integers(1, last - 1))
        after = actor.centres[moment + 1 :]
        back = actor.centres[moment] * 2 - after
        actor.centres[moment + 1 :] = actor.centres[moment] if kind == "stop" else back


STATIC = {
    "extra": _extra,
    "missing": _missing,
    "morph": _spoil(_morph, scene=False),
    "mix": _spoil(_mix, scene=False),
    "fade": _spoil(_fade, scene=False),
    "blur": _spoil(_blur, scene=False),
    "size": _spoil(_resize, scene=False),
}
TEMPORAL = {
    "switch_shape": _spoil(_switch_shape, scene=False),
    "switch_colour": _spoil(_switch_colour, scene=False),
    "vanish": _spoil(_vanish, scene=False),
    "misstep": _spoil(_misstep, scene=True),
}
MISSES = {**STATIC, **TEMPORAL}
_WEIGHTS = {"extra": 3.0, "missing": 2.0, "morph": 2.0, "misstep": 4.0}


def _label(actors: Sequence[Actor], scene: bool, motion: bool):
    """What a drawn cast shows, in the words of the grammar, if any."""
    objects = tuple(sorted(actor.thing for actor in actors))
    named = 1 <= len(objects) <= 2 and len({o.colour for o in objects}) == len(objects)
    return (
        scene_of(objects) if named and scene else None,
        objects if named and scene and motion else None,
    )


def trio(caption: str, changed: str, rng, times: Sequence[int], kind: str | None = None):
    """A right video of a caption, one of a changed caption, and one near miss.

    The three share what they can: places, sizes and speeds of what is not changed.

    Args:
      caption: a caption of the world.
      changed: the same with one colour, shape or motion changed.
      rng: numpy generator.
      times: the frames to draw, from 0 on; one frame draws no temporal near miss.
      kind: a key of `MISSES`; random if None.

    Returns:
      Three `Sample`s.
    """
    objects, others = parse(caption), parse(changed)
    actors = cast(objects, rng)
    variant = []
    for actor, thing in zip(actors, others, strict=True):
        if actor.thing.motion == thing.motion:
            variant.append(_actor(thing, actor.centres, rng))
        else:
            variant += cast([thing], rng, [a for a in actors if a is not actor])
    if kind is None:
        kinds = [*STATIC, *(TEMPORAL if len(times) > 1 else ())]
        weights = np.array([_WEIGHTS.get(k, 1.0) for k in kinds])
        kind = rng.choice(kinds, p=weights / weights.sum())
    missed = MISSES[kind](actors, rng, times[-1])
    return [
        Sample(paint(drawn, times), *_label(drawn, scene, motion))
        for drawn, scene, motion in ((actors, True, True), (variant, True, True), missed)
    ]


def training_changes(caption: str, kinds: Sequence[str]) -> list[str]:
    """One-word changes of a training caption that are training captions themselves."""
    allowed = _training_set()
    return [c for found in one_word_changes(caption, kinds).values() for c in found if c in allowed]


@functools.cache
def _training_set() -> frozenset[str]:
    return frozenset(captions("train"))
