"""Requests in tokens: where the context ends, what stands for an empty one, what is cut, and the windows of long texts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import DataError
from curate.harness.tokens import Encoded, HarnessTokens

LETTERS = "abcdxy \n"


def tokenizer(*, bos: bool = False, adds_bos: bool = False, eos: bool = True) -> Any:
    """One token a letter (a is 2, b is 3, ...), but `xy` is one token, 10, and <e> and <s> are 0 and 1; `adds_bos` puts <s> before every text."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<e>": 0, "<s>": 1, **{letter: 2 + number for number, letter in enumerate(LETTERS)}, "xy": 10}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("x", "y")]))
    backend.add_special_tokens(["<e>", "<s>"])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = ({"bos_token": "<s>"} if bos or adds_bos else {}) | ({"eos_token": "<e>"} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def pair(context: str, continuation: str, *, longest: int = 100, **options: bool) -> Encoded:
    return HarnessTokens(tokenizer(**options), longest).pairs([(context, continuation)])[0]


A, B, C, D, X, Y, SPACE, LINE, XY, EOS, BOS = 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1


def test_the_letters_have_the_numbers_that_the_tests_say() -> None:
    assert tokenizer()("abcdxyx y \n<e>")["input_ids"] == [A, B, C, D, XY, X, SPACE, Y, SPACE, LINE, EOS]


@pytest.mark.parametrize(
    ("context", "continuation", "before", "after"),
    [
        ("ab", " c", [A, B], [SPACE, C]),
        ("ab ", "c", [A, B], [SPACE, C]),  # white space at the end of the context moves
        ("ab \n ", "c", [A, B], [SPACE, LINE, SPACE, C]),
        ("", "ab", [EOS], [A, B]),  # without BOS, EOS stands for the empty context
        ("", "<e>ab", [EOS], [A, B]),  # which is not said twice
        (" \n", "ab", [EOS], [SPACE, LINE, A, B]),
    ],
)
def test_the_continuation_is_what_follows_the_contexts_tokens(context: str, continuation: str, before: list[int], after: list[int]) -> None:
    assert pair(context, continuation) == Encoded(before, after)


@pytest.mark.parametrize(
    ("options", "context", "continuation", "before", "after"),
    [
        ({"adds_bos": True}, "ab", " c", [BOS, A, B], [SPACE, C]),
        ({"adds_bos": True}, "<s>ab", "c", [BOS, A, B], [C]),  # a text that begins with BOS gets no second one
        ({"adds_bos": True}, "", "ab", [BOS], [A, B]),
        ({"adds_bos": True}, " ", "ab", [BOS], [SPACE, A, B]),
        ({"bos": True}, "ab", "c", [A, B], [C]),  # a tokenizer that does not add its BOS by itself is not made to
        ({"bos": True}, "", "ab", [BOS], [A, B]),
    ],
)
def test_bos_comes_as_the_tokenizer_puts_it(options: dict[str, bool], context: str, continuation: str, before: list[int], after: list[int]) -> None:
    assert pair(context, continuation, **options) == Encoded(before, after)


def test_a_token_across_the_border_makes_the_pair_unstable() -> None:
    found = pair("abx", "yc")
    assert found == Encoded([A, B, XY], [C], stable=False)  # the whole's own tokens, cut after as many as the context alone has
    assert pair("abx", "c") == Encoded([A, B, X], [C])


def test_too_long_a_request_loses_tokens_on_its_left_and_says_how_many() -> None:
    # 4 tokens are fed of 5 that count: the last is only predicted.
    assert pair("abcd", "ab", longest=4) == Encoded([B, C, D], [A, B], dropped=1)
    assert pair("abc", "ab", longest=4) == Encoded([A, B, C], [A, B])
    assert pair("abcd", "abab", longest=4) == Encoded([D], [A, B, A, B], dropped=3)


@pytest.mark.parametrize(
    ("context", "continuation", "said"),
    [
        ("ab", "", "the continuation of a request has no tokens of its own"),
        ("abx", "y", "the continuation of a request has no tokens of its own"),  # it is all inside the context's last token
        ("", "", "the continuation of a request has no tokens of its own"),
        ("a", "bcdab", "a continuation of 5 tokens does not fit the model's 4"),
    ],
)
def test_what_cannot_be_scored_is_refused(context: str, continuation: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pair(context, continuation, longest=4)


def test_without_bos_and_eos_there_is_no_empty_context() -> None:
    assert pair("a", "b", eos=False) == Encoded([A], [B])
    with pytest.raises(DataError, match="the tokenizer has neither a BOS nor an EOS token"):
        pair("", "b", eos=False)


def test_many_requests_are_encoded_as_each_alone() -> None:
    requests = [(context, continuation) for context in ("", "a", "ab ", "abx", " ", "<e>a") for continuation in ("yc", " b", "cd")] * 150
    tokens = HarnessTokens(tokenizer(), 50)
    assert len(requests) > 2048 and tokens.pairs(requests) == [pair(*request, longest=50) for request in requests[:18]] * 150


def test_a_prompt_leaves_room_for_its_answer() -> None:
    tokens = HarnessTokens(tokenizer(adds_bos=True), 6)
    assert tokens.prompt("ab ", 2) == Encoded([BOS, A, B, SPACE], [])
    assert tokens.prompt("abcd", 2) == Encoded([A, B, C, D], [], dropped=1)
    assert tokens.prompt("<s>ab", 2) == Encoded([BOS, A, B], [])
    assert HarnessTokens(tokenizer(), 6).prompt("", 2) == Encoded([EOS], [])
    with pytest.raises(DataError, match="answers of 6 tokens leave no room for a prompt in 6; lower max_gen_toks"):
        tokens.prompt("a", 6)


@given(st.text(LETTERS, max_size=40), st.integers(1, 9), st.booleans())
def test_every_token_of_a_text_is_scored_once_behind_the_most_context_that_fits(text: str, longest: int, adds_bos: bool) -> None:
    made = tokenizer(adds_bos=adds_bos)
    tokens = made(text)["input_ids"]
    windows = HarnessTokens(made, longest).rolling(text)
    assert [token for window in windows for token in window.continuation] == tokens
    done = 0
    for number, window in enumerate(windows):
        whole = window.context + window.continuation
        done += len(window.continuation)
        # All that is fed comes right before the window's last token: as much as fits, or the text's beginning behind the prefix.
        expected = [(BOS if adds_bos else EOS), *tokens][max(done - longest, 0) if number else 0 : done + 1]
        assert whole == expected and len(whole) <= longest + 1 and len(window.context) >= 1


def test_an_empty_text_has_no_window() -> None:
    assert HarnessTokens(tokenizer(), 5).rolling("") == []
