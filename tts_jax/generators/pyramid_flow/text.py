"""The text encoders of Pyramid-Flow: one tower for all, or those of the published checkpoints.

miniFLUX takes the states of T5 and the pooled state of CLIP-L; SD3 the states of T5 and the
projected pooled states of CLIP-L and OpenCLIP bigG, one after the other.

B texts  L tokens  D_text width of the states  D_pooled width of the pooled vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from tts_jax.generators.networks import Networks
from tts_jax.language.clip_text import TextConfig, TextTower
from tts_jax.language.published import open_published
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.language.tokenizer import Tokenizer, open_tokenizer

T5_LENGTH = 128  # tokens of a prompt in the published pipelines
TEXT, CLIP, CLIP_G, T5 = "text", "clip", "clip_g", "t5"


@dataclass(frozen=True, kw_only=True)
class TextEncodersConfig:
    """Which encoders there are: `text` alone, or `t5` with `clip` and perhaps `clip_g`.

    Attributes:
      text: a tower that gives both the states and the pooled vector.
      clip, clip_g: CLIP-L and OpenCLIP bigG; a pooled state is projected where there is a
        projection.
      t5: gives the states.
    """

    text: TextConfig | None = None
    clip: TextConfig | None = None
    clip_g: TextConfig | None = None
    t5: T5Config | None = None

    def __post_init__(self):
        given = tuple(name for name in (TEXT, CLIP, CLIP_G, T5) if getattr(self, name) is not None)
        if given not in ((TEXT,), (CLIP, T5), (CLIP, CLIP_G, T5)):
            raise ValueError(
                f"text encoders are {TEXT} alone, or {CLIP}, {T5} and perhaps {CLIP_G}; "
                f"there are: {', '.join(given) or 'none'}"
            )

    @property
    def width(self) -> int:
        """D_text."""
        return (self.text or self.t5).width

    @property
    def pooled_width(self) -> int:
        """D_pooled."""
        if self.text is not None:
            return self.text.width
        return sum(tower.projection or tower.width for tower in self.pooling.values())

    @property
    def pooling(self) -> dict[str, TextConfig]:
        """The published towers whose pooled states are joined, in that order."""
        towers = {CLIP: self.clip, CLIP_G: self.clip_g}
        return {name: tower for name, tower in towers.items() if tower is not None}

    @property
    def networks(self) -> dict[str, tuple[Callable, TextConfig | T5Config]]:
        """The module and the config of each part."""
        if self.text is not None:
            return {TEXT: (TextTower, self.text)}
        towers = {name: (TextTower, tower) for name, tower in self.pooling.items()}
        return {**towers, T5: (T5Encoder, self.t5)}

    def open_tokenizers(self, folder: Path) -> dict[str, Tokenizer]:
        """The tokenizers of a checkpoint folder, by part.

        Raises:
          FileNotFoundError: a tokenizer is missing.
          ValueError: a file is damaged; the tokenizers library may raise others.
        """
        if self.text is not None:
            path = folder / "tokenizer.json"
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist")
            try:
                return {TEXT: open_tokenizer(path, self.text.length)}
            except Exception as error:  # the tokenizers library raises nothing narrower
                raise ValueError(f"{path}: {error}") from error
        lengths = {name: tower.length for name, tower in self.pooling.items()} | {T5: T5_LENGTH}
        return {
            name: open_published(folder / f"tokenizer{f'_{i}' if i > 1 else ''}", length)
            for i, (name, length) in enumerate(lengths.items(), start=1)
        }


class TextEncoders(Networks):
    """Texts to the denoiser's inputs."""

    def __init__(self, config: TextEncodersConfig, tokenizers: Mapping[str, Tokenizer]):
        """Builds the graphs; allocates no parameters.

        Args:
          config: sizes.
          tokenizers: one for each part.
        """
        self.config = config
        self.tokenizers = tokenizers

    @property
    def networks(self) -> dict:
        """The module and the config of each part."""
        return self.config.networks

    def encode(self, params: Mapping, texts: Sequence[str]) -> tuple[Array, Array, Array]:
        """Encodes texts.

        Args:
          params: nested dictionary with an entry for each part.
          texts: B texts.

        Returns:
          States, [B, L, D_text]; a mask, [B, L] bool, true on real tokens; pooled vectors,
          [B, D_pooled].

        Raises:
          PromptError: the tokenizer refuses a text.
        """
        rows = {name: self.tokenizers[name].tokenize(texts) for name in self.networks}
        mask = jnp.asarray(rows[TEXT if TEXT in rows else T5][1])
        tokens = {name: jnp.asarray(ids) for name, (ids, _) in rows.items()}
        states, pooled = self._run({name: params[name] for name in self.networks}, tokens, mask)
        return states, mask, pooled

    @cached_property
    def _run(self):
        def run(params, tokens, mask):
            models = {name: self.network(params, name) for name in self.networks}
            if TEXT in models:
                return models[TEXT](tokens[TEXT])
            pooled = [
                models[name](tokens[name])[1]
                if tower.projection is None
                else models[name].embed(tokens[name])
                for name, tower in self.config.pooling.items()
            ]
            return models[T5](tokens[T5], mask), jnp.concatenate(pooled, axis=-1)

        return jax.jit(run)
