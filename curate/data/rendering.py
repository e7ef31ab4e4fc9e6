"""Conversations as the text that a model reads, with the spans of the answers: by its chat template, or in a plain format."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, cast

from curate.data.conversation import Messages, Rejection

_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# Templates that print today's date would give other tokens tomorrow; this is the date that Llama's falls back to.
_FROZEN_CLOCK = '{%- set strftime_now = "26 Jul 2024".format -%}'

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """Text, and the character spans [start, end) that the loss is taken over."""

    text: str
    spans: tuple[Span, ...]


class Renderer(Protocol):
    """Turns messages into text."""

    def render(self, messages: Messages) -> Rendered | Rejection:
        """The whole conversation, which ends with an answer."""

    def prompt(self, messages: Messages) -> str | Rejection:
        """The conversation up to where the model's next answer starts."""


@dataclass(frozen=True)
class ChatTemplate:
    """The model's own template. The answers are what its generation marks enclose, or else what follows each prompt.

    Without marks: the answer to messages[:i] is the part of the rendered messages[:i+1] that the rendered messages[:i]
    with a generation prompt do not hold. White space after the end-of-turn token is not part of it.
    """

    source: str
    variables: Mapping[str, Any]  # the special tokens by name, which templates refer to
    specials: tuple[str, ...]

    def render(self, messages: Messages) -> Rendered | Rejection:
        from jinja2 import TemplateError

        try:
            if _MARK.search(self.source) and (marked := self._marked(messages)):
                return marked
            return self._by_prefix(messages)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            return Rejection("template_error", ascii(str(error))[1:161])

    def prompt(self, messages: Messages) -> str | Rejection:
        from jinja2 import TemplateError

        try:
            return self._text(messages, prompt=True)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            return Rejection("template_error", ascii(str(error))[1:161])

    def _jinja(self, messages: Messages, *, prompt: bool = False, marks: bool = False) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        source = _FROZEN_CLOCK + self.source if "strftime_now" in self.source else self.source
        chat = [{"role": role, "content": content} for role, content in messages]
        options = {"add_generation_prompt": prompt, "return_assistant_tokens_mask": marks, **self.variables}
        texts, spans = cast(tuple[list[str], list[list[Span]]], render_jinja_template(conversations=[chat], chat_template=source, **options))
        return texts[0], spans[0] if marks else []

    def _text(self, messages: Messages, *, prompt: bool = False) -> str:
        return self._jinja(messages, prompt=prompt)[0]

    def _marked(self, messages: Messages) -> Rendered | None:
        """None where the marks are not to be trusted: inside macros their positions come out wrong."""
        text, spans = self._jinja(messages, marks=True)
        inside = "\n".join(text[start:end] for start, end in spans)
        if all(content.strip() in inside for role, content in messages if role == "assistant"):
            return Rendered(text, tuple((start, end) for start, end in spans if start < end))
        return None

    def _by_prefix(self, messages: Messages) -> Rendered | Rejection:
        text = self._text(messages)
        spans = []
        for turn, (role, _) in enumerate(messages):
            if role == "assistant":
                before = self._text(messages[:turn], prompt=True)
                after = self._text(messages[: turn + 1]) if turn + 1 < len(messages) else text
                if not (after.startswith(before) and text.startswith(after)):
                    return Rejection("template_not_prefix_stable", f"the template changes earlier text when turn {turn + 1} is added")
                spans.append((len(before), self._answer_end(text, len(before), len(after))))
        return Rendered(text, tuple(spans))

    def _answer_end(self, text: str, start: int, end: int) -> int:
        trimmed = start + len(text[start:end].rstrip())
        return trimmed if text[start:trimmed].endswith(self.specials) else end


@dataclass(frozen=True)
class PlainFormat:
    """For tokenizers without a template: one pair is `question NEWLINE answer END`.

    Longer conversations are `User: question NEWLINE Assistant: answer END NEWLINE User: ...`. END is the
    end-of-sequence token, if the tokenizer has one; BEGIN, where the tokenizer adds it by itself, leads.
    """

    begin: str
    end: str

    def render(self, messages: Messages) -> Rendered | Rejection:
        parts = [(self.begin, False), *self._parts(messages)]
        ends = list(accumulate(len(text) for text, _ in parts))
        spans = tuple((end - len(text), end) for end, (text, answer) in zip(ends, parts, strict=True) if answer and text)
        return Rendered("".join(text for text, _ in parts), spans)

    def prompt(self, messages: Messages) -> str | Rejection:
        parts = list(self._parts((*messages, ("assistant", ""))))
        return self.begin + "".join(text for text, _ in parts[:-1])

    def _parts(self, messages: Messages) -> Iterable[tuple[str, bool]]:
        turns = [turn for turn in messages if turn[0] != "system"]
        yield "".join(f"{content}\n" for role, content in messages if role == "system"), False
        if len(turns) == 2:
            yield f"{turns[0][1]}\n", False
            yield turns[1][1] + self.end, True
            return
        for number, (role, content) in enumerate(turns):
            lead = "\n" if number else ""
            yield f"{lead}{role.capitalize()}:" + ("" if role == "assistant" else f" {content}"), False
            if role == "assistant":
                yield f" {content}{self.end}", True
