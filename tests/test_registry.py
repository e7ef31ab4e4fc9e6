"""The folder is the registry: names, lazy loading, outside packages and components inside other models."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from curate import registry
from curate.core import Budget, Config, Features, Selection
from curate.errors import ConfigError
from curate.interfaces import Context, Selector
from curate.strict_yaml import explain, load


class Farthest(Selector):
    """An outside method with a field of each kind that YAML writes differently from Python."""

    name: Literal["farthest"] = "farthest"
    rounds: int = Field(1, ge=1)
    scale: float = 1.0
    layers: tuple[str, ...] = ()
    folder: Path = Path(".")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        return Selection.of(budget.fill(range(len(pool)), pool))


def not_a_method() -> None: ...


class Arm(Config):
    selector: Annotated[SerializeAsAny[Selector], BeforeValidator(partial(registry.component, "selectors"))]


class Arms(Config):
    arms: dict[str, Arm]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points of other packages, to be filled by the test."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    monkeypatch.setitem(sys.modules, "outside_package", sys.modules[__name__])
    return points


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of selectors that is found beside ours."""
    import curate.selectors

    monkeypatch.setattr(curate.selectors, "__path__", [*curate.selectors.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("curate.selectors.zz_")]:
        del sys.modules[name]


def point(name: str, value: str, group: str = "curate.selectors") -> EntryPoint:
    return EntryPoint(name, value, group)


def test_every_file_is_a_method_by_its_stem(root: Path) -> None:
    for kind, folder in (("scorers", "scorers"), ("selectors", "selectors"), ("tasks", "curate/tasks")):
        stems = {path.stem for path in (root / folder).glob("[!_]*.py")}
        assert stems
        assert stems <= set(registry.names(kind))


def test_a_new_file_is_a_new_method(folder: Path) -> None:
    (folder / "zz_last_rows.py").write_text("class ZzLastRows:\n    pass\n")
    (folder / "_private.py").write_text("")
    assert "zz_last_rows" in registry.names("selectors")
    assert "_private" not in registry.names("selectors")
    assert registry.load("selectors", "zz_last_rows").__name__ == "ZzLastRows"


def test_listing_imports_no_method_and_loading_imports_only_that_one(root: Path) -> None:
    script = """if True:
        import sys
        from curate import registry
        kinds = ("curate.scorers.", "curate.selectors.", "curate.tasks.")
        loaded = lambda: [name for name in sys.modules if name.startswith(kinds)]
        names = registry.names("selectors")
        assert loaded() == [], loaded()
        registry.load("selectors", names[0])
        assert loaded() == ["curate.selectors." + names[0]], loaded()
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["randm", "os.path", "../store", "curate.store", "", "__init__", "_private", "top_k.TopK"])
def test_an_unknown_name_is_an_error_that_lists_the_names_and_imports_nothing(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError) as caught:
        registry.load("selectors", name)
    assert set(sys.modules) - before == set()
    for known in registry.names("selectors"):
        assert known in str(caught.value)


def test_a_misspelt_name_gets_the_nearest_one(outside: list[EntryPoint]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    with pytest.raises(ConfigError, match="there is no selector 'fathest'; did you mean farthest?"):
        registry.load("selectors", "fathest")


def test_an_outside_method_is_listed_without_import_and_loaded_when_asked_for(outside: list[EntryPoint]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    outside.append(point("broken", "no_such_package:Broken"))
    assert {"farthest", "broken"} <= set(registry.names("selectors"))
    assert "farthest" not in registry.names("scorers")
    assert registry.load("selectors", "farthest") is Farthest
    assert registry.component("selectors", {"name": "farthest", "rounds": 2}) == Farthest(rounds=2)
    with pytest.raises(ConfigError, match="cannot be imported from no_such_package:Broken"):
        registry.load("selectors", "broken")


def test_an_outside_method_may_not_take_a_name_of_ours_or_of_another(outside: list[EntryPoint], folder: Path) -> None:
    (folder / "zz_ours.py").write_text("class ZzOurs:\n    pass\n")
    outside.append(point("zz_ours", "outside_package:Farthest"))
    for act in (lambda: registry.names("selectors"), lambda: registry.load("selectors", "zz_ours")):
        with pytest.raises(ConfigError, match="'zz_ours', which curate has itself"):
            act()
    outside[:] = [point("twice", "outside_package:Farthest"), point("twice", "other:Farthest")]
    with pytest.raises(ConfigError, match="both register"):
        registry.names("selectors")
    outside[:] = [point("twice", "outside_package:Farthest")] * 2
    assert registry.load("selectors", "twice") is Farthest


@pytest.mark.parametrize("value", ["outside_package:not_a_method", "outside_package:Features", "outside_package:Arm"])
def test_an_outside_method_that_is_no_selector_is_refused(outside: list[EntryPoint], value: str) -> None:
    outside.append(point("odd", value))
    with pytest.raises(ConfigError, match=r"is not a curate\.interfaces\.Selector"):
        registry.load("selectors", "odd")


def test_a_component_is_a_name_a_mapping_or_itself(outside: list[EntryPoint]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    made = registry.component("selectors", {"name": "farthest", "scale": 2, "layers": ["a", "b"], "folder": "x/y"})
    assert made == Farthest(scale=2.0, layers=("a", "b"), folder=Path("x/y"))
    assert registry.component("selectors", "farthest") == Farthest()
    assert registry.component("selectors", made) is made


@pytest.mark.parametrize("value", [None, 3, ["farthest"], {}, {"name": 3}, {"rounds": 1}])
def test_what_is_no_component_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="a selector is its name, or a mapping with its name and fields"):
        registry.component("selectors", value)


@pytest.mark.parametrize(
    "fields", [{"rounds": "3"}, {"rounds": 3.0}, {"rounds": True}, {"scale": "1"}, {"scale": float("nan")}, {"layers": "a"}, {"layers": [1]}]
)
def test_a_component_converts_nothing_else(outside: list[EntryPoint], fields: dict[str, Any]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    with pytest.raises(ValidationError):
        registry.component("selectors", {"name": "farthest", **fields})


def test_errors_of_a_component_nest_in_the_recipe_that_holds_it(outside: list[EntryPoint]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    a = "  a:\n    selector: {name: farthest, rouns: 2, rounds: 0}\n"
    b = "  b:\n    selector: fartest\n"
    c = "  c:\n    selector:\n      name: farthest\n      scale: '1'\n"
    document = load("arms:\n" + a + b + c, "recipe.yaml")
    with pytest.raises(ValidationError) as caught:
        Arms.model_validate(document.value)
    fields = {("arms", "a", "selector"): list(Farthest.model_fields)}
    lines = str(explain(document, caught.value, lambda path: fields[path])).splitlines()
    assert lines[0] == "recipe.yaml:3: arms.a.selector.rounds is 0; it must be greater than or equal to 1"
    assert lines[1].startswith("recipe.yaml:3: arms.a.selector.rouns is not a field; did you mean rounds? (fields: name, rounds,")
    assert lines[2].startswith("recipe.yaml:5: arms.b.selector: there is no selector 'fartest'; did you mean farthest?")
    assert lines[3:] == ["recipe.yaml:9: arms.c.selector.scale is '1'; it must be a number"]


def test_a_recipe_that_holds_components_keeps_their_fields_when_written(outside: list[EntryPoint]) -> None:
    outside.append(point("farthest", "outside_package:Farthest"))
    made = Arms.model_validate({"arms": {"a": {"selector": {"name": "farthest", "rounds": 5}}}})
    assert Arms.model_validate(made.model_dump()) == made
    assert made.model_dump()["arms"]["a"]["selector"]["rounds"] == 5


def test_the_worked_example_of_the_documentation_works_as_written(root: Path, folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "adding-a-method.md").read_text(encoding="utf-8"), re.DOTALL)
    method, use, test, version, conformance = blocks
    name = "zz_longest"
    (folder / f"{name}.py").write_text(method.replace("class Longest", "class ZzLongest").replace('"longest"', f'"{name}"'))
    assert registry.component("selectors", {"name": name, "limit": 200}) == registry.load("selectors", name)(limit=200)
    with pytest.raises(ValidationError):
        registry.component("selectors", {"name": name, "limit": 0})
    for block in (use, test, conformance):
        names: dict[str, Any] = {}
        exec(re.sub(r"from \S+ import Longest", f"from curate.selectors.{name} import ZzLongest as Longest", block), names)
        for made in [value for word, value in names.items() if word.startswith("test_")]:
            made()
    assert re.search(r"version: ClassVar\[int\] = 2", version)
