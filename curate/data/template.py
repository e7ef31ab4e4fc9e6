"""Conversations to tokens: the model's chat template, with the loss on the answers only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from curate.core import Row
from curate.data.conversation import MAX_BYTES, Conversation, Messages, Rejection
from curate.data.escape import Escape, Piece
from curate.data.rendering import ChatTemplate, PlainFormat, Rendered, Renderer, Span
from curate.errors import DataError, ModelError

Offsets = NDArray[np.int64]  # (T, 2) first and last character of each token
Turns = Sequence[Mapping[str, str]]  # each {"role", "content"}


@dataclass(frozen=True)
class Draft:
    """A rendered row, ready for the tokenizer."""

    pieces: Sequence[Piece]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Encoder:
    """A transformers tokenizer with a chat template or without, and the length in tokens that no row may exceed.

    Rows are never truncated. Special tokens that a row's text spells out are encoded as the text they are; such rows are
    tokenised stretch by stretch between the template's own special tokens.
    """

    tokenizer: Any
    max_length: int
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(f"{type(self.tokenizer).__name__} gives no character offsets, so answers cannot be marked; use a model that has a tokenizer.json")

    def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]:
        """One row or rejection per conversation, in order; each depends on its own conversation alone."""
        drafts = [self._draft(conversation) for conversation in conversations]
        tokens = iter(self._tokenise([draft for draft in drafts if isinstance(draft, Draft)]))
        return [self._row(*next(tokens), draft.spans) if isinstance(draft, Draft) else self._fits(draft) for draft in drafts]

    @classmethod
    def of(cls, tokenizer: Any, max_length: int) -> Self:
        """The encoder of this tokenizer; ModelError if it gives no character offsets."""
        return cls(tokenizer, max_length)

    def render_prompt(self, messages: Turns) -> list[int]:
        """The tokens up to where the model's next answer starts; DataError where the template refuses the turns."""
        hidden, meaning = self._escape.hide(_pairs(messages))
        text = self._renderer.prompt(hidden)
        if isinstance(text, Rejection):
            raise DataError(f"the chat template refuses a prompt ({text.detail}); check the roles of its turns")
        return self._tokenise([Draft(self._escape.pieces(text, meaning), ())])[0][0]

    def row(self, messages: Turns) -> Row | None:
        """The tokens of turns that end with an answer, with all answers marked; None if they would be set aside."""
        found = self.encode([Conversation(messages=_pairs(messages))])[0]
        return found if isinstance(found, Row) else None

    def special_tokens_in(self, conversation: Conversation) -> int:
        """How many special tokens the text spells out, all of which are encoded as text."""
        return sum(map(self._escape.count, conversation.strings()))

    def fingerprint(self) -> dict[str, Any]:
        """What the tokens depend on, as JSON: hashes of tokenizer and template, and the limits."""
        vocabulary = blake2b(self.tokenizer.backend_tokenizer.to_str().encode(), digest_size=16).hexdigest()
        rule = self._renderer.source if isinstance(self._renderer, ChatTemplate) else repr(self._renderer)
        template = blake2b(json.dumps([rule, self._variables]).encode(), digest_size=16).hexdigest()
        return {"vocabulary": vocabulary, "template": template, "max_length": self.max_length, "max_bytes": self.max_bytes}

    @cached_property
    def _escape(self) -> Escape:
        return Escape.of(self.tokenizer)

    @property
    def _variables(self) -> Mapping[str, Any]:
        return {name: str(value) if not isinstance(value, list) else list(map(str, value)) for name, value in self.tokenizer.special_tokens_map.items()}

    @cached_property
    def _renderer(self) -> Renderer:
        if self.tokenizer.chat_template:
            return ChatTemplate(self.tokenizer.get_chat_template(), self._variables, self._escape.specials)
        return self._plain

    @cached_property
    def _plain(self) -> PlainFormat:
        begins = self.tokenizer.bos_token_id is not None and self.tokenizer.bos_token_id in self.tokenizer("a")["input_ids"]
        return PlainFormat(str(self.tokenizer.bos_token) if begins else "", str(self.tokenizer.eos_token or ""))

    def _draft(self, conversation: Conversation) -> Draft | Row | Rejection:
        if problem := conversation.problem(self.max_bytes):
            return problem
        if conversation.tokens is not None:
            return self._pretokenised(*conversation.tokens)
        messages, meaning = self._escape.hide(conversation.messages or (("user", conversation.text or ""),))
        if conversation.messages is None:
            begin, end = self._plain.begin, self._plain.end
            text = begin + messages[0][1] + end
            rendered: Rendered | Rejection = Rendered(text, ((len(begin), len(text)),))
        else:
            rendered = self._renderer.render(messages)
        return rendered if isinstance(rendered, Rejection) else Draft(self._escape.pieces(rendered.text, meaning), rendered.spans)

    def _pretokenised(self, ids: Sequence[int], labels: Sequence[int]) -> Row | Rejection:
        known = len(self.tokenizer)
        if len(ids) != len(labels):
            return Rejection("bad_tokens", f"{len(ids)} input_ids but {len(labels)} labels")
        if any(not 0 <= token < known for token in ids):
            return Rejection("bad_tokens", f"token id {next(token for token in ids if not 0 <= token < known)} is not among the {known} of the tokenizer")
        if any(label not in (-100, token) for token, label in zip(ids, labels, strict=True)):
            return Rejection("bad_tokens", "a label is neither -100 nor the token at its place; labels are not shifted")
        return Row(np.asarray(ids, np.int32), np.asarray(labels, np.int64) != -100)

    def _tokenise(self, drafts: Sequence[Draft]) -> list[tuple[list[int], Offsets]]:
        """Ids and character offsets of each draft; one call of the tokenizer for all literal pieces, and one for the others."""
        pieces = [piece for draft in drafts for piece in draft.pieces]
        encoded: dict[int, tuple[list[int], Offsets]] = {}
        for literal in (False, True):
            chosen = [index for index, piece in enumerate(pieces) if piece.literal is literal]
            if chosen:
                texts = [pieces[index].text for index in chosen]
                options = {"add_special_tokens": False, "return_offsets_mapping": True, "split_special_tokens": literal, "verbose": False}
                out = self.tokenizer(texts, **options)
                for index, ids, offsets in zip(chosen, out["input_ids"], out["offset_mapping"], strict=True):
                    encoded[index] = ids, np.asarray(offsets, np.int64).reshape(-1, 2) + pieces[index].start
        numbers = iter(range(len(pieces)))
        parts = [[encoded[next(numbers)] for _ in draft.pieces] for draft in drafts]
        return [(list(chain.from_iterable(ids for ids, _ in part)), np.concatenate([offsets for _, offsets in part])) for part in parts]

    def _row(self, ids: Sequence[int], offsets: Offsets, spans: Sequence[Span]) -> Row | Rejection:
        supervised = np.zeros(len(ids), np.bool_)
        first, last = offsets.T
        for start, end in spans:
            # A byte-level token of nothing but a space has no width: it is reported at its end.
            supervised |= np.where(first < last, (first < end) & (last > start), (first > start) & (first <= end))
        return self._fits(Row(np.asarray(ids, np.int32), supervised))

    def _fits(self, row: Row | Rejection) -> Row | Rejection:
        if isinstance(row, Rejection):
            return row
        if len(row.input_ids) > self.max_length:
            return Rejection("too_long", f"{len(row.input_ids)} tokens, at most {self.max_length}")
        # The first token has nothing before it to be predicted from, so it carries no loss.
        return row if row.supervised[1:].any() else Rejection("no_supervised_tokens", f"none of {len(row.input_ids)} tokens carries loss")


def _pairs(turns: Turns) -> Messages:
    return tuple((turn["role"], turn["content"]) for turn in turns)
