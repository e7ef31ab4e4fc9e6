"""Imports point down only, methods stay apart, and no module imports a heavy library before it needs it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

METHODS = ("curate.scorers", "curate.selectors", "curate.tasks", "curate.presses")
HEAVY = {"torch", "transformers", "peft", "datasets", "ot", "faiss", "sklearn", "matplotlib", "pandas", "pyarrow", "dask", "distributed"}
# Tensor code from the first line to the last may import torch at once; all else imports it, and these, inside functions.
# Pipelines may import these too: the command line imports a pipeline only when it runs it.
TENSOR = {
    f"curate.{name}"
    for name in (
        *("adapters", "batches", "companion", "curvature", "dynamics", "encoder", "evaluate", "fisher", "fisher_features", "forward"),
        *("gradient_features", "gradients"),
        *("harness.exam", "inference.whole_prompts", "kernel_features", "kfac", "model", "moments", "projection", "readers", "rowwise", "train", "woodbury"),
        *(f"compression.{name}" for name in ("codec", "corrected", "demotion", "growing_codes", "low_rank", "prefix", "quantised", "recomputed")),
        *(f"inference.{name}" for name in ("attention", "decoding", "engine", "generation", "growing", "own_attention", "passes", "prefill", "probe")),
        *(f"training.{name}" for name in ("attending", "chunked", "fitness", "joint", "packed", "padded", "parts", "state", "stretches")),
        *(f"inference.{name}" for name in ("activated", "activated_plan", "mixed", "propagation", "recorded", "sampling", "scoring")),
        *(f"inference.{name}" for name in ("stores", "variants", "vllm_backend")),
    )
}
# Everything else in curate/ is a service.
LAYERS = ("curate.errors", "curate.core", "curate.interfaces", "service", "method", "curate.recipe", "pipeline", "curate.cli", "curate.__main__")
LEVEL = {name: level for level, name in enumerate(LAYERS)}


def level(module: str) -> int:
    if module.startswith("curate.cli"):
        return LEVEL["curate.cli"]
    if module.startswith(tuple(f"{kind}." for kind in METHODS)):
        return LEVEL["method"]
    if module.startswith("curate.pipelines."):
        return LEVEL["pipeline"]
    return LEVEL.get(".".join(module.split(".")[:2]), LEVEL["service"])


def statements(nodes: list[ast.stmt], *, inside_functions: bool) -> Iterator[ast.stmt]:
    """All statements, without those that only type checkers see."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from statements(node.orelse, inside_functions=inside_functions)
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, name, []), inside_functions=inside_functions)
        for branch in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from statements(branch.body, inside_functions=inside_functions)


def imports(source: str, *, inside_functions: bool = True) -> set[str]:
    """Dotted names that the source imports; `from a import b` counts as a and as a.b, which may be a module."""
    found: set[str] = set()
    for node in statements(ast.parse(source).body, inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offences(module: str, source: str, modules: set[str]) -> list[str]:
    """What the module imports although the layers forbid it."""
    found = []
    for name in sorted(imports(source) & modules - {module}):
        both_methods = level(module) == level(name) == LEVEL["method"]
        if level(name) > level(module) or both_methods:
            found.append(f"{module} must not import {name}")
    return found


def heavy(module: str, source: str) -> set[str]:
    """What the module may not import before a function needs it, but does."""
    now = imports(source, inside_functions=False)
    libraries = {name.split(".")[0] for name in now} & HEAVY
    if module in TENSOR:
        return libraries - {"torch"}
    return libraries if module.startswith("curate.pipelines.") else libraries | (now & TENSOR)


@pytest.fixture(scope="module")
def sources(root: Path) -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for folder in ("curate", "scorers", "selectors", "pipelines"):
        for path in sorted((root / folder).rglob("*.py")):  # follows no links, so each file comes once
            parts = [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
            found[".".join(parts if folder == "curate" else ["curate", *parts])] = path.read_text(encoding="utf-8")
    return found


def test_the_modules_are_found(sources: dict[str, str]) -> None:
    assert {"curate", "curate.core", "curate.interfaces", "curate.errors", "curate.strict_yaml"} <= set(sources)
    assert any(name.startswith("curate.scorers.") for name in sources)
    assert any(name.startswith("curate.selectors.") for name in sources)


def test_imports_point_down_only(sources: dict[str, str]) -> None:
    assert [line for module, source in sources.items() for line in offences(module, source, set(sources) - {"curate"})] == []


def test_no_module_imports_a_heavy_library_when_it_is_imported(sources: dict[str, str]) -> None:
    assert [f"{module} imports {', '.join(sorted(found))}" for module, source in sources.items() if (found := heavy(module, source))] == []


def test_only_tensor_code_is_listed_as_such(sources: dict[str, str]) -> None:
    assert {module for module in TENSOR if not imports(sources.get(module, ""), inside_functions=False) & (TENSOR | {"torch"})} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("curate.selectors.a", "from curate.selectors.b import B"),
        ("curate.selectors.a", "from curate.scorers import c"),
        ("curate.store", "def f():\n    import curate.selectors.b"),
        ("curate.data.rows", "from curate.recipe import Recipe"),
        ("curate.core", "from curate import interfaces"),
        ("curate.recipe", "import curate.pipelines.run"),
        ("curate.pipelines.run", "try:\n    pass\nexcept ValueError:\n    from curate.cli import app"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str) -> None:
    modules = {"curate.selectors.b", "curate.scorers.c", "curate.recipe", "curate.interfaces", "curate.pipelines.run", "curate.cli"}
    assert len(offences(module, source, modules)) == 1


def test_a_downward_or_type_only_import_is_allowed() -> None:
    modules = {"curate.store", "curate.model", "curate.core"}
    assert offences("curate.selectors.a", "from curate.store import Store\nfrom curate import core", modules) == []
    assert offences("curate.interfaces", "if TYPE_CHECKING:\n    from curate.model import LanguageModel", modules) == []


def test_a_heavy_import_is_seen_unless_it_is_deferred() -> None:
    assert heavy("curate.store", "import torch.nn as nn") == {"torch"}
    assert heavy("curate.store", "class A:\n    try:\n        from sklearn import cluster\n    except ImportError:\n        pass") == {"sklearn"}
    assert heavy("curate.store", "from curate.gradients import per_row") == {"curate.gradients"}
    assert heavy("curate.gradients", "import torch\nimport peft\nfrom curate.model import load") == {"peft"}
    assert heavy("curate.store", "def f():\n    import torch\nif TYPE_CHECKING:\n    import pandas") == set()
