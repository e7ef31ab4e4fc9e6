"""One normal form: what it hides, what it keeps, and where a stretch of it lies in the original text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.hygiene.normalise import Strip, excerpt, letters, place_in, plain, spaced, stands_alone, words

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It's 5 o'clock -- now!", "it s 5 o clock now"),
        ("  Tabs\tand\r\nlines  ", "tabs and lines"),
        ("cost: $1,000.50", "cost 1 000 50"),
        ("Stra\u00dfe", "strasse"),
        ("\ufb01ne \uff21\uff22\uff23 \u2460", "fine abc 1"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("cafe\u0301", "caf\u00e9"),
        ("killing?\\nOptions:\\n- mess", "killing options mess"),
        ("the Greek \\nu and \\theta", "the greek nu and theta"),
        ("\u4f60\u597d\uff0c\u4e16\u754c", "\u4f60\u597d \u4e16\u754c"),
        ("", ""),
        ("?!...", ""),
    ],
)
def test_the_normal_form_of_known_texts(text: str, wanted: str) -> None:
    assert words(text) == wanted


@given(TEXT)
def test_a_normal_form_is_its_own(text: str) -> None:
    assert words(words(text)) == words(text)


@given(TEXT)
def test_composed_and_decomposed_text_have_one_normal_form(text: str) -> None:
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


@given(TEXT)
def test_the_quick_way_for_ascii_is_the_general_one(text: str) -> None:
    plain_text = text.encode("ascii", "ignore").decode().replace("\\", "")
    kept = "".join(character if character.isalnum() else " " for character in plain_text)
    assert words(plain_text) == " ".join(kept.lower().split())


def test_signs_count_in_the_lighter_form_only() -> None:
    assert plain("3 + 5") != plain("3 - 5")
    assert words("3 + 5") == words("3 - 5")
    assert plain("A  B\n") == plain("a b")


@given(st.lists(TEXT, max_size=6))
def test_texts_end_to_end_are_found_again(texts: list[str]) -> None:
    strip = Strip.of([spaced(text) for text in texts])
    assert len(strip.edges) == len(texts) + 1
    for number, text in enumerate(texts):
        start, end = int(strip.edges[number]), int(strip.edges[number + 1]) - 1
        assert strip.words_of(start, end) == words(text)
        if end > start:
            assert strip.text_at(start) == strip.text_at(end - 1) == number


@given(TEXT, st.data())
def test_the_place_of_a_stretch_holds_its_letters(text: str, data: st.DataObject) -> None:
    text = unicodedata.normalize("NFKC", text.replace("\\", ""))
    size = len(letters(text))
    if size == 0 or sum(len(letters(one)) for one in text) != size:
        return  # an estimate, where characters do not normalise one by one
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    first, last = place_in(text, start, end)
    assert letters(text)[start:end] in letters(text[first:last])
    assert len(letters(text[first:last])) <= end - start + 4  # a character may stand for several letters


def test_an_excerpt_shows_the_original_text_around_a_stretch() -> None:
    text = "Before. " * 40 + "What is the Capital of France?" + " After." * 40
    start = letters(text).index("whatisthecapital")
    shown = excerpt(text, start, start + 24, around=10)
    assert "What is the Capital of France" in shown and shown.startswith("...") and shown.endswith("...") and len(shown) < 70


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("Q: Who wrote Faust? A: Goethe", True),
        ("Who wrote Faust", True),
        ("Who wrote Faust?\\nOptions: a, b", True),
        ("Answer this.\n- who wrote Faust\n- when", True),
        ("The question of who wrote Faust is old", False),
        ("Tell me who wrote Faust", False),
        ("Who wrote Faust and why?", False),
    ],
)
def test_a_short_text_stands_alone_or_inside_a_sentence(text: str, alone: bool) -> None:
    start = letters(text).index("whowrotefaust")
    assert stands_alone(text, start, start + len("whowrotefaust")) is alone
