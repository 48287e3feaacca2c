"""Small stand-ins for tokenizers and verifiers."""

import jax.numpy as jnp
import numpy as np


class Letters:
    """A tokenizer of single letters and an end; `texts` are those that it has read."""

    def __init__(self, length: int, letters: int = 29):
        self.length, self.letters, self.texts = length, letters, []

    def tokenize(self, prompts):
        self.texts += prompts
        rows = [[ord(c) % self.letters + 2 for c in prompt] for prompt in prompts]
        rows = [[*row[: self.length - 1], 1] for row in rows]
        tokens = np.array([row + [0] * (self.length - len(row)) for row in rows], np.int32)
        return tokens, tokens > 0


class Brightness:
    """The mean of all pixels."""

    name, needs = "brightness", "video"

    def prepare(self, params, prompts):
        return jnp.zeros(len(prompts))

    def score(self, params, frames, query):
        return frames.mean((1, 2, 3, 4))
