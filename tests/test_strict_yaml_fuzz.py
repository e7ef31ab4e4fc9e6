"""Whatever the bytes, reading a recipe gives a document or one line of error, soon; and what JSON writes is read back exactly."""

import json
import math
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.strict_yaml import dump, load, override

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12)


@given(st.dictionaries(WORDS, VALUES, min_size=1, max_size=5))
@settings(max_examples=150)
def test_what_json_says_is_read_back_exactly(values: dict[str, Any]) -> None:
    loaded = load(json.dumps(values), "recipe.yaml").value
    assert loaded == values
    assert json.dumps(loaded) == json.dumps(values)


NUMBERLIKE = st.text("0123456789.:_xobe+-~inftruenl", max_size=6) | st.text("\x85\u2028\n \t'\"#:-", max_size=5)
TEXTS = st.dictionaries(NUMBERLIKE, NUMBERLIKE | VALUES, min_size=1, max_size=5)


@given(TEXTS)
@settings(max_examples=300)
def test_what_is_written_is_read_back_exactly(values: dict[str, Any]) -> None:
    loaded = load(dump(values), "recipe.yaml").value
    assert json.dumps(loaded) == json.dumps(values)


def survives(raw: bytes | str) -> None:
    start = time.process_time()
    try:
        document = load(raw, "recipe.yaml")
    except CurateError as error:
        assert "\n" not in str(error)
    else:
        assert all(not isinstance(line, bool) and line >= 1 for line in document.lines.values())
        assert all(math.isfinite(item) for item in document.value.values() if isinstance(item, float))
    assert time.process_time() - start < 2


@given(st.binary(max_size=200) | st.text(max_size=100) | st.text("{}[]:,-?&*!|>'\"%@`#\\ \n\tab01._~", max_size=100))
@settings(max_examples=600)
def test_any_bytes_make_a_document_or_one_error(raw: bytes | str) -> None:
    survives(raw)


SAMPLE = b'name: a # note\ntrain:\n  epochs: 2\n  layers: [x, "y\\n", \'z\']\narms:\n- {b: null, c: 1e-5}\n- |\n  text\nlast: "5%"\n'


@given(st.integers(0, len(SAMPLE)), st.integers(0, 12), st.binary(max_size=6))
@settings(max_examples=600)
def test_any_damage_to_a_recipe_makes_a_document_or_one_error(at: int, length: int, put: bytes) -> None:
    survives(SAMPLE[:at] + put + SAMPLE[at + length :])


@given(st.text("ab.=[]{}:&*!0123 \n\t'\"", max_size=30) | st.text(max_size=20))
@settings(max_examples=300)
def test_any_override_makes_a_document_or_one_error(assignment: str) -> None:
    try:
        override(load("a: {b: [1, 2]}", "recipe.yaml"), assignment)
    except CurateError as error:
        assert "\n" not in str(error)
