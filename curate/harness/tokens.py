"""The tokens of questions, split into context and continuation as lm-eval's `hf` model splits them.

White space at the end of a context moves to the continuation; both together are tokenised, and the continuation is what follows as many tokens as
the context alone has. Special tokens are added as the tokenizer does by default, unless the text begins with the text of the prefix token (BOS, or
else EOS), which also stands for an empty context. Too long a sequence loses tokens on its left, and `dropped` counts them.

Where the context's tokens are not how the whole begins (a token reaches across the border), `stable` is False. lm-eval then feeds the context's own
tokens followed by the rest of the whole, a sequence that no text has; here the whole is fed, cut at the same count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from curate.errors import DataError
from curate.yaml_reader import clip

BATCH = 1024  # texts per call of the tokenizer


@dataclass(frozen=True)
class Encoded:
    """One request in tokens; only those of `continuation` are scored."""

    context: list[int]
    continuation: list[int]
    stable: bool = True
    dropped: int = 0  # tokens cut from the left of the context


@dataclass(frozen=True)
class HarnessTokens:
    """A tokenizer, and the most tokens that its model reads at once."""

    tokenizer: Any
    max_length: int
    _known: dict[tuple[str, bool], list[int]] = field(default_factory=dict, compare=False, repr=False)

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[Encoded]:
        """(context, continuation) texts to tokens, in order; DataError where nothing is left to score, or it does not fit the model."""
        found = []
        for start in range(0, len(requests), BATCH):
            chunk = requests[start : start + BATCH]
            self._encode(text for context, continuation in chunk if context for text in (context.rstrip(), context + continuation))
            found += [self._fit(self._pair(context, continuation), continuation) for context, continuation in chunk]
            self._known.clear()
        return found

    def rolling(self, text: str) -> list[Encoded]:
        """The windows in which all tokens of a text are scored, each once: the first behind the prefix token, the others behind the last token before them.

        A window has max_length tokens of input; the last one reaches back over tokens that were scored before, as context.
        """
        tokens, longest = self._encoded(text), self.max_length
        windows = []
        for start in range(0, len(tokens), longest):
            end = min(start + longest, len(tokens))
            # A window that is not full takes more context, up to max_length tokens of input; the token before `start` is always there.
            context = tokens[max(end - longest - 1, 0) : start] if start else [self.prefix_token]
            windows.append(Encoded(context, tokens[start:end]))
        return windows

    def prompt(self, text: str, max_gen_toks: int) -> Encoded:
        """The tokens of a prompt that leave room for the answer; DataError where there is no room for any prompt."""
        room = self.max_length - max_gen_toks
        if room < 1:
            raise DataError(f"answers of {max_gen_toks} tokens leave no room for a prompt in {self.max_length}; lower max_gen_toks")
        tokens = self._encoded(text)
        if not tokens:
            return Encoded([self.prefix_token], [])
        return Encoded(tokens[-room:], [], dropped=max(len(tokens) - room, 0))

    @cached_property
    def prefix_token(self) -> int:
        """BOS, or else EOS: what an empty context is made of."""
        if (token := self._prefix) is None:
            raise DataError("the tokenizer has neither a BOS nor an EOS token, so nothing can be scored without a context; give the task a description")
        return token

    @property
    def _prefix(self) -> int | None:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(bos) if bos is not None else int(eos) if eos is not None else None

    @cached_property
    def _prefix_text(self) -> str | None:
        return None if self._prefix is None else str(self.tokenizer.decode(self._prefix))

    def _pair(self, context: str, continuation: str) -> Encoded:
        if not context:
            tokens = self._encoded(continuation, plain=True)
            if tokens and tokens[0] == self.prefix_token:
                return Encoded(tokens[:1], tokens[1:])
            return Encoded([self.prefix_token], tokens)
        before, whole = self._encoded(context.rstrip()), self._encoded(context + continuation)
        n = len(before)
        return Encoded(whole[:n] or [self.prefix_token], whole[n:], stable=whole[:n] == before)

    def _fit(self, found: Encoded, continuation: str) -> Encoded:
        scored = len(found.continuation)
        if not scored or not found.context:
            part = "continuation" if found.context else "context"
            raise DataError(f"the {part} of a request has no tokens of its own (continuation {clip(ascii(continuation))}); mend its text or the delimiters")
        if scored > self.max_length:
            raise DataError(f"a continuation of {scored} tokens does not fit the model's {self.max_length} (it begins {clip(ascii(continuation))})")
        room = self.max_length + 1 - scored  # the last token is never fed
        dropped = max(len(found.context) - room, 0)
        return Encoded(found.context[dropped:], found.continuation, found.stable, dropped)

    def _encoded(self, text: str, *, plain: bool = False) -> list[int]:
        """The tokens of one text, `plain` without special tokens."""
        if (text, plain) not in self._known:
            without = plain or (self._prefix_text is not None and text.startswith(self._prefix_text))
            options = {"add_special_tokens": False} if without else {}
            return list(self.tokenizer(text, verbose=False, **options)["input_ids"])
        return self._known[text, plain]

    def _encode(self, texts: Iterable[str]) -> None:
        """Tokenise many texts in two calls, and remember them."""
        by_option: dict[bool, dict[str, None]] = {False: {}, True: {}}
        for text in texts:
            by_option[self._prefix_text is not None and text.startswith(self._prefix_text)][text] = None
        for without, distinct in by_option.items():
            if distinct:
                options = {"add_special_tokens": False} if without else {}
                many = self.tokenizer(list(distinct), verbose=False, **options)["input_ids"]
                self._known.update({(text, False): list(tokens) for text, tokens in zip(distinct, many, strict=True)})
