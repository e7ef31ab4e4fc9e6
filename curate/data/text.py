"""The words of a row, for methods that read text rather than tokens."""

from typing import Literal

from curate.core import Content

Part = Literal["all", "prompt", "answer"]


def text_of(content: Content, part: Part = "all") -> str | None:
    """The row's turns joined by line feeds: all, those before an answer, or the answers; None for a row that came as token ids.

    Plain text, which has no roles, is all answer.
    """
    turns = content.turns
    if not turns:
        return None
    answers = ("assistant", "")
    return "\n".join(text for role, text in turns if part == "all" or (role in answers) == (part == "answer"))
