"""Special tokens that are spelled out in a row's text: they are text, and must not act as tokens.

Each such string is hidden behind a private character of the same length while a chat template is rendered; the special
tokens that are left in the rendered text are then the template's own.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curate.data.conversation import Messages

_PRIVATE = range(0xF0000, 0x110000)


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text; a literal one holds no token but what its spelling gives."""

    start: int  # in characters of the whole
    text: str
    literal: bool


@dataclass(frozen=True)
class Escape:
    """The special tokens of one tokenizer, as strings."""

    specials: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "Escape":
        """Those that the tokenizer declares special; other added tokens (such as <think>) keep their meaning in text."""
        added = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
        return cls(tuple(sorted({*added, *map(str, tokenizer.all_special_tokens)}, key=lambda token: (-len(token), token))))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.specials)) if self.specials else r"(?!)")

    def count(self, text: str) -> int:
        """How many special tokens the text spells out."""
        return len(self._pattern.findall(text))

    def hide(self, messages: Messages) -> tuple[Messages, Mapping[str, str]]:
        """The messages with special strings hidden, and what each private character stands for; both unchanged if there is none."""
        found = sorted({match for _, content in messages for match in self._pattern.findall(content)})
        if not found:
            return messages, {}
        taken = {character for _, content in messages for character in content}
        free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
        private = {special: next(free) for special in found}
        hidden = tuple((role, self._pattern.sub(lambda match: private[match.group()] * len(match.group()), content)) for role, content in messages)
        return hidden, {character: special for special, character in private.items()}

    def pieces(self, text: str, hidden: Mapping[str, str]) -> list[Piece]:
        """The rendered text, cut where the template's special tokens are if any string is hidden in it; one piece otherwise."""
        return list(self._cut(text, hidden)) if hidden else [Piece(0, text, literal=False)]

    def _cut(self, text: str, hidden: Mapping[str, str]) -> Iterator[Piece]:
        shown = re.compile("|".join(f"{character}{{{len(special)}}}" for character, special in hidden.items()))
        start = 0
        for match in [*self._pattern.finditer(text), None]:
            end = match.start() if match else len(text)
            if end > start:
                yield Piece(start, shown.sub(lambda run: hidden[run.group()[0]], text[start:end]), literal=True)
            if match:
                yield Piece(end, match.group(), literal=False)
                start = match.end()
