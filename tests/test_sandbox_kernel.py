"""What the kernel refuses by itself: the programs of these tests run without the audit hook, with ctypes, or without the kernel's part."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.sandbox import Limits, Program, run
from curate.sandbox_confine import _DENIED, instructions

PROBE = """
import ctypes, errno, json, os, resource, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
outside, parent = {outside!r}, {parent}
def call(number, *given):
    ctypes.set_errno(0)
    return 'done' if libc.syscall(number, *given) >= 0 else errno.errorcode[ctypes.get_errno()]
def fill():
    for number in range(100):
        with open(f'fill{{number}}', 'wb') as file: file.write(b'x' * (1 << 20))
def crowd():
    for number in range(3000): open(f'crowd{{number}}', 'w').close()
def own(command, value):
    import fcntl
    fcntl.fcntl(1, command, value)
def hard():
    if resource.getrlimit(resource.RLIMIT_NOFILE) != (32, 32): raise OSError(errno.ERANGE, 'soft')
tries = {{
    'write here': lambda: open('here', 'w').write('x'),
    'empty the folder': lambda: [os.remove(name) for name in os.listdir()],
    'signal itself': lambda: os.kill(os.getpid(), 0),
    'read limits': lambda: resource.getrlimit(resource.RLIMIT_AS),
    'hard limits': hard,
    'import': lambda: __import__('decimal'),
    'fork': os.fork,
    'clone3': lambda: call(435, None, 0),
    'io_uring': lambda: call(425, 1, None),
    'chmod newer': lambda: call(452, -100, b'here', 0, 0),
    'pidfd': lambda: call(434, parent, 0),
    'thread': lambda: threading.Thread(target=print).start(),
    'spawn': lambda: os.posix_spawn(sys.executable, ['python'], {{}}),
    'signal parent': lambda: os.kill(parent, 0),
    'signal all': lambda: os.kill(-1, 0),
    'owner of pipe': lambda: own(8, parent),
    'signal of pipe': lambda: own(10, 9),
    'socket': socket.socket,
    'unix socket': lambda: socket.socket(socket.AF_UNIX),
    'socket pair': socket.socketpair,
    'read outside': lambda: open(outside).read(),
    'write outside': lambda: open(outside, 'w'),
    'append outside': lambda: open(outside, 'a'),
    'cut outside': lambda: os.truncate(outside, 0),
    'new outside': lambda: open(outside + 'new', 'w'),
    'remove outside': lambda: os.remove(outside),
    'rename outside': lambda: os.rename('here', outside),
    'mode outside': lambda: os.chmod(outside, 0),
    'times outside': lambda: os.utime(outside),
    'list outside': lambda: os.listdir(os.path.dirname(outside)),
    'environment of parent': lambda: open(f'/proc/{{parent}}/environ').read(),
    'own memory': lambda: open('/proc/self/mem', 'rb'),
    'passwd': lambda: open('/etc/passwd').read(),
    'make folder': lambda: os.mkdir('folder'),
    'link': lambda: os.symlink('/', 'link'),
    'remove folder': lambda: os.rmdir(os.getcwd()),
    'raise limit': lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (33, 33)),
    'lower limit': lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (31, 31)),
    'lower limit anew': lambda: resource.prlimit(0, resource.RLIMIT_NOFILE, (31, 31)),
    'mount': lambda: call({mount}, b'x', b'.', b'tmpfs', 0, None),
    'unshare': lambda: call({unshare}, 0x10000000),
    'trace parent': lambda: call({ptrace}, 16, parent, 0, 0),
    'read parent': lambda: call({process_vm_readv}, parent, None, 0, None, 0, 0),
    'shared memory': lambda: call({shmget}, 0, 4096, 0o600),
    'x32 getpid': lambda: call(0x40000000 + 39),
    'fill': fill,
    'crowd': crowd,
    'fork again': os.fork,
}}
found = {{}}
for name, attempt in tries.items():
    try:
        made = attempt()
        found[name] = made if isinstance(made, str) and made in errno.errorcode.values() else 'done'
    except OSError as error: found[name] = errno.errorcode[error.errno]
    except RuntimeError as error: found[name] = str(error)
    except ValueError: found[name] = 'EPERM'  # what resource makes of it
    if name in ('fill', 'crowd'):
        for left in os.listdir(): os.remove(left)
