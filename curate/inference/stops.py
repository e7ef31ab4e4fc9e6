"""Where an answer ends: at a token that does not belong to it, or when its text holds one of some strings."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

_TAIL = 8  # tokens that are decoded beyond the longest stop string, for a character may take several


@dataclass(frozen=True)
class Stops:
    """`tokens` end an answer and are left out of it; a string of `strings` ends it with the token that completes the string, and `cut` takes it off."""

    tokens: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)  # needed for strings

    @classmethod
    def at(cls, tokens: Iterable[int], strings: Sequence[str] = (), decode: Callable[[Sequence[int]], str] | None = None) -> "Stops":
        """Stops at these tokens and strings; empty strings stop nothing."""
        return cls(frozenset(tokens), tuple(string for string in strings if string), decode)

    def take(self, answer: list[int], token: int) -> bool:
        """Add the token to the answer, unless it ends it; whether the answer goes on."""
        if token in self.tokens:
            return False
        answer.append(token)
        return not self.reached(answer)

    def reached(self, answer: Sequence[int]) -> bool:
        """Whether the newest token of an answer completes a stop string."""
        if not self.strings or self.decode is None:
            return False
        # A token has one byte or more, so that the last `longest` tokens hold the last `longest` bytes.
        longest = max(len(string.encode()) for string in self.strings)
        text = self.decode(answer[-(longest + _TAIL) :])
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """The text up to the first stop string."""
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text
