"""Nothing that a test program does harms the machine or passes for a pass: each test is a program that tries."""

import glob
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import curate.sandbox as sandbox
from curate.errors import SafetyError
from curate.sandbox import Limits, Outcome, Program, run, run_all

LIMITS = Limits(cpu_seconds=2, seconds=20.0, memory=1 << 28)
WRONG = "def f(x):\n    return 5\n"
TESTS = "assert f(2) == 4"


def tried(code: str, tests: str = TESTS, limits: Limits = LIMITS) -> Outcome:
    return run(Program(code, tests), limits)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sandbox makes its folders; none may be left after any test, and no process either."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


OTHERS: set[str] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Processes of earlier tests, such as a resource tracker's."""
    OTHERS.clear()
    OTHERS.update(children())


def children() -> set[str]:
    """The processes that this one has started since the test began, and not reaped."""
    while True:
        try:
            return {pid for path in glob.glob("/proc/self/task/*/children") for pid in Path(path).read_text().split()} - OTHERS
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread ended meanwhile, and what it started belongs to another one now


def test_a_right_program_passes_and_a_wrong_one_fails_at_the_test_that_says_so() -> None:
    right = tried("def f(x):\n    return x * x")
    assert (right.status, right.reason, right.passed) == ("passed", "", True)
    wrong = tried(WRONG, "x = 1\nassert f(2) == 4\n")
    assert (wrong.status, wrong.reason, wrong.passed) == ("failed", "AssertionError at assert f(2) == 4", False)


def test_errors_are_told_in_one_line() -> None:
    assert tried("def f(x:").reason == "SyntaxError: '(' was never closed (<program>, line 1)"
    assert tried("").reason == "NameError: name 'f' is not defined at assert f(2) == 4"
    assert tried("raise ValueError('a\\nb' * 5000)").reason.startswith("ValueError: a b")
    assert len(tried("raise ValueError('a' * 5000)").reason) <= 300
    assert tried("class E(Exception):\n    def __str__(self):\n        raise E\nraise E").reason == "E"
    assert tried("def f(x):\n    return f(x)").reason.startswith("RecursionError")
    assert tried("import numpy").reason == "ModuleNotFoundError: No module named 'numpy'"
    assert tried("x = '\\ud800'\nx = '\ud800'").status == tried("\0").status == "failed"


def test_program_and_tests_are_apart() -> None:
    assert tried("from __future__ import annotations\ndef f(x: Any) -> Any:\n    return 4").passed
    assert tried("# coding: latin-1\ndef f(x):\n    return 4 if '\u20ac' == '\\u20ac' else 0\r\n").passed
    assert not tried(WRONG + "'''").passed  # opens a text that would swallow the tests
    assert tried("def f(x):\n    return 4\nif __name__ == '__main__':\n    raise SystemExit(1)").passed


def test_no_set_has_another_order_in_another_run() -> None:
    code = "print([*{f'word{i}' for i in range(50)}])\ndef f(x):\n    return 4"
    assert len({outcome.output for outcome in run_all([Program(code, TESTS)] * 3, LIMITS)}) == 1


def test_an_endless_loop_is_stopped_by_its_cpu_time() -> None:
    outcome = tried("while True: pass", limits=Limits(cpu_seconds=1, seconds=60.0))
    assert (outcome.status, outcome.reason) == ("timed out", "took more than 1 seconds of CPU") and outcome.seconds < 50
    stubborn = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert tried(stubborn, limits=Limits(cpu_seconds=1, seconds=60.0)).status == "timed out"


def test_a_sleeper_is_stopped_by_the_clock() -> None:
    outcome = tried("import time\ntime.sleep(1000)", limits=Limits(seconds=1.5))
    assert (outcome.status, outcome.reason) == ("timed out", "was stopped after 1.5 seconds") and outcome.seconds < 10


def test_a_memory_bomb_is_told_from_a_failure() -> None:
    outcome = tried("x = []\nwhile True: x.append(bytearray(1 << 20))", limits=Limits(cpu_seconds=10, seconds=60.0, memory=1 << 28))
    assert (outcome.status, outcome.reason) == ("out of memory", "took more than 256 MiB")


def test_output_is_kept_up_to_its_bound_and_does_not_block_the_program() -> None:
    outcome = tried("for _ in range(300): print('x' * 99999)\ndef f(x):\n    return 4", limits=Limits(output_bytes=1000, seconds=60.0))
    assert outcome.passed and outcome.output == "x" * 1000
    assert tried("import sys; print('out', flush=True); print('err', file=sys.stderr)").output == "out\nerr\n"


def test_the_report_cannot_be_flooded() -> None:
    flood = "import os\nfor fd in range(3, 512):\n    try:\n        while True: os.write(fd, b'x' * 65536)\n    except OSError: pass"
    outcome = tried(flood)
    assert (outcome.status, outcome.reason) == ("failed", "wrote to the report of the sandbox itself")


