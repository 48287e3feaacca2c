"""A captioned video world whose truth can be checked: coloured shapes that move on a dark ground.

A caption names one or two objects, each "a {colour} {shape} {motion}"; the renderer draws it with
anti-aliased edges at a random place, and the grader reads colour, shape and motion back from the
pixels alone. T frames  H W frame size.
"""

import dataclasses
import functools
import itertools
import zlib

import numpy as np
from scipy import ndimage

COLOURS = {
    "red": (0.92, 0.16, 0.16),
    "green": (0.16, 0.78, 0.22),
    "blue": (0.20, 0.36, 0.98),
    "yellow": (0.97, 0.86, 0.14),
    "purple": (0.72, 0.24, 0.86),
    "cyan": (0.18, 0.86, 0.92),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = {
    "moving right": (1.0, 0.0),
    "moving left": (-1.0, 0.0),
    "moving up": (0.0, -1.0),
    "moving down": (0.0, 1.0),
    "standing still": (0.0, 0.0),
}
FRAMES = 9
SIZE = 32
BACKGROUND = np.array((0.06, 0.06, 0.08), np.float32)

_RADIUS = (4.6, 5.4)
_SPEED = (1.25, 1.6)
_MARGIN = 6.0
_PALETTE = np.array(list(COLOURS.values()), np.float32)


class CaptionError(ValueError):
    """A caption outside the world's grammar."""


@dataclasses.dataclass(frozen=True, order=True)
class Object:
    """One object of a caption."""

    colour: str
    shape: str
    motion: str

    def __str__(self):
        return f"a {self.colour} {self.shape} {self.motion}"


@dataclasses.dataclass(frozen=True)
class Grade:
    """What the oracle found in a video.

    Attributes:
      objects: per object of the caption, whether its colour, shape and motion are right.
      no_extra: nothing is seen that the caption does not name.
      facts: fraction of all these findings that are right.
      success: all of them are right.
    """

    objects: tuple[dict[str, bool], ...]
    no_extra: bool

    @property
    def findings(self) -> list[bool]:
        return [right for found in self.objects for right in found.values()] + [self.no_extra]

    @property
    def facts(self) -> float:
        return sum(self.findings) / len(self.findings)

    @property
    def success(self) -> bool:
        return all(self.findings)


def caption_of(objects) -> str:
    """The caption that names these objects, in this order."""
    return " and ".join(str(thing) for thing in objects)


@functools.lru_cache(maxsize=65536)
def parse(caption: str) -> tuple[Object, ...]:
    """The objects a caption names.

    Raises:
      CaptionError: the caption is not one or two objects of the grammar in different colours.
    """
    objects = []
    for phrase in caption.strip().split(" and "):
        words = phrase.split()
        motion = " ".join(words[3:])
        if (
            len(words) != 5
            or words[0] != "a"
            or words[1] not in COLOURS
            or words[2] not in SHAPES
            or motion not in MOTIONS
        ):
            raise CaptionError(
                f'"{phrase}" is not "a COLOUR SHAPE MOTION" with a colour of {", ".join(COLOURS)}; '
                f"a shape of {', '.join(SHAPES)}; a motion of {', '.join(MOTIONS)}"
            )
        objects.append(Object(words[1], words[2], motion))
    if len(objects) > 2 or len({thing.colour for thing in objects}) < len(objects):
        raise CaptionError(f'"{caption}" must name one or two objects, in different colours')
    return tuple(objects)


@functools.cache
def captions(split: str) -> tuple[str, ...]:
    """All captions of a split, one-object captions first.

    The split is by combination: both orders of a pair of objects fall into the same split, so that
    what a held-out caption shows never occurs in training. Half of the single objects and a fifth
    of the pairs are held out.

    Args:
      split: "train" or "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not "{split}"')
    singles = [Object(*parts) for parts in itertools.product(COLOURS, SHAPES, MOTIONS)]
    pairs = [p for p in itertools.product(singles, repeat=2) if p[0].colour != p[1].colour]

    def held_out(objects, share):
        return zlib.crc32(caption_of(sorted(objects)).encode()) % share == 0

    chosen = [o for o in [(s,) for s in singles] if held_out(o, 2) == (split == "test")]
    chosen += [o for o in pairs if held_out(o, 5) == (split == "test")]
    return tuple(caption_of(objects) for objects in chosen)


def sample_captions(split: str, count: int, seed: int) -> tuple[str, ...]:
    """A fixed choice of captions, the first half of one object and the second half of two.

    Captions come without repetition as long as the split has enough of them.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for objects, wanted in ((1, (count + 1) // 2), (2, count // 2)):
        pool = [c for c in captions(split) if len(parse(c)) == objects]
        rounds = -(-wanted // len(pool))
        chosen += [pool[i] for _ in range(rounds) for i in rng.permutation(len(pool))][:wanted]
    return tuple(chosen)


def stage_prompts(caption: str) -> tuple[str, str, str]:
    """The caption's static scene, its motion, and its ending.

    The scene and the ending name the objects without their motion: the objects that must be there
    at the start must still be the same at the end.
    """
    scene = " and ".join(f"a {thing.colour} {thing.shape}" for thing in parse(caption))
    return scene, caption_of(parse(caption)), scene


def _signed_distance(shape: str, x, y, radius):
    """Distance to the outline in pixels, negative inside; the area's centroid is the origin."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    if shape == "triangle":
        slanted = (2.0 * np.abs(x) - y) / np.sqrt(5.0) - 0.62 * radius
        return np.maximum(y - 0.72 * radius, slanted)
    arm = 0.36 * radius
    long = 1.1 * radius
    upright = np.maximum(np.abs(x) - arm, np.abs(y) - long)
    level = np.maximum(np.abs(x) - long, np.abs(y) - arm)
    return np.minimum(upright, level)


_PIXEL_X, _PIXEL_Y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)


def _coverage(shape: str, centres, radius):
    """Share of each pixel that the shape covers, [..., H, W], for centres [..., 2] as (x, y)."""
    centres = np.asarray(centres)[..., None, None, :]
    distance = _signed_distance(
        shape, _PIXEL_X - centres[..., 0], _PIXEL_Y - centres[..., 1], radius
    )
    return np.clip(0.5 - distance, 0.0, 1.0)


def _tracks(objects, rng):
    """Centres [N, T, 2] that stay inside the frame and, of several draws, keep most apart."""
    directions = np.array([MOTIONS[thing.motion] for thing in objects])
    best = None
    for _ in range(40):
        speeds = rng.uniform(*_SPEED, len(objects))
        travel = directions * speeds[:, None] * (FRAMES - 1)
        low = _MARGIN + np.maximum(-travel, 0.0)
        high = SIZE - _MARGIN - np.maximum(travel, 0.0)
        start = rng.uniform(low, high)
        steps = np.arange(FRAMES)[None, :, None] / (FRAMES - 1)
        tracks = start[:, None] + travel[:, None] * steps
        if len(objects) == 1:
            return tracks
        gap = np.abs(tracks[0] - tracks[1]).max(-1).min()
        if best is None or gap > best[0]:
            best = (gap, tracks)
        if gap >= 12.0:
            break
    return best[1]


def render(caption: str, seed: int) -> np.ndarray:
    """Draws a caption.

    Args:
      caption: a caption of the grammar.
      seed: decides places, sizes and speeds.

    Returns:
      Frames [9, 32, 32, 3], float32 in [0, 1].

    Raises:
      CaptionError: the caption is outside the grammar.
    """
    objects = parse(caption)
    rng = np.random.default_rng([zlib.crc32(caption.encode()), seed])
    frames = np.broadcast_to(BACKGROUND, (FRAMES, SIZE, SIZE, 3))
    for thing, track in zip(objects, _tracks(objects, rng), strict=True):
        cover = _coverage(thing.shape, track, rng.uniform(*_RADIUS))[..., None].astype(np.float32)
        frames = frames * (1.0 - cover) + np.array(COLOURS[thing.colour], np.float32) * cover
    return frames.astype(np.float32)


def _colour_maps(frames):
    """How much of each palette colour each pixel holds, [C, T, H, W] in [0, 1].

    A pixel belongs to the colour on whose line from the background it lies best.
    """
    directions = _PALETTE - BACKGROUND
    offset = frames - BACKGROUND
    amount = np.einsum("thwk,ck->cthw", offset, directions)
    amount = np.clip(amount / (directions**2).sum(-1)[:, None, None, None], 0.0, 1.0)
    residual = offset[None] - amount[..., None] * directions[:, None, None, None]
    owner = (residual**2).sum(-1).argmin(0)
    return amount * (owner == np.arange(len(_PALETTE))[:, None, None, None])


def _blobs(mask):
    """Number of connected pieces of 14 pixels or more."""
    labels, count = ndimage.label(mask)
    return int((np.bincount(labels.ravel(), minlength=count + 1)[1:] >= 14).sum())


_VISIBLE = 22  # pixels: about a third of the smallest shape


def _grade_shape(maps, centres, shape):
    """Whether the best matching template, over the clearest frames, is this shape."""
    overlaps = {}
    for name in SHAPES:
        sizes = []
        for radius in (4.6, 5.0, 5.4):
            template = _coverage(name, centres, radius)
            union = np.maximum(maps, template).sum((-1, -2))
            sizes.append(np.minimum(maps, template).sum((-1, -2)) / np.maximum(union, 1e-6))
        frames = np.sort(np.max(sizes, axis=0))
        overlaps[name] = float(frames[-6:].mean())
    return max(overlaps, key=overlaps.get) == shape and overlaps[shape] >= 0.6


def _grade_motion(centres, motion):
    """Whether a straight line through the centres [T, 2] goes the way of the motion."""
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    velocity = (time[:, None] * (centres - centres.mean(0))).sum(0) / (time**2).sum()
    rest = centres - centres.mean(0) - time[:, None] * velocity
    if np.sqrt((rest**2).sum(-1).mean()) > 1.5:
        return False
    direction = np.array(MOTIONS[motion])
    if not direction.any():
        return bool(np.hypot(*velocity) < 0.35)
    along = velocity @ direction
    return bool(along > 0.7 and np.hypot(*(velocity - along * direction)) < 0.35)


def grade(frames: np.ndarray, caption: str) -> Grade:
    """Reads colours, shapes and motions from the pixels and holds them against the caption.

    An object's colour is right when it is visible in all frames but one; its shape when the
    template that overlaps it best is the named one; its motion when a straight line through its
    centres goes the named way. Whatever is visible in another colour, or twice, is extra.

    Args:
      frames: [9, 32, 32, 3], float in [0, 1] or uint8.
      caption: a caption of the grammar.

    Raises:
      CaptionError: the caption is outside the grammar.
      ValueError: the frames have another shape.
    """
    objects = parse(caption)
    frames = np.asarray(frames)
    if frames.shape != (FRAMES, SIZE, SIZE, 3):
        raise ValueError(f"frames have shape {frames.shape}, the world has (9, 32, 32, 3)")
    if frames.dtype == np.uint8:
        frames = frames / np.float32(255)
    maps = dict(zip(COLOURS, _colour_maps(np.nan_to_num(frames.astype(np.float32))), strict=True))
    solid = {name: amount > 0.45 for name, amount in maps.items()}
    visible = {name: mask.sum((-1, -2)) >= _VISIBLE for name, mask in solid.items()}
    findings = []
    for thing in objects:
        seen = visible[thing.colour]
        found = {"colour": bool(seen.sum() >= FRAMES - 1), "shape": False, "motion": False}
        if found["colour"]:
            amount = maps[thing.colour][seen] * (maps[thing.colour][seen] > 0.2)
            mass = amount.sum((-1, -2))
            centres = np.stack(
                [(amount * _PIXEL_X).sum((-1, -2)), (amount * _PIXEL_Y).sum((-1, -2))], -1
            )
            centres = centres / mass[:, None]
            found["shape"] = _grade_shape(amount, centres, thing.shape)
            found["motion"] = _grade_motion(centres, thing.motion)
        findings.append(found)
    named = {thing.colour for thing in objects}
    strange = any(visible[name].sum() >= 2 for name in COLOURS if name not in named)
    double = any(
        sum(_blobs(frame) > 1 for frame in solid[name]) >= 3
        or (solid[name].sum((-1, -2)) > 130).sum() >= 3
        for name in named
    )
    return Grade(tuple(findings), not (strange or double))
