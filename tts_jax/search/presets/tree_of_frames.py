"""Tree-of-Frames."""

from typing import Any

from tts_jax.search.rounds import Round, SearchConfigError
from tts_jax.search.selection import Selection, median, top_k


def rounds(config: Any, num_segments: int) -> tuple[Round, ...]:
    """Tree-of-Frames (arXiv 2503.18942).

    At depth d every live path has branching[d] children, each from fresh noise. First units may be
    judged as images (image-level alignment). At a judge depth the paths are judged as videos so
    far, by the stage's prompt, and pruned; at the end the panel picks one by the whole prompt.

    With W[d] paths live before depth d, units: sum_d W[d] * branching[d], where NFE is that of each
    unit. Decodes: the sum of it over judged depths. Calls of a verifier: one per decode it judges.
    With branching 1 but at judge depths this is N + T in the place of N * T.

    Args:
      config: `branching`, children at each depth, one entry per segment; `image_keep`, how many
        first units the image verifiers keep, by the first stage prompt (0: they are not asked);
        `judge_depths`, segments after which paths are judged, increasing, the i-th by stage
        prompt i; `rule`, "median" (no worse than the median) or "top_k"; `keep`, how many paths
        stay at each judge depth at most, one entry per depth, where 0 sets no limit to `median`.
      num_segments: segments of a video.

    Raises:
      SearchConfigError: fields that do not fit together or the video.
    """
    _check(config, num_segments)
    judged = dict(zip(config.judge_depths, enumerate(config.keep), strict=True))
    result, waiting = [], []
    for depth, children in enumerate(config.branching):
        if children > 1 and waiting:
            result.append(Round(segments=waiting, children=config.branching[waiting[0]]))
            waiting = []
        waiting.append(depth)
        first = config.branching[waiting[0]]
        last = depth == num_segments - 1
        if depth == 0 and config.image_keep:
            choice = dict(judges="image", stage=0, select=top_k(config.image_keep))
        elif last:
            choice = dict(select=top_k(1))
        elif depth in judged:
            stage, keep = judged[depth]
            choice = dict(stage=stage, select=_rule(config.rule, keep))
        else:
            continue
        result.append(Round(segments=waiting, children=first, **choice))
        waiting = []
    return tuple(result)


def _rule(name: str, keep: int) -> Selection:
    return top_k(keep) if name == "top_k" else median(keep or None)


def _check(config: Any, num_segments: int) -> None:
    depths, branching = list(config.judge_depths), list(config.branching)
    if len(branching) != num_segments:
        raise SearchConfigError(
            f"branching has {len(branching)} entries for a video of {num_segments} segments"
        )
    if min(branching) < 1:
        raise SearchConfigError(f"branching {branching} has a depth without children")
    if any(depth < 0 or depth > num_segments - 1 for depth in depths):
        raise SearchConfigError(f"judge depths {depths} are not all in 0..{num_segments - 1}")
    if depths != sorted(set(depths)):
        raise SearchConfigError(f"judge depths {depths} do not increase")
    if num_segments - 1 in depths:
        raise SearchConfigError(f"judge depths {depths} hold the last, where the final pick is")
    if 0 in depths and config.image_keep:
        raise SearchConfigError(f"judge depths {depths} hold 0, where image_keep judges already")
    if config.rule not in ("median", "top_k"):
        raise SearchConfigError(f"rule {config.rule!r} is neither 'median' nor 'top_k'")
    if len(config.keep) != len(depths):
        raise SearchConfigError(
            f"keep has {len(config.keep)} entries for {len(depths)} judge depths"
        )
    if config.image_keep and num_segments == 1:
        raise SearchConfigError("image_keep needs a video of more than one segment")
    if not 0 <= config.image_keep <= branching[0]:
        raise SearchConfigError(f"image_keep is {config.image_keep} of {branching[0]} first units")
