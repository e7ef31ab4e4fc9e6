"""Chat templates are programs: they are tried in a child process before they are trusted."""

from types import SimpleNamespace

import pytest

from curate.data.preflight import check_template
from curate.errors import ModelError, SafetyError


def tokenizer(template: str | None) -> SimpleNamespace:
    return SimpleNamespace(chat_template=template, get_chat_template=lambda: template, special_tokens_map={"eos_token": "</s>"})


def test_a_template_that_renders_is_accepted() -> None:
    check_template(tokenizer("{% for m in messages %}{{ m['role'] }}: {% generation %}{{ m['content'] }}{% endgeneration %}{{ eos_token }}{% endfor %}"))
    check_template(tokenizer(None))


def test_a_malformed_template_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match="line 2"):
        check_template(tokenizer("fine\n{% for m in %}"))


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ 'a' * 10 ** 10 }}"])
def test_a_template_that_breaks_out_or_fills_the_memory_is_refused(template: str) -> None:
    with pytest.raises(SafetyError, match="chat template of the tokenizer is refused"):
        check_template(tokenizer(template))


def test_a_template_that_does_not_end_is_refused() -> None:
    with pytest.raises(SafetyError, match="more than 1 s"):
        check_template(tokenizer("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"), seconds=1)
