"""Tree-of-Frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tts_jax.search import selection
from tts_jax.search.presets.common import fields
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.tree import ROOT, Node

# With the values they have where a configuration has none.
FIELDS = dict(
    branching=(),
    images=(),
    image_survivors=(),
    image_keep=0,
    judge_depths=(),
    rule="top_k",
    keep=(),
    share=0.5,
    floors={},
)
RULES = ("median", "all_yes", "top_k", "fraction")


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Tree-of-Frames (arXiv 2503.18942). Depths count units.

    At depth d every live path has B[d] children, each from fresh noise and each the best of A[d]
    candidates. Candidates are judged as images on the clean estimate after segments of their unit
    (image-level alignment), and those that are rejected go no further. First units may be
    judged as images once more, all together. At a judge depth the paths are judged as videos so
    far, by the stage's prompt, and pruned; at the end the panel picks one by the whole prompt,
    among all candidates of the last unit that are left.

    With W[d] paths live before depth d, units: sum over d of W[d] * B[d] * A[d], where NFE is that
    of each unit, less what rejected candidates do not run: of a unit of S segments, segment s runs
    for as many candidates as the segment before it left. Decodes: one for each candidate of a
    judged segment, W[d] * B[d] at each judge depth and W[d] * B[d] * A[d] at the last. Calls of a
    verifier: one per decode it judges. With B = 1 but at judge depths and A = 1 this is N + T
    units in the place of N * T.

    Args:
      config: `branching`, B, and `images`, A (ones), one entry per unit;
        `image_survivors`, the candidates of each child that stay after each segment of a unit but
        the last, where one stays: a number, or a share if a float (a half after each). They are
        judged where some go, all but those of the last unit's last segment;
        `image_keep`, how many first units the image verifiers keep, by the first stage prompt (0:
        they are not asked);
        `judge_depths`, units after which paths are judged, increasing, the i-th by stage prompt i
        (none). Images are judged by the prompt of the next judge depth;
        `rule`, "median" (no worse than the median), "all_yes" (all verifiers accept; else more
        accept than not; else the best), "top_k" or "fraction";
        `keep`, how many paths stay at each judge depth at most, one entry per depth, where 0 sets
        no limit, but for top_k; `share`, of `fraction` (0.5); `floors`, of `all_yes`, the least
        score that each verifier named accepts.
      outline: of the generator.
      rng: not used.

    Raises:
      SearchConfigError: fields that do not fit together or the video.
    """
    own = fields(config, FIELDS)
    tree = Tree(
        branching=tuple(own.branching),
        images=tuple(own.images) or (1,) * len(own.branching),
        image_survivors=tuple(own.image_survivors),
        image_keep=own.image_keep,
        judge_depths=tuple(own.judge_depths),
        rule=own.rule,
        keep=tuple(own.keep),
        share=own.share,
        floors=dict(own.floors),
    )
    _check(tree, outline)
    yield from grow(tree, outline)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The fields of a tree, see `search`."""

    branching: Sequence[int]
    images: Sequence[int]
    image_survivors: Sequence[int | float] = ()
    image_keep: int = 0
    judge_depths: Sequence[int] = ()
    rule: str = "median"
    keep: Sequence[int] = ()
    share: float = 0.5
    floors: Mapping[str, float] | None = None

    def stage(self, depth: int) -> int | None:
        """The stage prompt of images at a depth; None after the last judge depth."""
        passed = sum(judged < depth for judged in self.judge_depths)
        return passed if passed < max(1, len(self.judge_depths)) else None

    def survivors(self, depth: int, segments: int) -> list[int]:
        """Candidates of a child that are left after each segment of its unit."""
        left, result = self.images[depth], []
        for segment in range(segments - 1):
            asked = [*self.image_survivors, *[0.5] * segments][segment]
            share = isinstance(asked, float)
            left = min(left, selection.share_of(left, asked) if share else asked)
            result.append(left)
        return [*result, 1]

    def rule_of(self, stage: int) -> tuple[str, Callable[[Sequence[Node]], list[Node]]]:
        """The rule of a judge depth, with its name for records."""
        cap = self.keep[stage] or None
        label = self.rule if cap is None else f"{self.rule}({cap})"
        rules = {
            "top_k": partial(selection.top_k, k=cap),
            "median": partial(selection.median, cap=cap),
            "all_yes": partial(selection.all_yes, floors=self.floors, cap=cap),
            "fraction": partial(selection.fraction, share=self.share, cap=cap),
        }
        return label, rules[self.rule]


def grow(tree: Tree, outline: Outline) -> Rounds:
    """The rounds of a tree that fits the outline."""
    live, label = [ROOT], ""
    waiting = None  # children that live paths are still to have, each grown to the present depth
    last = len(outline.units) - 1
    for depth, end in enumerate(outline.unit_ends):
        start, images = end - outline.units[depth], tree.images[depth]
        children = tree.branching[depth] * images
        if children > 1 and waiting is not None:
            live = yield Round(parents=live, to=start, children=waiting, label=label)
            waiting, label = None, ""
        waiting = waiting or children

        left = images
        for segment, stay in enumerate(tree.survivors(depth, outline.units[depth]), start + 1):
            if stay == left or (depth == last and segment == end):
                continue
            live = yield Round(
                parents=live,
                to=segment,
                children=waiting,
                estimate="clean",
                judges="image",
                stage=tree.stage(depth),
                label=label,
            )
            live = selection.best_of_groups(live, images, keep=stay, length=start)
            waiting, left = (None if segment == end else 1), stay
            label = f"best_of_groups({images}, {stay})"

        if depth == 0 and tree.image_keep:
            if images == 1:
                live = yield Round(
                    parents=live, to=end, children=waiting, judges="image", stage=0, label=label
                )
                waiting = None
            live = selection.top_k(live, tree.image_keep)
            label = f"top_k({tree.image_keep})"
        elif depth == last:
            yield Round(parents=live, to=end, children=waiting, judges="panel", label=label)
        elif depth in tree.judge_depths:
            stage = tree.judge_depths.index(depth)
            again = [] if waiting else [node.path for node in live]  # judged as images just before
            live = yield Round(
                parents=live,
                to=end,
                children=waiting or 1,
                along=again,
                judges="panel",
                stage=stage,
                label=label,
            )
            label, rule = tree.rule_of(stage)
            live, waiting = rule(live), None


def _check(tree: Tree, outline: Outline) -> None:
    units, depths, branching = len(outline.units), list(tree.judge_depths), list(tree.branching)
    for name in ("branching", "images"):
        entries = getattr(tree, name)
        if len(entries) != units:
            raise SearchConfigError(
                f"{name} has {len(entries)} entries for a video of {units} units"
            )
        if min(entries) < 1:
            raise SearchConfigError(f"{name} {list(entries)} has a depth without children")
    if any(depth < 0 or depth > units - 1 for depth in depths):
        raise SearchConfigError(f"judge depths {depths} are not all in 0..{units - 1}")
    if depths != sorted(set(depths)):
        raise SearchConfigError(f"judge depths {depths} do not increase")
    if units - 1 in depths:
        raise SearchConfigError(f"judge depths {depths} hold the last, where the final pick is")
    if 0 in depths and tree.image_keep:
        raise SearchConfigError(f"judge depths {depths} hold 0, where image_keep judges already")
    if tree.rule not in RULES:
        raise SearchConfigError(f"rule {tree.rule!r} is none of {', '.join(RULES)}")
    if tree.rule == "all_yes" and not tree.floors:
        raise SearchConfigError("the rule all_yes needs floors: verifier names and least scores")
    if tree.rule == "fraction":
        selection.share_of(1, tree.share)
    if len(tree.keep) != len(depths):
        raise SearchConfigError(f"keep has {len(tree.keep)} entries for {len(depths)} judge depths")
    if tree.image_keep and units == 1:
        raise SearchConfigError("image_keep needs a video of more than one unit")
    if not 0 <= tree.image_keep <= branching[0]:
        raise SearchConfigError(f"image_keep is {tree.image_keep} of {branching[0]} first units")
    for keep in tree.image_survivors:
        if isinstance(keep, float):
            selection.share_of(1, keep)
        elif keep < 1:
            raise SearchConfigError(f"image_survivors has {keep}, but a candidate must stay")
    _check_caps(tree)


def _check_caps(tree: Tree) -> None:
    """Checks that there are as many paths as `top_k` is to keep."""
    width = 1
    for depth, children in enumerate(tree.branching):
        width *= children
        if depth == 0 and tree.image_keep:
            width = tree.image_keep
        if depth not in tree.judge_depths:
            continue
        keep = tree.keep[tree.judge_depths.index(depth)]
        if keep < (tree.rule == "top_k"):
            raise SearchConfigError(f"keep {list(tree.keep)} has a depth that keeps {keep} paths")
        if keep > width and tree.rule == "top_k":
            raise SearchConfigError(
                f"the judge depth {depth} keeps {keep} paths out of at most {width}"
            )
        width = min(keep or width, width)
