"""The rules of the house: small files, one write path, no pickle, no foreign code, and links where they belong."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

LINKED = ("scorers", "selectors", "pipelines", "configs")
PACKAGE = ("curate", "scorers", "selectors", "pipelines")
MAY_WRITE = {
    "curate/store.py": "the one write path",
    "curate/journal.py": "appends decisions, a line each",
    "curate/progress.py": "appends to log.jsonl, which no stage reads back",
    "curate/task_log.py": "appends to logs/tasks.jsonl, which no stage reads back",
}
MAY_RUN_CODE = {"curate/sandbox_child.py": "runs generated programs, in a confined process of its own"}
LONG_FUNCTIONS: dict[str, str] = {}  # "path::function": why it reads better whole
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
WRITERS = {"write_text", "write_bytes", "np.save", "np.savez", "np.savez_compressed", "numpy.save", "torch.save", "save_file", "save_model"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
IMPORTED_AS = {"faiss-cpu": "faiss", "pot": "ot", "pyyaml": "yaml", "scikit-learn": "sklearn", "dask": "dask distributed"}


def files(root: Path, folders: tuple[str, ...], *endings: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((root / folder).rglob("*")) if path.suffix in endings and path.is_file())


@pytest.fixture(scope="module")
def trees(root: Path) -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    return {str(path.relative_to(root)): ast.parse(path.read_text(encoding="utf-8")) for path in files(root, PACKAGE, ".py")}


@pytest.fixture(scope="module")
def texts(root: Path) -> dict[str, str]:
    """Everything that a reader of the repository sees, but for model weights and data."""
    endings = (".py", ".md", ".toml", ".yaml", ".txt", ".html", ".jinja")
    paths = [*files(root, (*PACKAGE, "campaign", "configs", "tests", "benchmarks", "docs", ".github"), *endings), *(root / ".ci").glob("*")]
    paths += [path for path in root.iterdir() if path.suffix in endings or path.name == "Makefile"]
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call and the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def writes(tree: ast.AST) -> list[str]:
    """Calls that put bytes into a file by themselves."""
    found = []
    for call, name in calls(tree):
        last = name.rsplit(".", 1)[-1]
        modes = [word.value for word in (*call.args[:2], *(pair.value for pair in call.keywords if pair.arg == "mode")) if isinstance(word, ast.Constant)]
        opens = last in ("open", "fdopen") and any(isinstance(mode, str) and re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", mode) for mode in modes)
        if opens or name in WRITERS or last in ("write_text", "write_bytes", "save_file"):
            found.append(f"line {call.lineno}: {name}")
    return found


def runs_foreign_code(tree: ast.AST) -> list[str]:
    """Imports and arguments by which a file could run code of its own."""
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found += [f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in UNPICKLERS]
    for call, name in calls(tree):
        given = {pair.arg: ast.unparse(pair.value) for pair in call.keywords}
        unsafe = given.get("trust_remote_code", "False") != "False" or given.get("allow_pickle", "False") != "False"
        if unsafe or name in ("torch.load", "eval", "exec"):
            found.append(f"line {call.lineno}: {name}")
    return found


def lengths(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The name and number of lines of each function, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if has_text else 0)


def test_no_file_is_longer_than_300_lines(root: Path) -> None:
    counted = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(root, (*PACKAGE, "campaign", "tests", "benchmarks"), ".py")}
    assert {str(path.relative_to(root)): count for path, count in counted.items() if count > 300} == {}


def test_no_function_is_longer_than_50_lines(trees: dict[str, ast.Module]) -> None:
    long = {f"{path}::{name}" for path, tree in trees.items() for name, count in lengths(tree) if count > 50}
    assert long == set(LONG_FUNCTIONS)


def test_only_the_store_writes_files(trees: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in trees.items() if path not in MAY_WRITE and (found := writes(tree))} == {}


def test_only_scratch_makes_folders_elsewhere_since_it_finds_those_of_the_dead(trees: dict[str, ast.Module]) -> None:
    makers = ("mkdtemp", "mkstemp", "TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile")
    assert {path for path, tree in trees.items() if any(name.rsplit(".", 1)[-1] in makers for _, name in calls(tree))} == {"curate/scratch.py"}


def test_nothing_unpickles_or_runs_the_code_of_a_file(trees: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in trees.items() if path not in MAY_RUN_CODE and (found := runs_foreign_code(tree))} == {}


def test_errors_are_raised_not_asserted(trees: dict[str, ast.Module]) -> None:
    assert {path for path, tree in trees.items() if any(isinstance(node, ast.Assert) for node in ast.walk(tree))} == set()


def test_the_linked_folders_are_links_without_a_package_file(root: Path) -> None:
    for name in LINKED:
        assert (root / "curate" / name).readlink() == Path("..") / name
        assert (root / name).is_dir() and not (root / name).is_symlink()
        assert not (root / name / "__init__.py").exists()  # selectors/__init__.py would break asyncio


def test_the_standard_library_is_not_shadowed_from_the_root(root: Path) -> None:
    import selectors

    assert hasattr(selectors, "DefaultSelector")
    shadows = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/__init__.py")}
    assert shadows & set(sys.stdlib_module_names) == set()


def test_modules_are_named_after_what_they_hold(trees: dict[str, ast.Module]) -> None:
    assert {path for path in trees if Path(path).stem in VAGUE} == set()


def test_source_is_ascii_and_keeps_its_annotations(root: Path, trees: dict[str, ast.Module]) -> None:
    assert {path for path in trees if not (root / path).read_text(encoding="utf-8").isascii()} == set()
    future = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert future == []


def test_nothing_is_left_unfinished(texts: dict[str, str]) -> None:
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert {path: found[0] for path, text in texts.items() if (found := mark.search(text))} == {}


def test_no_text_names_a_path_of_one_machine(texts: dict[str, str]) -> None:
    own = re.compile(r"(?<![\w.~/-])/(home|root|Users|work|mnt|opt)/\w")
    assert {path: found[0] for path, text in texts.items() if (found := own.search(text))} == {}


def test_every_library_that_is_imported_is_declared(root: Path, trees: dict[str, ast.Module]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = ("cpu", "gpu", "slurm", "kubernetes", "ssh", "lm-eval", "vllm", "tensorboard", "wandb")
    wanted = [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]
    names = [re.split(r"[^\w.-]", line.lower())[0] for line in wanted]
    declared = {word for name in names for word in IMPORTED_AS.get(name, name.replace("-", "_")).split()}
    imported: dict[str, str] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0]: path for name in found}
    known = declared | set(sys.stdlib_module_names) | {"curate", "pydantic_core", "click"}  # which pydantic and typer bring
    assert {name: path for name, path in imported.items() if name not in known} == {}


@pytest.mark.parametrize(
    "source",
    ["open(p, 'w')", "p.open('ab')", "open(p, mode='r+')", "p.write_text(t)", "np.save(p, a)", "torch.save(m, p)", "save_file(t, p)", "gzip.open(p, 'wt')"],
)
def test_a_write_is_seen(source: str) -> None:
    assert len(writes(ast.parse(source))) == 1


@pytest.mark.parametrize("source", ["open(p)", "open(p, 'rb')", "p.open()", "p.read_text()", "webbrowser.open('http://w')", "np.savetxt"])
def test_a_read_is_no_write(source: str) -> None:
    assert writes(ast.parse(source)) == []


@pytest.mark.parametrize(
    "source", ["import pickle", "from joblib import load", "load(p, trust_remote_code=True)", "np.load(p, allow_pickle=flag)", "torch.load(p)"]
)
def test_foreign_code_is_seen(source: str) -> None:
    assert len(runs_foreign_code(ast.parse(source))) == 1