print(json.dumps(found), flush=True)
"""
DONE = {"write here", "empty the folder", "signal itself", "read limits", "hard limits", "import"}
OTHERWISE = {  # where it is not EPERM
    **dict.fromkeys(("clone3", "io_uring", "chmod newer", "pidfd"), ("ENOSYS",)),
    **dict.fromkeys(("read outside", "write outside", "append outside", "new outside", "remove outside", "list outside"), ("EACCES",)),
    **dict.fromkeys(("environment of parent", "own memory", "passwd", "make folder", "link"), ("EACCES",)),
    **dict.fromkeys(("fill", "crowd"), ("ENOSPC",)),
    **{"thread": ("can't start new thread",), "rename outside": ("EXDEV", "EACCES"), "remove folder": ("EBUSY", "EACCES"), "x32 getpid": ("EPERM", "ENOSYS")},
}
GRANTED = ["limits", "namespaces", "folder in memory", "landlock", "seccomp"]


def confined(child: Path, folder: Path) -> tuple[list[str], str]:
    """What isolation a child program was given, and what it printed."""
    hearing, report = os.pipe()
    wanted = {"folder": folder, "report": report, "parent": os.getpid(), "child": child, "folder_bytes": 1 << 24, **Limits(memory=1 << 29).resources()}
    script = Path(sys.modules["curate.sandbox_confine"].__file__ or "")
    command = [os.path.realpath(sys.executable), "-S", "-P", script, *(f"{name}={value}" for name, value in wanted.items()), "--", "-S", child]
    done = subprocess.run(command, cwd=folder, env={}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(report,), text=True, timeout=120)
    os.close(report)
    with os.fdopen(hearing) as heard:
        return heard.read().split(", "), done.stdout


def offered() -> list[str]:
    """What this kernel grants, asked for in the shortest way."""
    asks = {
        "namespaces": "libc.unshare(0x58020000) == 0",
        "folder in memory": "libc.unshare(0x58020000) == libc.mount(b'x', b'.', b'tmpfs', 0, None) == 0",
        "landlock": "libc.syscall(444, None, ctypes.c_size_t(0), 1) >= 3",
        "seccomp": "libc.prctl(22, 2, None, 0, 0) == -1 and ctypes.get_errno() == 14 and sys.maxsize > 1 << 32",
    }
    start = "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); sys.exit(not ({}))"
    return ["limits"] + [name for name, ask in asks.items() if subprocess.run([sys.executable, "-S", "-c", start.format(ask)]).returncode == 0]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose tree everybody may enter."""
    import tempfile

    with tempfile.TemporaryDirectory() as path:
        (Path(path) / "in").mkdir()
        yield Path(path)


def test_all_is_given_up_that_this_kernel_lets_go(place: Path) -> None:
    (place / "nothing.py").write_text("")
    assert confined(place / "nothing.py", place / "in") == (offered(), "")


def test_the_kernel_refuses_by_itself_all_that_the_hook_refuses_with_words(place: Path) -> None:
    if offered() != GRANTED:
        pytest.skip(f"this kernel grants {', '.join(offered())} only")
    outside, column = place / "outside", int(platform.machine() == "aarch64")
    outside.write_text("mine")
    names = ("mount", "unshare", "ptrace", "process_vm_readv", "shmget")
    (place / "probe.py").write_text(PROBE.format(outside=str(outside), parent=os.getpid(), **{name: _DENIED[name][column] for name in names}))
    granted, printed = confined(place / "probe.py", place / "in")
    assert granted == GRANTED
    found = json.loads(printed)
    wrong = {name: said for name, said in found.items() if said not in (("done",) if name in DONE else OTHERWISE.get(name, ("EPERM",)))}
    assert wrong == {} and len(found) == 48
    assert outside.read_text() == "mine" and sorted(path.name for path in place.iterdir()) == ["in", "outside", "probe.py"]