def test_files_are_written_in_the_folder_only(tmp_path: Path, folders: Path) -> None:
    assert tried("open('a', 'w').write('4')\ndef f(x):\n    return int(open('a').read())").passed
    assert tried("import tempfile\nwith tempfile.TemporaryFile() as t: t.write(b'x')\ndef f(x):\n    return 4").passed
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for code in (
        f"open('{outside}', 'w')",
        f"open('{outside}')",
        "import os; open(os.__file__, 'a')",
        "open('../outside', 'w')",
        f"import os; os.remove('{outside}')",
        f"import os; os.rename('a', '{outside}')",
        f"import os; os.symlink('{outside}', 'a')",
        f"import os; os.chmod('{outside}', 0)",
        f"import pathlib; pathlib.Path('{outside}').write_text('')",
        f"import os; os.listdir('{tmp_path}')",
        "import os; os.chdir('/')",
        "import os, shutil; shutil.rmtree(os.getcwd())",
        "import os; os.rmdir(os.getcwd())",
    ):
        assert tried(code).status == "refused", code
    assert outside.read_text() == "mine"
    assert list(folders.iterdir()) == []


def test_no_file_grows_without_bound() -> None:
    big = "with open('a', 'wb') as file:\n    while True: file.write(b'x' * 65536)"
    assert tried(big).reason == "OSError: [Errno 27] File too large"
    assert tried("x = [open(f'a{i}', 'w') for i in range(100)]").reason.startswith("OSError: [Errno 24] Too many open files")


def test_no_secret_of_the_environment_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    outcome = tried("import os; print(dict(os.environ))\ndef f(x): return 4")
    assert outcome.passed and "HF_TOKEN" not in outcome.output and "HOME" not in outcome.output and "PATH" not in outcome.output
    assert tried("import os; print(open(f'/proc/{os.getppid()}/environ').read())").status == "refused"
    assert tried("input()").reason == "EOFError: EOF when reading a line"


def test_nothing_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        assert tried(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)").status == "refused"
        assert tried("import urllib.request; urllib.request.urlopen('http://127.0.0.1')").status == "refused"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except PermissionError: raise",
        "import os; os.system('true')",
        "import subprocess, sys; subprocess.Popen([sys.executable])",
        "import os, sys; os.execv(sys.executable, ['python'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process().start()",
        "import ctypes",
        "import _ctypes",
        "import importlib.util, sys\nsys.modules.pop('_ctypes', None); importlib.import_module('_ctypes')",
        "import sys; sys.settrace(print)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
        "import fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, 1)",
        "import sys; sys._current_frames()",
    ],
)
def test_what_a_test_never_needs_is_refused(code: str) -> None:
    assert tried(code).status == "refused"
    assert children() == set()


def test_no_thread_and_no_second_hook_comes_to_be() -> None:
    words = ("RuntimeError: can't start new thread", "_thread.start_new_thread", "_thread.start_joinable_thread")  # of the kernel, or of a later Python's hook
    assert tried("import threading\nthreading.Thread(target=print).start()").reason in words
    hooked = tried("import sys\nheard = []\nsys.addaudithook(lambda *event: heard.append(event))\nid(1)\ndef f(x):\n    return 4 if not heard else 0")
    assert hooked.passed  # Python keeps silent about a hook that another hook refuses


def test_a_refusal_that_the_program_catches_harms_nothing() -> None:
    assert tried("import os\ntry: os.system('false')\nexcept PermissionError: pass\ndef f(x): return 4").passed


def test_several_run_at_once_and_come_in_order() -> None:
    code = "import time\nprint(time.monotonic()); time.sleep({0}); print(time.monotonic())\ndef f(x): return {1}"
    programs = [Program(code.format(1.5 - 0.5 * i, 4 + i), f"assert f(2) == {4 + i}") for i in range(3)]
    outcomes = run_all(programs, LIMITS, workers=3)
    assert [outcome.status for outcome in outcomes] == ["passed"] * 3
    spans = [[float(word) for word in outcome.output.split()] for outcome in outcomes]
    assert max(start for start, _ in spans) < min(end for _, end in spans)
    assert [end - start > 1.4 - 0.5 * i for i, (start, end) in enumerate(spans)] == [True] * 3
    assert run_all([]) == []
    assert children() == set()


def test_a_system_without_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SafetyError, match="cannot be confined on .*, which has no resource limits; run it on Linux"):
        tried("")


def test_an_interpreter_that_does_not_start_is_no_failure_of_the_program(folders: Path) -> None:
    with pytest.raises(SafetyError, match="the interpreter does not start in the sandbox"):
        tried("", limits=Limits(memory=1 << 20))
    assert list(folders.iterdir()) == [] and children() == set()


def test_a_program_does_not_outlive_the_process_that_asked(folders: Path, root: Path) -> None:
    asks = f"import sys; sys.path.insert(0, {str(root)!r})\nfrom curate.sandbox import *\nrun(Program('import time; time.sleep(1000)', ''))"
    with subprocess.Popen([sys.executable, "-c", asks], env={**os.environ, "TMPDIR": str(folders)}) as parent:
        started: list[str] = []
        deadline = time.monotonic() + 30
        while not started and time.monotonic() < deadline:
            started = [pid for path in glob.glob(f"/proc/{parent.pid}/task/*/children") for pid in Path(path).read_text().split()]
            time.sleep(0.01)
        while os.readlink(f"/proc/{started[0]}/fd/0") != "/dev/null":  # so that the program itself is running
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
    while Path(f"/proc/{started[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{started[0]}").exists()
