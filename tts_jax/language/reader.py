"""Texts with other texts in them to token ids, for language models.

The user's text is data: what looks like a special token in it is read as plain text, and one that
is too long loses its end before it is put into its place, so that nothing around it is ever cut.
"""

import re
import warnings

from tokenizers import Tokenizer as Saved

from tts_jax.language.tokenizer import clean

PLACEHOLDER = "[[prompt]]"


class Reader:
    """Turns the texts that a language model is asked with into token ids."""

    def __init__(self, saved: Saved, limit: int = 512):
        """Takes a saved tokenizer, which is copied.

        Args:
          saved: of the language model.
          limit: most tokens of a prompt; longer ones are cut with a warning.
        """
        self._saved = Saved.from_str(saved.to_str())
        self._saved.no_padding()
        self._saved.no_truncation()
        self._saved.encode_special_tokens = True  # special tokens in a text are text
        self.limit = limit
        added = self._saved.get_added_tokens_decoder().values()
        special = sorted((t.content for t in added if t.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")

    def special(self, token: str) -> int:
        """The id of a special token.

        Raises:
          ValueError: the tokenizer lacks it.
        """
        found = self._saved.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return found

    def answer(self, word: str) -> int:
        """The first token of a word, as a judge's answer begins with it."""
        return self.encode(word)[0]

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        return self._saved.encode(clean(text), add_special_tokens=False).ids

    def fill(self, template: str, prompt: str, placeholder: str = PLACEHOLDER) -> list[int]:
        """Ids of a template, whose special tokens count, with a prompt in it, whose do not.

        Args:
          template: text of ours.
          prompt: text of the user's.
          placeholder: what the prompt takes the place of, wherever it stands.
        """
        prompt = self.cut(prompt)
        ids: list[int] = []
        place = 0
        for found in [*self._special.finditer(template), None]:
            text = template[place : found.start() if found else None]
            if text:
                ids += self.encode(text.replace(placeholder, prompt))
            if found:
                ids.append(self.special(found[0]))
                place = found.end()
        return ids

    def cut(self, prompt: str) -> str:
        """The prompt, or its beginning of `limit` tokens, with a warning."""
        prompt = clean(prompt)
        encoding = self._saved.encode(prompt, add_special_tokens=False)
        if len(encoding.ids) <= self.limit:
            return prompt
        warnings.warn(
            f"a prompt of {len(encoding.ids)} tokens is cut to {self.limit} for a language model",
            stacklevel=3,
        )
        return prompt[: encoding.offsets[self.limit][0]]  # no part of a letter's bytes
