"""Columns and templates: what they give, what they may not do, and where they say they failed."""

from typing import Any

import pytest

from curate.errors import ConfigError, DataError
from curate.harness.templates import Field, literal

FIELDS = {"question": "Why?", "options": ["a", "b"], "label": 1, "spaced": " x\n"}


def field(source: str) -> Field:
    return Field(source, "demo.yaml:4: doc_to_text", tuple(FIELDS))


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("options", ["a", "b"]),  # a column as it is
        ("label", 1),
        ("{{label}}", "1"),  # a template makes text
        ("no column", "no column"),  # which is a template of text alone
        ("{{question}}\n", "Why?\n"),  # the newline at its end stays
        ("{{options}}", "['a', 'b']"),
        ("{% for option in options %}{{loop.index}}{{option}} {% endfor %}", "1a 2b "),
        ("{{question|regex_replace('[A-Z]', '_')|upper}}{{spaced}}", "_HY? x\n"),
        ("{{question|regex_replace('.', '_', 1)}}", "_hy?"),
        ("{{options.index('b')}}", "1"),
        ("{{'abc' * 2}}{{3 ** 2}}{{2 * 3}}", "abcabc96"),
    ],
)
def test_a_source_is_a_column_or_a_template(source: str, value: Any) -> None:
    assert field(source).value(FIELDS, "7") == value


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{qestion}}", "line 1 of the template: 'qestion' is undefined, did you mean question?; document 7: its columns are 'question', 'options', "),
        ("a\n\n{{label.x}}", "line 3 of the template: 'int object' has no attribute 'x'; document 7: "),
        ("{% if label %}\n{{1 // 0}}\n{% endif %}", "line 2 of the template: integer division or modulo by zero; document 7"),
        ("{{question.__class__}}", "line 1 of the template: access to attribute '__class__' of 'str' object is unsafe; document 7"),
        ("{{''.__class__.__mro__[1].__subclasses__()}}", "is unsafe"),
        ("{{'{0.__class__.__mro__}'.format(label)}}", "is unsafe"),
        ("{{options.append(1)}}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{'a' * 10000000}}", "the operator * would make more than 1,000,000 characters, items or digits"),
        ("{{2000000 * options}}", "the operator * would make more than 1,000,000 characters, items or digits"),
        ("{{10 ** 999999}}", "the operator ** would make more than 1,000,000 characters, items or digits"),
        ("{{(-9) ** 99999999999}}", "the operator ** would make more than 1,000,000 characters, items or digits"),
        ("{% for i in range(1000000) %}{% endfor %}", "Range too big"),
        ("{{question|regex_replace('(', '')}}", "missing ), unterminated subpattern at position 0"),
        ("{% include 'other' %}", "no loader for this environment specified"),
    ],
)
def test_a_template_that_fails_says_where(source: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        field(source).value(FIELDS, "7")
    assert str(caught.value).startswith("demo.yaml:4: doc_to_text, line ") and said in str(caught.value)
    assert "\n" not in str(caught.value) and FIELDS["options"] == ["a", "b"]


DEEP = "{{" + "(" * 400 + ")" * 400 + "}}"


@pytest.mark.parametrize(("source", "line"), [("{{ a", 1), ("\n{% if x %}", 2), ("{{x|nothing}}", 1), ("{% import os %}", 1), (DEEP, 1)])
def test_a_template_that_cannot_be_compiled_is_an_error_of_the_file(source: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"^demo.yaml:4: doc_to_text, line {line} of the template: ") as caught:
        field(source).check()
    assert "\n" not in str(caught.value)


def test_a_column_that_one_document_lacks_is_named() -> None:
    with pytest.raises(DataError, match="document 7 has no column 'label'; its columns are 'question'"):
        field("label").value({"question": "Why?"}, "7")


@pytest.mark.parametrize(("text", "value"), [("[1, 'a']", [1, "a"]), ("-3", -3), ("('a',)", ("a",)), ("{'a': 1}", {"a": 1})])
def test_literals_are_read(text: str, value: Any) -> None:
    assert literal(text) == (value,)


@pytest.mark.parametrize("text", ["", "[a]", "1 +", "__import__('os')", "[" * 3000 + "]" * 3000, "\x00", "[1, 2", "f'{1}'", "007", "\u00b2"])
def test_whatever_is_no_literal_is_none(text: str) -> None:
    assert literal(text) is None
