"""The second program in the sandbox: runs a test program under an audit hook and reports its verdict.

Run by `sandbox_confine.py`, never imported. On stdin come the program, its tests and a nonce; to the report goes the
nonce if the tests passed, else the reason. While the program runs, the nonce lies on the evaluation stack of one frame
and is named nowhere, so that no Python code can read it, and nothing that the program writes to the report is a pass.
The tests are compiled before the program runs, and wait for it likewise. All that the hook uses is in its defaults,
for a program may change the globals and closures of functions that it meets in tracebacks.
"""

import os
import sys

TYPE_CHECKING = False  # for importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NONCE = 33  # bytes: 32 digits and the end of the line
_LONGEST_REASON = 300
_ALLOWED = frozenset(
    {"compile", "exec", "marshal.loads", "marshal.load", "marshal.dumps", "code.__new__", "function.__new__", "pickle.find_class", "time.sleep"}
    | {"object.__getattr__", "object.__setattr__", "object.__delattr__", "builtins.id", "builtins.input", "builtins.input/result", "array.__new__"}
    | {"sys._getframe", "sys._getframemodulename", "sys.excepthook", "sys.unraisablehook", "os.putenv", "os.unsetenv"}
    | {"tempfile.mkstemp", "glob.glob", "glob.glob/2", "pathlib.Path.glob", "pathlib.Path.rglob", "os.walk"}
)
_BARRED = frozenset({"ctypes", "_ctypes", "_testcapi", "_testinternalcapi", "_testlimitedcapi", "_interpreters", "_xxsubinterpreters", "_remote_debugging"})
_LISTS, _CHANGES = frozenset({"os.listdir", "os.scandir"}), frozenset({"os.remove", "os.rename"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Refusal(PermissionError):
    """The program asked for what the sandbox does not give."""


def watcher(folder: str, readable: tuple[str, ...]) -> "Callable[[str, tuple[Any, ...]], None]":
    """The audit hook: of all that is audited, only the harmless, and files of the folder and the interpreter."""

    def placed(path: "Any", roots: tuple[str, ...], string: type = str, kind: "Callable[[Any], type]" = type, length: "Callable[[Any], int]" = len) -> bool:
        if kind(path) is not string or ".." in path.split("/"):
            return False
        if path[:1] != "/":
            return True
        for root in roots:
            if path == root or path[: length(root) + 1] == root + "/":
                return True
        return False

    def watch(
        event: str,
        arguments: "tuple[Any, ...]",
        allowed: frozenset[str] = _ALLOWED,
        barred: frozenset[str] = _BARRED,
        lists: frozenset[str] = _LISTS,
        changes: frozenset[str] = _CHANGES,
        writing: int = _WRITING,
        inside: tuple[str, ...] = (folder,),
        everywhere: tuple[str, ...] = (folder, *readable),
        placed: "Callable[[Any, tuple[str, ...]], bool]" = placed,
        kind: "Callable[[Any], type]" = type,
        string: type = str,
        number: type = int,
        refusal: type[Refusal] = Refusal,
    ) -> None:
        if event in allowed:
            return
        if event == "import":
            if kind(arguments[0]) is string and arguments[0].rpartition(".")[2] not in barred and arguments[0].partition(".")[0] not in barred:
                return
        elif event == "open":
            if kind(arguments[0]) is number or placed(arguments[0], inside if arguments[2] & writing else everywhere):
                return
        elif event in lists:
            if arguments[0] is None or placed(arguments[0], everywhere):
                return
        elif event in changes and placed(arguments[0], inside) and (event != "os.rename" or placed(arguments[1], inside)):
            return
        shown = arguments[0] if arguments and kind(arguments[0]) is string else ""
        raise refusal(f"{event} {shown}".strip())

    return watch


def received() -> str:
    """One text from stdin: its length in bytes, in 12 digits, and then itself."""
    pieces, left = [], int(os.read(0, 12))
    while left and (piece := os.read(0, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces).decode("utf-8", "surrogatepass")


def defined(code: "Any") -> "dict[str, Any]":
    """The names that the program leaves."""
    module = type(sys)("program")
    sys.modules["program"] = module
    exec(code, module.__dict__)
    return module.__dict__


def run(program: str, tests: str) -> bool:
    """True if the tests pass; raises if not."""
    exec(compile(tests, "<tests>", "exec"), defined(compile(program, "<program>", "exec")))
    sys.stdout.flush()
    return True


def failure(error: BaseException, tests: str) -> bytes:
    """What the parent is told of a program that raised this: the status and, after a space, the reason."""
    status = "refused" if isinstance(error, Refusal) else "memory" if isinstance(error, MemoryError) else "failed"
    where, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            where = f" at {tests.splitlines()[trace.tb_lineno - 1].strip()}"
        trace = trace.tb_next
    try:
        text = f"{type(error).__name__}: {error}".strip(": ") if status == "failed" else str(error)
        sys.stdout.flush()
    except BaseException:  # the program's own __str__ may fail
        text = type(error).__name__
    return f"{status} {' '.join((text[:_LONGEST_REASON] + where).split())[:_LONGEST_REASON]}\n".encode("utf-8", "replace")


def main() -> None:
    report, nothing = int(sys.argv[1]), os.open("/dev/null", os.O_RDONLY)
    program, tests = received(), received()
    sys.addaudithook(watcher(os.getcwd(), (*sys.path, "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")))
    os.write(report, b", audit hook\n")
    try:  # in this order: what is left of `run` is on the stack before it starts, and is not looked up after it
        os.write(report, (os.read(0, NONCE), os.dup2(nothing, 0), run(program, tests))[0])
    except BaseException as error:  # a SystemExit is no pass either
        os.write(report, failure(error, tests))
    os._exit(0)


if __name__ == "__main__":
    main()
