"""What the search asks of a verifier.

B branches  P prompts  T frames  H W frame size.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from jax import Array

Query = Any


class Verifier(Protocol):
    """A scorer of (frames, prompt), higher is better.

    Attributes:
      name: as configurations and ledgers write it.
      needs: "image" if it judges the first frame only, "video" if it judges all frames.

    One whose questions depend on the stage of a search also has `at_stage(stage)`, which gives the
    verifier of that stage: another `prepare` for the same parameters and the same `score`. Queries
    of different stages may have different shapes.
    """

    name: str
    needs: Literal["image", "video"]

    def prepare(self, params: dict, prompts: Sequence[str]) -> Query:
        """What scoring needs to know of prompts, computed once per prompt and stage, on the host.

        Args:
          params: the verifier's parameters.
          prompts: P texts.

        Returns:
          A pytree of arrays with a leading prompt axis.

        Raises:
          PromptError: a prompt that the verifier's tokenizer rejects.
        """
        ...

    def score(self, params: dict, frames: Array, query: Query) -> Array:
        """Scores videos against one prompt; pure and jittable unless the verifier says otherwise.

        Args:
          params: the verifier's parameters.
          frames: [B, T, H, W, 3] float32 in [0, 1].
          query: the query of one prompt, without the prompt axis.

        Returns:
          Scores, [B] float32.
        """
        ...
