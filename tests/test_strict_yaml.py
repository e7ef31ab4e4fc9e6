"""The catalogue of bad recipes: each is one clear error with its line and what to write, or the value that was meant."""

import time
from typing import Any

import pytest
from pydantic import Field, ValidationError

from curate.core import Budget, Config
from curate.errors import ConfigError, CurateError, SafetyError
from curate.strict_yaml import Document, explain, load, nearest, override


class Train(Config):
    epochs: int = 1
    learning_rate: float = Field(1e-4, gt=0)
    shuffle: bool = True
    layers: tuple[str, ...] = ()


class Recipe(Config):
    name: str
    train: Train = Train()
    arms: dict[str, Train] = {}
    budget: str | int = 1
    size: Budget | None = None


FIELDS = {(): list(Recipe.model_fields), ("train",): list(Train.model_fields)}


def read(text: str) -> Document:
    return load(text, "recipe.yaml")


def value(text: str) -> Any:
    return read(f"k: {text}").value["k"]


def refusal(text: str | bytes, error: type[CurateError] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        load(text, "recipe.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("recipe.yaml:")
    return message


def problems(document: Document) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(document.value)
    return str(explain(document, caught.value, lambda path: FIELDS.get(path, list(Train.model_fields)))).splitlines()


def test_a_recipe_is_plain_values_and_the_line_of_each() -> None:
    document = read("name: a\ntrain:\n  epochs: 2\n\n  layers: [x,\n    y]\narms:\n- b: null\n- c\n")
    assert document.value == {"name": "a", "train": {"epochs": 2, "layers": ["x", "y"]}, "arms": [{"b": None}, "c"]}
    assert document.lines[("train",)] == 2
    assert document.lines[("train", "layers")] == 5
    assert document.lines[("train", "layers", 1)] == 6
    assert document.lines[("arms", 0, "b")] == 8
    assert document.where(("arms", 1, "deeper")) == "recipe.yaml:9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-5", 1e-5), ("2.0e-4", 2e-4), (".5", 0.5), ("1.", 1.0), ("-3", -3), ("0", 0), ("0o10", 8), ("0x1F", 31), ("-0", 0), ("-0.0", -0.0), ("1E3", 1000.0)],
)
def test_numbers_follow_yaml_1_2(text: str, expected: float) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@pytest.mark.parametrize("text", ["no", "yes", "on", "off", "y", "n", "2024-01-01", "5%", "2M tokens", "1e", "e5", "nan", "inf", "0o9", "a:b", "3 arms"])
def test_what_only_yaml_1_1_converts_stays_text(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("false", False), ("True", True), ("null", None), ("~", None), ("", None)])
def test_booleans_and_null(text: str, expected: bool | None) -> None:
    assert value(text) is expected


@pytest.mark.parametrize("text", ["010", "-007", "08", "12:30", "1:2:3", "1:30.5", "1_000", "1_0.5", "0b11", "0x1_F", "-0x1"])
def test_numbers_that_yaml_versions_read_differently_are_refused_unless_quoted(text: str) -> None:
    assert refusal(f"a: 1\nk: {text}").startswith(f"recipe.yaml:2: {text} is ambiguous")
    assert value(f"'{text}'") == text


def test_the_refusal_of_an_ambiguous_number_says_how_to_write_it() -> None:
    assert refusal("k: 010").endswith("write 10, '010' or 0o10")
    assert refusal("k: 1_000").endswith("write 1000 or '1_000'")
    assert "'12:30'" in refusal("k: 12:30")


@pytest.mark.parametrize("text", [".nan", ".inf", "-.INF", "1e400", "-1e999", "9223372036854775808", "9" * 5000, "0x" + "f" * 40])
def test_numbers_that_are_not_finite_or_do_not_fit_are_refused(text: str) -> None:
    assert "not a finite number" in refusal(f"k: {text}") or "does not fit 64 bits" in refusal(f"k: {text}")


def test_a_duplicate_key_names_both_lines() -> None:
    message = refusal("train:\n  epochs: 1\n  shuffle: true\n  epochs: 2\n")
    assert message.startswith("recipe.yaml:4: train.epochs is given twice, first on line 2")
    assert "given twice" in refusal("{a: 1, 'a': 2}")


