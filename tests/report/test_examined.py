"""The tables of `curate evaluate` at the widths of real terminals: nothing is cut, and a press is never mistaken for the exact engine."""

import io
from typing import Any

import pytest
from rich.console import Console

from curate.harness.results import Evaluated, Examined, MetricFound, Trust
from curate.report.examined import print_evaluated

GSM = [("exact_match,strict-match", 0.1234, 0.0123, True), ("exact_match,flexible-extract", 0.2234, 0.0456, True)]
TEXT = [("word_perplexity", 35342.1, 2111.2, False), ("byte_perplexity", 3.2, 0.02, False), ("bits_per_byte", None, None, False)]
PRESS = {"name": "snapkv", "keep": 0.25, "tokens": None, "importance": {"name": "window", "window": 32}}
DOUBT = "90.0% of answers are the same, and 95% are asked for"
LONG = "less-round_robin-5%-seed0-" + "x" * 40


def examined(variant: str, task: str, metrics: list[tuple[str, float | None, float | None, bool]], **fields: Any) -> Examined:
    given: dict[str, Any] = {
        "version": "1.0",
        "exact": True,
        "items": 1319,
        "empty": 0,
        "forward_tokens": 1234567,
        "tokens_without_sharing": 23456789,
        "cache_bytes": 2**27,
        "compressed_tokens": 0,
        "seconds": 1234.56,
        "unshared": "",
    }
    found = [MetricFound(name=name, value=value, standard_error=error, higher_is_better=higher) for name, value, error, higher in metrics]
    return Examined(variant=variant, task=task, metrics=found, **given | fields)


def trust(task: str, *doubts: str, **fields: Any) -> Trust:
    given: dict[str, Any] = {"items": 32, "agreement": 0.9, "loglikelihood_error": 0.25, "divergence": None, "kendall_tau": 0.333, "sign_agreement": 0.5}
    return Trust(task=task, passed=not doubts, doubts=list(doubts), forward_tokens=12345, **given | fields)


def evaluated(rows: list[Examined], press: dict[str, Any] | None = None, trusts: tuple[Trust, ...] = (), notes: tuple[str, ...] = ()) -> Evaluated:
    return Evaluated(model="m", device="cpu", dtype="float32", version="1", press=press, seed=0, notes=list(notes), examined=rows, trust=list(trusts), plans={})


def printed(found: Evaluated, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_evaluated(found, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("names", [("base", "one"), ("base", LONG)])
def test_every_number_is_whole_at_any_width(width: int, names: tuple[str, str]) -> None:
    rows = [examined(name, task, metrics) for task, metrics in (("gsm8k", GSM), ("text", TEXT)) for name in names]
    text = printed(evaluated(rows), width)
    assert all(len(line) <= width for line in text.splitlines())
    for number in ("0.1234 \u00b1 0.0123", "0.2234 \u00b1 0.0456", "3.534e+04 \u00b1 2111", "3.2000 \u00b1 0.0200", "too large"):
        assert text.count(number) == 2
    for number in ("1,234,567", "23,456,789", "128.0 MiB", "1,234.6"):
        assert text.count(number) == 4
    assert "gsm8k, 1,319 items, version 1.0" in text and "\u2026" not in text
    assert text.count("lower is better") == 3


def test_a_narrow_table_stays_in_one_piece() -> None:
    text = printed(evaluated([examined("base", "boolq", [("acc", 0.5, 0.1, True)])]))
    assert text.count("variant") == 1 and [line.split() for line in text.splitlines() if "base" in line] == [
        ["base", "0.5000", "\u00b1", "0.1000", "1,234,567", "23,456,789", "128.0", "MiB", "1,234.6"]
    ]


def test_what_is_absent_is_said_in_few_words() -> None:
    row = examined("base", "boolq", [("acc", 1.0, None, True)], version="", items=1, cache_bytes=None, forward_tokens=0, tokens_without_sharing=0)
    text = printed(evaluated([row]))
    assert "boolq, 1 item\n" in text and ["base", "1.0000", "0", "0", "-", "1,234.6"] in [line.split() for line in text.splitlines()]
    assert "note: answers that were known before cost nothing" in text


def test_empty_answers_have_a_column_and_a_note() -> None:
    rows = [examined("base", "gsm8k", GSM, empty=3), examined("one", "gsm8k", GSM)]
    text = printed(evaluated(rows), 120)
    assert "empty" in text and "note: gsm8k: empty answers count as wrong" in text
    assert "empty" not in printed(evaluated(rows[1:]))


def test_requests_that_ran_one_by_one_are_said_once() -> None:
    rows = [examined(name, "gsm8k", GSM, unshared="its layers do not attend") for name in ("base", "one")]
    assert printed(evaluated(rows)).count("note: gsm8k: requests ran one by one: its layers do not attend") == 1


@pytest.mark.parametrize("width", [80, 120])
def test_a_press_is_on_every_title_and_its_doubts_in_plain_words(width: int) -> None:
    rows = [examined("base", task, GSM, exact=False, compressed_tokens=800) for task in ("gsm8k", "svamp")]
    text = printed(evaluated(rows, PRESS, (trust("gsm8k"), trust("svamp", DOUBT, "another doubt"))), width)
    flat = " ".join(text.split())
    assert "gsm8k, 1,319 items, version 1.0, through snapkv: not exact" in flat and "svamp, 1,319 items, version 1.0, through snapkv: not exact" in flat
    assert "press: snapkv, keep 0.25, importance window (window 32); its scores are not exact" in flat
    assert f"svamp: do not rank variants by these scores: {DOUBT}; another doubt" in flat and "gsm8k: do not rank" not in flat
    cells = [line.split() for line in text.splitlines()]
    assert ["gsm8k", "32", "90.0%", "0.2500", "-", "0.3330", "0.5000", "12,345", "passes"] in cells
    assert ["svamp", "32", "90.0%", "0.2500", "-", "0.3330", "0.5000", "12,345", "fails"] in cells
    assert text.count(" 800 ") == 2 and all(len(line) <= width for line in text.splitlines())
    assert "do not rank" not in printed(evaluated([examined("base", "gsm8k", GSM)]))


def test_that_nothing_was_compressed_is_a_note() -> None:
    text = " ".join(printed(evaluated([examined("base", "gsm8k", GSM, exact=False)], PRESS, (trust("gsm8k"),))).split())
    assert "note: gsm8k: nothing was compressed, for no two requests begin alike, so the scores are exact; fewshot_config: {sampler: first_n}" in text


def test_names_are_neither_markup_nor_control_characters_and_any_terminal_can_show_them() -> None:
    rows = [examined("[bold]x[/]\x1b[2J\u202e", "[red]t\u00e4sk", GSM)]
    text = printed(evaluated(rows, notes=("a [b]note[/b]\x07",)))
    assert "[bold]x[/]\\x1b[2J\\u202e" in text.replace("\n", "") and "[red]t\u00e4sk, 1,319 items" in text and "note: a [b]note[/b]\\x07" in text
    plain = printed(evaluated(rows), encoding="ascii")
    assert "0.1234 +- 0.0123" in plain and "[red]t\\xe4sk" in plain
