"""One row as meaning, whatever file and columns it came from; and the reasons for which a row is set aside."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

MAX_BYTES = 2**20

_TURNS = re.compile("s?(ua(t+a)*)+")
_UNREADABLE = re.compile("[\x00\ud800-\udfff]")

Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Rejection:
    """Why a row was set aside: a reason to count by, and a detail for the reader, free of control characters."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Conversation:
    """Exactly one of: messages (role, content), plain text, or token ids with labels (-100 carries no loss)."""

    messages: Messages | None = None
    text: str | None = None
    tokens: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def canonical(self) -> bytes:
        """The content as ASCII bytes, the same for the same content in any file format; what row ids hash."""
        value = {"messages": self.messages} if self.messages is not None else {"text": self.text} if self.text is not None else {"tokens": self.tokens}
        return json.dumps(value, separators=(",", ":")).encode("ascii")

    def strings(self) -> tuple[str, ...]:
        """The texts that a tokenizer will see."""
        return tuple(content for _, content in self.messages) if self.messages is not None else (self.text,) if self.text is not None else ()

    def problem(self, max_bytes: int = MAX_BYTES) -> Rejection | None:
        """What makes the content unusable for any model, checked before a tokenizer sees it; None if nothing does."""
        strings = self.strings()
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in strings) + 4 * len(self.tokens[0] if self.tokens else ())
        if size > max_bytes:
            return Rejection("too_large", f"{size} bytes, at most {max_bytes} are read")
        for text in strings:
            if bad := _UNREADABLE.search(text):
                return Rejection("bad_unicode", f"character {bad.start()} is {ascii(bad.group())}")
        if self.messages is not None:
            return _turns_problem(self.messages)
        if self.text is not None and not self.text.strip():
            return Rejection("empty_text", "the text is blank")
        return None


def digest(content: bytes) -> bytes:
    """The 128-bit hash that row ids are made of."""
    return blake2b(content, digest_size=16).digest()


def _turns_problem(messages: Sequence[tuple[str, str]]) -> Rejection | None:
    initials = "".join(role[:1] for role, _ in messages)
    if not _TURNS.fullmatch(initials):
        roles = ", ".join(ascii(role[:20])[1:-1] for role, _ in messages[:8]) or "none"
        return Rejection("bad_roles", f"turns are {roles}; wanted: an optional system turn, then user and assistant in turn, ending with assistant")
    for role, content in messages:
        if role in ("user", "assistant") and not content.strip():
            return Rejection("empty_text", f"a turn of the {role} is blank")
    return None
