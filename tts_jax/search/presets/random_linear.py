"""Random linear search."""

from typing import Any

from tts_jax.search.rounds import Round, SearchConfigError
from tts_jax.search.selection import top_k


def rounds(config: Any, num_segments: int) -> tuple[Round, ...]:
    """Random linear search (arXiv 2503.18942), also called best-of-N.

    N branches from independent noise run to the end; the panel picks one.
    NFE: N * T, with T that of one video. Decodes and calls of each verifier: N.

    Args:
      config: `branches`, N.
      num_segments: segments of a video.

    Raises:
      SearchConfigError: no branches.
    """
    if config.branches < 1:
        raise SearchConfigError(f"branches is {config.branches}, but a search needs at least 1")
    return (Round(segments=range(num_segments), children=config.branches, select=top_k(1)),)
