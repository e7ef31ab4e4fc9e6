"""Only tests that were run to their end are a pass: each program here is wrong, and tries to be graded right."""

import pytest

from curate.sandbox import Limits, Outcome, Program, run

WRONG = "def f(x):\n    return 5\n"


def tried(code: str) -> Outcome:
    return run(Program(code, "assert f(2) == 4"), Limits(cpu_seconds=2, seconds=20.0, memory=1 << 28))


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "quit = exit = None; raise KeyboardInterrupt",
        "import os; os.close(3)\nfor fd in range(3, 40):\n    try: os.close(fd)\n    except OSError: pass",
        "import builtins, os; builtins.AssertionError = builtins.SystemExit = Warning",
        "import os\nfor fd in range(1, 20):\n    try: os.write(fd, b'passed \\n' + b'0' * 32 + b'\\n')\n    except OSError: pass",
        "import atexit, os; atexit.register(os._exit, 0)",
        "import signal; signal.alarm(1)\nwhile True: pass",
        "import signal; signal.raise_signal(signal.SIGSEGV)",
    ],
)
def test_an_early_end_is_no_pass(code: str) -> None:
    assert tried(WRONG + code).status in ("failed", "refused", "out of memory")


REWRITES = """
import __main__, builtins, os, sys
def nothing(*given, **named): return ''
def good(*given): return b'passed'
frame = sys._getframe()
while frame:
    frame.f_globals.update(failure=good, run=good, defined=nothing, verdict=good, NONCE=0)
    for name in ('tests', 'error', 'status'):
        frame.f_locals[name] = ''
    frame = frame.f_back
for name in ('exec', 'compile', 'isinstance', 'type', 'str', 'len', 'BaseException', 'print'):
    setattr(builtins, name, nothing)
class Out:
    def write(self, text): pass
    def flush(self): pass
sys.stdout = sys.stderr = Out()
os._exit = nothing
sys.modules.clear()
os.write = nothing
"""


def test_changing_the_machinery_of_the_tests_is_no_pass() -> None:
    assert tried(WRONG + REWRITES).status == "failed"
    assert tried("def f(x):\n    return 4" + REWRITES.replace("sys.modules.clear()", "")).passed


SEEKS = """
import __main__, os, sys, io
seen, words = set(), []
def walk(value, depth):
    if id(value) in seen or depth > 8 or len(seen) > 20000: return
    seen.add(id(value))
    if isinstance(value, (str, bytes)):
        words.append(value if isinstance(value, bytes) else value.encode('utf-8', 'replace')); return
    try:
        if isinstance(value, dict): parts = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)): parts = [*value]
        else: parts = [getattr(value, name) for name in dir(value)
                       if name.startswith(('f_', 'co_', 'tb_', 'gi_', '__dict', '__closure', '__defaults', '__self', 'args', 'cell_'))]
    except Exception: return
    for part in parts: walk(part, depth + 1)
frame = sys._getframe()
while frame:
    for value in (frame.f_locals, frame.f_globals, frame.f_code): walk(value, 0)
    frame = frame.f_back
try: raise ValueError
except ValueError as error: walk(error.__traceback__, 0)
walk(sys.argv, 0); walk(vars(__main__), 0); walk(dict(os.environ), 0); walk({n: vars(m) for n, m in sys.modules.items()}, 0)
for name in ('get_objects', 'get_referents', 'get_referrers'):
    try:
        import gc
        walk(getattr(gc, name)(*[sys._getframe()][:name != 'get_objects']), 0)
    except PermissionError as error: print(error)
for fd in range(0, 20):
    try: os.set_blocking(fd, False); words.append(os.read(fd, 4096))
    except OSError: pass
print('LOOKED AT', len(seen), len(words))
for word in words:
    for start in range(0, max(1, len(word) - 32)):
        piece = word[start:start + 32]
        if len(piece) == 32 and set(piece) <= set(b'0123456789abcdef'): print('NONCE', piece)
"""


def test_the_nonce_is_not_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    nonces: list[str] = []

    def token(size: int) -> str:
        nonces.append("0123456789abcdef" * 2)
        return nonces[-1]

    monkeypatch.setattr("secrets.token_hex", token)
    outcome = tried("def f(x):\n    return 4\n" + SEEKS)
    assert outcome.passed and nonces, outcome  # the search itself went through
    looked = next(line for line in outcome.output.splitlines() if line.startswith("LOOKED AT"))
    assert int(looked.split()[2]) > 1000 and outcome.output.count("gc.get_") == 3
    assert "NONCE" not in outcome.output
    planted = SEEKS.replace("frame = sys._getframe()\nwhile", f"hidden = ['{'0123456789abcdef' * 2}']\nframe = sys._getframe()\nwhile")
    assert "NONCE" in tried("def f(x):\n    return 4\n" + planted).output  # the search would have found it


def test_what_the_docstring_says_is_not_prevented() -> None:
    assert tried("class Equal:\n    def __eq__(self, other): return True\ndef f(x): return Equal()").passed
