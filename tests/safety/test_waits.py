"""P15: nothing in the package waits for ever. A call that may wait has a deadline, or stands here with the reason why it ends."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("curate", "scorers", "selectors", "pipelines")
CLUSTERS = ("curate/cluster.py", "curate/clusters/", "curate/one_task.py")  # whose waits have watchdogs of their own: tests/test_cluster.py
METHODS = {"result", "join", "wait", "communicate", "recv", "accept", "acquire", "get_nowait", "wait_for_everyone", "barrier"}
FUNCTIONS = {"urlopen", "run", "call", "check_call", "check_output", "getoutput", "waitpid", "wait4", "waitid", "create_connection", "select", "flock", "lockf"}
REQUESTS = {"get", "post", "put", "delete", "head", "request", "patch"}

# "path: call" and why it ends
ENDS = {
    "curate/sandbox.py: process.wait": "the process has been killed with its group just before",
    "curate/locks.py: fcntl.flock": "LOCK_NB: it never waits",
    "curate/scratch.py: fcntl.flock": "LOCK_NB: it never waits",
    "curate/train.py: ranks.wait": "collective operations of torch.distributed have a timeout, see curate/training/joint.py",
    "curate/training/joint.py: PartialState().wait_for_everyone": "collective operations have the timeout that PartialState is given",
    "pipelines/joint.py: subprocess.run": "a process that hangs leaves the others in a collective operation, whose timeout ends all of them",
    "curate/gradient_features.py: reader.result": "no future: what a reader has read",
    "curate/passes.py: reader.result": "no future: what a reader has read",
    "pipelines/measure.py: watcher.join": "its thread looks at an event every 5 ms",
}


def waits(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every call by its dotted name that may wait and has no timeout, and its line."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        timed = any(pair.arg in ("timeout", "timeout_s") or pair.arg is None for pair in node.keywords)
        on_module = "." in name and name.partition(".")[0] in ("subprocess", "requests", "os", "select", "socket", "fcntl", "urllib", "signal")
        method = last in METHODS and isinstance(node.func, ast.Attribute) and not (last == "join" and _of_text(node))
        function = last in FUNCTIONS and on_module
        request = last in REQUESTS and name.startswith(("requests.", "httpx."))
        if (method or function or request) and not timed and not (last == "wait" and node.args) and not (last == "join" and node.args):
            yield name, node.lineno


def _of_text(call: ast.Call) -> bool:
    """Whether it joins words: it is given what to join."""
    return bool(call.args)


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, int]:
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    named = {str(path.relative_to(root)): path for path in paths}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in named.items() if not name.startswith(CLUSTERS)}
    return {f"{name}: {call}": line for name, tree in trees.items() for call, line in waits(tree)}


def test_every_wait_has_a_deadline(found: dict[str, int]) -> None:
    assert {call: line for call, line in found.items() if call not in ENDS} == {}


def test_the_exceptions_are_still_there(found: dict[str, int]) -> None:
    assert set(ENDS) - set(found) == set()


@pytest.mark.parametrize(
    "call",
    ["future.result()", "thread.join()", "event.wait()", "p.communicate()", "subprocess.run(x)", "urllib.request.urlopen(x)", "requests.get(x)"],
)
def test_a_wait_without_a_deadline_is_seen(call: str) -> None:
    assert len(list(waits(ast.parse(call)))) == 1
    assert list(waits(ast.parse(call.replace("()", "(timeout=1)").replace("(x)", "(x, timeout=1)")))) == []


@pytest.mark.parametrize("call", ["', '.join(words)", "os.path.join(a, b)", "event.wait(0.1)", "reader.results()", "dict.get(x)", "run(recipe)"])
def test_what_does_not_wait_is_let_be(call: str) -> None:
    assert list(waits(ast.parse(call))) == []
