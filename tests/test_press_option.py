"""The press of a command line: a name, or a mapping in YAML; anything else is one line that says what there is."""

import pytest

from curate.compression.importances.window import Window
from curate.errors import ConfigError
from curate.press_option import read_press
from curate.presses.snapkv import Snapkv
from curate.registry import names


def test_a_press_is_its_name_or_a_mapping_with_fields() -> None:
    assert read_press(None) is None
    assert read_press("snapkv") == read_press(" snapkv ") == read_press("{name: snapkv}") == read_press("name: snapkv") == Snapkv()
    assert read_press("{name: snapkv, keep: 0.5}") == Snapkv(keep=0.5)
    assert read_press("{name: snapkv, tokens: 9, importance: {name: window, window: 4}}") == Snapkv(tokens=9, importance=Window(window=4))
    assert read_press("name: snapkv\nkeep: 0.5") == Snapkv(keep=0.5)


def test_every_press_can_be_named() -> None:
    for name in names("presses"):
        press = read_press(name)
        assert press is not None and press.name == name


WRONG = [
    ("", "there is no press ''; presses: compresskv, dapq, "),
    ("snapvk", "there is no press 'snapvk'; did you mean snapkv?"),
    ("os.system", "there is no press 'os.system'; presses: "),
    ("[snapkv]", "there is no press '[snapkv]'"),
    ("{snapkv}", "--press has no name; write a name, or {name: ..., field: ...}; presses: compresskv"),
    ("{name: 3}", "--press has no name; write a name"),
    ("{keep: 0.5}", "--press has no name; write a name"),
    ("{}", "--press has no name; write a name"),
    ("{name: snapvk}", "there is no press 'snapvk'; did you mean snapkv?"),
    ("{name: snapkv", "--press:1: not YAML: "),
    ("name: snapkv, keep: 0.5", "--press:1: not YAML: mapping values are not allowed here"),
    ("{name: snapkv, keep: 2}", "--press:1: keep is 2; it must be less than or equal to 1"),
    ("{name: snapkv, keep: half}", "--press:1: keep is 'half'; it must be a number"),
    ("{name: snapkv, kep: 1}", "--press:1: kep is not a field; did you mean keep? (fields: name, covers, keep, tokens, importance, allocator, action)"),
    ("{name: snapkv, importance: windw}", "--press:1: importance: there is no importance 'windw'; did you mean window?"),
    ("{name: snapkv, importance: {name: window, windw: 3}}", "--press:1: importance.windw is not a field; did you mean window?"),
    (
        "{name: compresskv, allocator: {name: output_error, importance: {name: window, windw: 3}}}",
        "--press:1: allocator.importance.windw is not a field; did you mean window?",
    ),
    (
        "{name: compresskv, allocator: {name: output_error, lowst: 3}}",
        "--press:1: allocator.lowst is not a field; did you mean lowest? (fields: name,",
    ),
    ("{name: snapkv, name: h2o}", "--press:1: name is given twice"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_anything_else_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_press(text)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