@pytest.mark.parametrize("text", ["1: x", "true: x", "null: x", "[a]: x", "{a: b}: x", "? {a: b}\n: x", "k: {{name}}", "1e5: x", "? \n: x"])
def test_keys_are_text(text: str) -> None:
    assert "text" in refusal(text)


@pytest.mark.parametrize("text", ["a: &x 1", "a: &x [1]\nb: *x", "b: *x", "&k a: 1", "a: {<<: {b: 1}}", "<<: *x", "a: !!str 1", "a: !mine 1", "a: ! 1"])
def test_anchors_aliases_merge_keys_and_tags_are_refused(text: str) -> None:
    message = refusal(text)
    assert any(word in message for word in ("anchors and aliases", "merge keys", "tag"))


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert refusal(bomb).startswith("recipe.yaml:1: anchors and aliases (&a0)")


def test_a_python_tag_is_refused_for_safety_and_runs_nothing(tmp_path: Any) -> None:
    canary = tmp_path / "canary"
    for text in (f"k: !!python/object/apply:os.system ['touch {canary}']", "k: !<tag:yaml.org,2002:python/name:os.system> x", "!!python/tuple [1]"):
        assert "run Python code" in refusal(text, SafetyError)
    assert not canary.exists()
    assert SafetyError.exit_code == 10


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"# only\n# comments\n", "empty"),
        (b"---\n...\n", "null"),
        (b"- a\n- b\n", "top level is a list"),
        (b"just words", "top level is 'just words'"),
        (b"a: 1\n---\nb: 2\n", "second document"),
        (b"%YAML 1.1\n---\na: 1\n", "directives"),
        ("a: 1".encode("utf-16"), "UTF-16"),
        ("a: 1".encode("utf-16-be"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "binary"),
        (b"a: 1\nb: \xff\n", "recipe.yaml:2: byte 0xff is not UTF-8"),
        (b"a: 1\nb: \x07\n", "recipe.yaml:2: control character"),
        (b"a:\n\tb: 1\n", "recipe.yaml:2: a tab"),
        (b"a: [1, 2\nb: 3\n", "recipe.yaml:2: not YAML"),
        (b"a: b: c\n", "recipe.yaml:1: not YAML"),
        (b'a: "\\UFFFFFFFF"\n', "not YAML"),
        (b'a: "\\ud800"\n', "surrogate"),
        (b'a: "\\0"\n', "NUL"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(raw: bytes, said: str) -> None:
    assert said in refusal(raw)


def test_byte_order_mark_and_windows_line_ends_are_read() -> None:
    document = load(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: x\r\n", "recipe.yaml")
    assert document.value == {"a": 1, "b": {"c": "x"}}
    assert document.lines[("b", "c")] == 3
    assert load("\ufeffa: 1", "r").value == {"a": 1}


@pytest.mark.parametrize("text", ["[" * 20_000, "a: " + "{b: " * 20_000, "".join(" " * i + "a:\n" for i in range(100)), "- " * 20_000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "nested more than 64 deep" in refusal(text)


@pytest.mark.parametrize("text", ["a: " + "x" * 2**20, "a: [" + "1," * 500_000 + "]", "".join(f"k{i}: {i}\n" for i in range(75_000)), "a: " + "9" * 10**6])
def test_a_file_of_a_machines_size_is_refused_within_two_seconds_of_work(text: str) -> None:
    start = time.process_time()
    refusal(text)
    assert time.process_time() - start < 2


def test_the_limits_allow_what_lies_within_them() -> None:
    assert read("a: " + "x" * (2**20 - 10)).value["a"].startswith("xxx")
    assert read("a: " + "[" * 63 + "]" * 63).value


def test_an_unknown_field_gets_its_line_the_nearest_name_and_the_fields() -> None:
    document = read("name: a\narms:\n  less:\n    epochs: 1\n    lerning_rate: 1e-3\ntrian: {}\n")
    assert problems(document) == [
        "recipe.yaml:5: arms.less.lerning_rate is not a field; did you mean learning_rate? (fields: epochs, learning_rate, shuffle, layers)",
        "recipe.yaml:6: trian is not a field; did you mean train? (fields: name, train, arms, budget, size)",
    ]


def test_strict_types_name_the_value_and_what_is_allowed() -> None:
    document = read("name: 3\ntrain:\n  epochs: '3'\n  learning_rate: -1\n  shuffle: no\nbudget: 1.5\nsize: 3\narms: {a: {epochs: 3.0}, b: {epochs: true}}\n")
    assert problems(document) == [
        "recipe.yaml:1: name is 3; it must be text; put it in quotes",
        "recipe.yaml:3: train.epochs is '3'; it must be a whole number",
        "recipe.yaml:4: train.learning_rate is -1; it must be greater than 0",
        "recipe.yaml:5: train.shuffle is 'no'; it must be true or false",
        "recipe.yaml:6: budget is 1.5; it must be text or a whole number",
        "recipe.yaml:7: size is 3; it must be a mapping (key: value)",
        "recipe.yaml:8: arms.a.epochs is 3.0; it must be a whole number",
        "recipe.yaml:8: arms.b.epochs is true; it must be a whole number",
    ]


def test_a_missing_field_and_a_wrong_choice_are_explained() -> None:
    document = read("# sizes\nsize: {amount: 1, unit: token}\n")
    assert problems(document) == [
        "recipe.yaml:2: name is missing; add it",
        "recipe.yaml:2: size.unit is 'token'; it must be 'rows', 'fraction', 'tokens' or 'supervised_tokens'; did you mean tokens?",
    ]


def test_many_problems_are_counted_not_listed() -> None:
    lines = problems(read("name: a\n" + "".join(f"x{i}: 1\n" for i in range(100))))
    assert len(lines) == 21
    assert lines[-1] == "... and 80 more problems"


def test_control_characters_of_a_recipe_never_reach_the_terminal() -> None:
    assert "\x1b" not in "".join(problems(read('name: a\n"\\e[31mred": 1\nbudget: ["\\e[31m"]\n')))
    with pytest.raises(ConfigError) as caught:
        override(read("name: a"), "x\x1b[31m.y\nz=010")
    assert "\x1b" not in str(caught.value)


def test_an_override_reads_its_value_like_the_file_and_leaves_the_document_alone() -> None:
    document = read("name: a\ntrain: {epochs: 1, layers: [x, y]}\n")
    changed = override(document, "train.layers.1=1e-5")
    changed = override(changed, "arms.new.epochs= 3")
    changed = override(changed, "name=")
    assert changed.value == {"name": None, "train": {"epochs": 1, "layers": ["x", 1e-5]}, "arms": {"new": {"epochs": 3}}}
    assert document.value == {"name": "a", "train": {"epochs": 1, "layers": ["x", "y"]}}
    assert changed.where(("train", "layers", 1)) == "command line"
    assert changed.where(("train", "layers", 0)) == "recipe.yaml:2"


def test_an_override_of_an_unknown_field_or_a_wrong_type_is_explained_like_the_file() -> None:
    document = override(override(read("name: a\n"), "train.epoch=1"), "train.shuffle=[1]")
    assert sorted(problems(document)) == [
        "command line: train.epoch is not a field; did you mean epochs? (fields: epochs, learning_rate, shuffle, layers)",
        "command line: train.shuffle is a list; it must be true or false",
    ]


def test_a_whole_value_that_is_overridden_forgets_the_lines_of_the_old_one() -> None:
    document = override(read("name: a\ntrain:\n  epochs: x\n"), "train={epochs: y}")
    assert problems(document) == ["command line: train.epochs is 'y'; it must be a whole number"]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.epochs", "write dotted.key=value"),
        ("=3", "write dotted.key=value"),
        ("train..epochs=3", "write dotted.key=value"),
        ("a." * 100 + "b=1", "write dotted.key=value"),
        ("list.7=1", "has 2 items"),
        ("list.-1=1", "has 2 items"),
        ("list.x=1", "has 2 items"),
        ("name.width=1", "give it whole, as in name={name: ..., width: ...}"),
        ("name=010", "ambiguous"),
        ("name=[1", "not YAML"),
        ("name=&a 1", "anchors"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match="^(override|command line)") as caught:
        override(read("name: a\nlist: [1, 2]\n"), assignment)
    assert said in str(caught.value)


def test_an_override_may_not_run_code() -> None:
    with pytest.raises(SafetyError):
        override(read("name: a"), "name=!!python/object/apply:os.getcwd []")


def test_nearest_lists_what_there_is_and_names_the_closest() -> None:
    assert nearest("Top-k", ["top_k", "random"], "selectors") == "did you mean top_k? (selectors: top_k, random)"
    assert nearest("zzz", ["top_k", "random"]) == "choices: top_k, random"
    assert nearest("x", []) == "there are no choices here"