def test_without_the_kernel_the_hook_still_refuses(place: Path) -> None:
    child = Path(sys.modules["curate.sandbox_confine"].__file__ or "").with_name("sandbox_child.py")
    for code, words in (
        ("import os; os.fork()", "refused os.fork"),
        ("open('../outside', 'w')", "refused open ../outside"),
        ("import socket; socket.socket()", "refused socket.__new__"),
        ("import os; os.kill(os.getppid(), 0)", "refused os.kill"),
        ("import os; os.execv('/bin/true', ['true'])", "refused os.exec /bin/true"),
        ("import ctypes", "refused import ctypes"),
    ):
        hearing, report = os.pipe()
        texts = b"".join(b"%012d" % len(text) + text for text in (code.encode(), b"")) + b"0" * 32 + b"\n"
        command = [sys.executable, "-S", "-P", child, str(report)]
        subprocess.run(command, input=texts, cwd=place / "in", env={}, pass_fds=(report,), timeout=60, check=True)
        os.close(report)
        with os.fdopen(hearing) as heard:
            assert heard.read() == f", audit hook\n{words}\n"


def outcome(machine: str, number: int, arguments: tuple[int, ...] = (), architecture: int | None = None) -> int:
    """What the filter of this machine returns for a system call, by the definition of BPF's four operations."""
    words = {0: number, 4: {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine] if architecture is None else architecture}
    for place, value in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * place], words[20 + 8 * place] = value & 0xFFFFFFFF, value >> 32
    program, at, loaded = instructions(machine, 77), 0, 0
    while True:
        operation, yes, no, value = program[at]
        if operation == 0x06:
            return value
        if operation == 0x20:
            loaded, step = words[value], 0
        else:
            step = yes if (loaded == value if operation == 0x15 else loaded >= value) else no
        at += 1 + step


ALLOW, DENY, ABSENT = 0x7FFF0000, 0x00050001, 0x00050026


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_answers_each_call_as_its_table_says(machine: str) -> None:
    column = ["x86_64", "aarch64"].index(machine)
    kill, tgkill, prlimit, fcntl, ioctl = ((62, 234, 302, 72, 16), (129, 131, 261, 25, 29))[column]
    denied = {numbers[column] for numbers in _DENIED.values()} - {-1}
    for number in range(600):
        plain = ABSENT if number >= 424 and number not in (436, 439) else DENY if number in denied | {kill, tgkill} else ALLOW
        assert outcome(machine, number) == plain, number
    assert [outcome(machine, number, (77, 9)) for number in (kill, tgkill)] == [ALLOW, ALLOW]
    assert [outcome(machine, number, (victim, 9)) for number in (kill, tgkill) for victim in (1, 78, 0xFFFFFFFF)] == [DENY] * 6
    assert [outcome(machine, fcntl, (1, command)) for command in (1, 4, 8, 10, 15)] == [ALLOW, ALLOW, DENY, DENY, DENY]
    assert [outcome(machine, ioctl, (1, command)) for command in (0x5401, 0x8901, 0x8902)] == [ALLOW, DENY, DENY]
    assert [outcome(machine, prlimit, (0, 7, new)) for new in (0, 1, 1 << 40, 1 << 31)] == [ALLOW, DENY, DENY, DENY]
    assert outcome(machine, 39, architecture=0x40000003) == DENY  # 32-bit calls have other numbers


def test_the_outcome_says_what_isolation_was_had() -> None:
    isolation = run(Program("", ""), Limits()).isolation
    assert isolation[0].startswith("limits") and isolation[-1] == "audit hook" and set(isolation[1:-1]) <= set(GRANTED)
