"""The one normal form of text that duplicates and leaks are looked for in.

Unicode NFKC with case folded, then every run of anything but letters, marks and digits is one space; invisible format characters (zero-width
spaces, soft hyphens) vanish, and a line break that was written out as backslash and n counts as a space unless a small letter follows, for `\\nu`
is a Greek letter in LaTeX. What follows from it: quotes, dashes, bullets, markup and spacing never hide a copy. What it costs: `3 + 5` and
`3 - 5` are the same, so bare arithmetic of other signs can look alike; every hit shows both texts for that reason.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

Codes = NDArray[np.uint32]

_WRITTEN_OUT = re.compile(r"\\[ntr](?![a-z])")
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(128)) + bytes(128)
_SPACE = 32


class _Classes(dict[int, int | None]):
    """What becomes of a code point: itself, a space or nothing; found out when it is first met."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        self[code] = code if category[0] in "LMN" else None if category == "Cf" else _SPACE
        return self[code]


_CLASSES = _Classes()


def words(text: str) -> str:
    """The normal form: words with one space between, none around; normal forms are their own."""
    return " ".join(spaced(text).split())


def spaced(text: str) -> str:
    """The normal form with more spaces than need be; `Strip` makes the same of it, and it is quicker to have."""
    if "\\" in text:
        text = _WRITTEN_OUT.sub(" ", text)
    if text.isascii():
        return text.encode().translate(_ASCII).decode()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.translate(_CLASSES)


def letters(text: str) -> str:
    """The normal form without its spaces."""
    return "".join(spaced(text).split())


def plain(text: str) -> str:
    """A lighter form, in which signs and punctuation still count: NFKC, case folded, white space as single spaces."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


@dataclass(frozen=True)
class Strip:
    """Texts in normal form, end to end without their spaces, so that spacing hides nothing; a zero stands behind each."""

    codes: Codes  # (n,)
    heads: NDArray[np.bool_]  # (n,) where a word begins; a zero begins one too
    edges: Integers  # (texts + 1,) where each text begins

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Strip":
        """Of texts that `words` or `spaced` made."""
        joined = "".join(f"{text}\0" for text in texts)
        encoded = np.frombuffer(joined.encode(), np.uint8) if joined.isascii() else np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        kept = encoded != _SPACE
        begins = np.ones(len(encoded), np.bool_)
        begins[1:] = ~kept[:-1] | (encoded[:-1] == 0)
        codes = encoded[kept].astype(np.uint32)
        return cls(codes, begins[kept] | (codes == 0), np.concatenate([[0], np.flatnonzero(codes == 0) + 1]).astype(np.int64))

    def text_at(self, position: int) -> int:
        """The number of the text that holds this position."""
        return int(np.searchsorted(self.edges, position, side="right")) - 1

    def words_of(self, start: int, end: int) -> str:
        """The normal form of a stretch."""
        pieces = np.split(self.codes[start:end], np.flatnonzero(self.heads[start + 1 : end]) + 1)
        return " ".join(piece.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass") for piece in pieces)


def excerpt(text: str, start: int, end: int, around: int = 60) -> str:
    """The part of the original text that holds letters `start` to `end` of its normal form, with a little around it."""
    first, last = place_in(text, start, end)
    left, right = max(0, first - around), min(len(text), last + around)
    return ("..." if left else "") + text[left:right] + ("..." if right < len(text) else "")


def place_in(text: str, start: int, end: int) -> tuple[int, int]:
    """Where letters [start, end) of the normal form, counted as in `Strip`, lie in the original text.

    Where characters do not normalise one by one (marks that join), the place is an estimate by proportion.
    """
    whole = len(letters(text))
    passed = np.cumsum([_size(character) for character in _WRITTEN_OUT.sub("  ", text)] or [0])
    if passed[-1] != whole:
        passed = passed * (whole / max(1, passed[-1]))
    return int(np.searchsorted(passed, start, side="right")), min(len(text), int(np.searchsorted(passed, end, side="left")) + 1)


@lru_cache(maxsize=1 << 16)
def _size(character: str) -> int:
    return len(letters(character))


_OPENING, _CLOSING = " \t\"'`*_#>([{-", " \t\"'`*_)]}"
_BREAKS = ".?!:;\n\r"


def stands_alone(text: str, start: int, end: int) -> bool:
    """Whether letters [start, end) are sentences or lines of their own: a break, or the edge of the text, on both sides."""
    first, last = place_in(text, start, end)
    before, after = text[:first].rstrip(_OPENING), text[last:].lstrip(_CLOSING)
    opened = not before or before[-1] in _BREAKS or before.endswith("\\n") or "\n" in text[len(before) : first]
    return opened and (not after or after[0] in _BREAKS or after.startswith("\\n"))
