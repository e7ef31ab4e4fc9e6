"""The first program in the sandbox: it gives up all that a test program must not have, and then becomes `sandbox_child.py`.

Run by `curate.sandbox`, never imported. Whatever is given up here stays given up through the exec: resource limits;
user, network, mount and IPC namespaces, with the working folder in memory; Landlock, by which no file is reached but
the interpreter's and the folder's; a seccomp filter, by which no process is started, signalled or watched, no socket
made and no mode or owner changed. It begins the report with what the kernel granted. A second
program follows because `ctypes`, which all this needs, hands every byte of its process to whoever finds it there.
"""

import os
import resource
import sys

TYPE_CHECKING = False  # for importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/nix/store")
_FILES = ("/etc/ld.so.cache", "/dev/urandom")
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, AUDIT_ARCH_*
_ABSENT = -1
_DENIED: dict[str, tuple[int, int]] = {  # number on x86_64, on aarch64
    **{"socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept4": (288, 242)},
    **{"clone": (56, 220), "fork": (57, _ABSENT), "vfork": (58, _ABSENT), "unshare": (272, 97), "setns": (308, 268), "ptrace": (101, 117)},
    **{"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "personality": (135, 92), "setrlimit": (160, 164)},
    **{"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "bpf": (321, 280), "perf_event_open": (298, 241)},
    **{"mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_by_handle_at": (304, 265)},
    **{"userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "truncate": (76, 45)},
    **{"chmod": (90, _ABSENT), "fchmod": (91, 52), "fchmodat": (268, 53), "utime": (132, _ABSENT), "utimes": (235, _ABSENT), "futimesat": (261, _ABSENT)},
    **{"chown": (92, _ABSENT), "fchown": (93, 55), "lchown": (94, _ABSENT), "fchownat": (260, 54), "utimensat": (280, 88)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    **{"shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "sync": (162, 81), "syncfs": (306, 267)},
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294)},
    **{"reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116)},
    **{"settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266)},
    **{"sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, _ABSENT), "ioperm": (173, _ABSENT)},
}
_KILL, _TGKILL, _PRLIMIT, _FCNTL, _IOCTL = (62, 129), (234, 131), (302, 261), (72, 25), (16, 29)
_NEW = 424  # calls from this number on are the same everywhere, and answered with ENOSYS, but for close_range and faccessat2
_NEW_ALLOWED = (436, 439)
_OWNERS = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902)}  # F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP: by which a pipe sends signals to others
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: load a word, jump if equal, jump if not less, return
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW and SECCOMP_RET_ERRNO


def limit(limits: dict[str, int]) -> list[str]:
    """Set each resource limit, hard; the names of those that this system does not take."""
    missing = []
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            missing.append(name)
            continue
        hard = resource.getrlimit(kind)[1]
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (soft, soft + 1 if name == "CPU" and soft == value else soft))
        except (OSError, ValueError):
            missing.append(name)
    return missing


def separate(libc: "Any", folder: str, size: int) -> list[str]:
    """New user, network, mount and IPC namespaces with the folder in memory; empty where the kernel refuses."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x40000000 | 0x00020000 | 0x08000000) != 0:
        return []
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(file, text.encode())
        except OSError:  # the folder is then not in memory, and the rest stands
            pass
        finally:
            os.close(file)
    options = f"size={size},nr_inodes=1024,mode=700".encode()
    mounted = libc.mount(b"curate", os.fsencode(folder), b"tmpfs", 2 | 4 | 8, options) == 0  # MS_NOSUID, MS_NODEV, MS_NOEXEC
    os.chdir(folder)
    return ["namespaces", "folder in memory"] if mounted else ["namespaces"]


def landlock(libc: "Any", folder: str, readable: list[str]) -> list[str]:
    """From here on no file but these; needs Landlock 3 or later, for earlier ones let files be cut short."""
    import ctypes

    if libc.syscall(444, None, ctypes.c_size_t(0), 1) < 3:
        return []
    every = (1 << 15) - 1
    ruleset = libc.syscall(444, ctypes.byref(ctypes.c_uint64(every)), ctypes.c_size_t(8), 0)
    execute, write, read, listing, remove, create, cut = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
    granted = [(path, execute | read | listing) for path in readable] + [(folder, read | write | listing | remove | create | cut), ("/dev/null", read | write)]
    for path, rights in granted:
        if not os.path.exists(path):
            continue
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights &= every if os.path.isdir(path) else execute | read | write | cut
        rule = rights.to_bytes(8, sys.byteorder) + handle.to_bytes(4, sys.byteorder)
        if libc.syscall(445, ruleset, 1, rule, 0) != 0:
            return []
        os.close(handle)
    done = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return ["landlock"] if done else []


def seccomp(libc: "Any") -> list[str]:
    """The filter of system calls; empty where there is none, or on other processors."""
    import ctypes

    machine = os.uname().machine
    if machine not in _ARCHITECTURES or sys.maxsize < 1 << 32:
        return []
    code = b"".join(op.to_bytes(2, "little") + bytes((yes, no)) + value.to_bytes(4, "little") for op, yes, no, value in instructions(machine, os.getpid()))
    body = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("body", ctypes.c_void_p)]

    return ["seccomp"] if libc.prctl(22, 2, ctypes.byref(Filter(len(code) // 8, ctypes.addressof(body))), 0, 0) == 0 else []


def instructions(machine: str, process: int) -> list[tuple[int, int, int, int]]:
    """The filter as (operation, jump if true, jump if false, value): all calls but those above; signals to `process` alone."""
    column, architecture = _ARCHITECTURES[machine]
    deny = (_RETURN, 0, 0, _ERROR | _EPERM)
    made = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), deny, (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        made += [(_AT_LEAST, 0, 1, 0x40000000), deny]  # the x32 calls have other numbers
    for number in _NEW_ALLOWED:
        made += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    made += [(_AT_LEAST, 0, 1, _NEW), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    for numbers in _DENIED.values():
        if numbers[column] != _ABSENT:
            made += [(_EQUAL, 0, 1, numbers[column]), deny]
    first, second, third, third_high = 16, 24, 32, 36  # where the arguments lie, low words first
    for numbers in (_KILL, _TGKILL):
        made += [(_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, first), (_EQUAL, 0, 1, process), (_RETURN, 0, 0, _ALLOW), deny]
    for numbers, refused in ((_FCNTL, _OWNERS["fcntl"]), (_IOCTL, _OWNERS["ioctl"])):
        checks = [step for value in refused for step in ((_EQUAL, 0, 1, value), deny)]
        made += [(_EQUAL, 0, len(checks) + 2, numbers[column]), (_LOAD, 0, 0, second), *checks, (_RETURN, 0, 0, _ALLOW)]
    reads_only = [(_LOAD, 0, 0, third), (_EQUAL, 1, 0, 0), deny, (_LOAD, 0, 0, third_high), (_EQUAL, 1, 0, 0), deny, (_RETURN, 0, 0, _ALLOW)]
    made += [(_EQUAL, 0, len(reads_only), _PRLIMIT[column]), *reads_only]
    return [*made, (_RETURN, 0, 0, _ALLOW)]


def confine(wanted: dict[str, str]) -> list[str]:
    """Give up all that can be given up here, and say what that was."""
    libc = _library()
    if libc:
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: nothing outlives the process that asked
    if os.getppid() != int(wanted["parent"]):
        sys.exit("the process that asked for the sandbox is gone")
    had = separate(libc, wanted["folder"], int(wanted["folder_bytes"])) if libc else []
    missing = limit({name[7:]: int(value) for name, value in wanted.items() if name.startswith("RLIMIT_")})
    had.insert(0, "limits" + "".join(f" but {name}" for name in missing))
    if libc and libc.prctl(38, 1, 0, 0, 0) == 0:  # PR_SET_NO_NEW_PRIVS
        library = os.path.dirname(os.__file__)
        searched = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
        readable = [*_LIBRARIES, *_FILES, library, os.path.join(sys.base_prefix, "lib"), sys.executable, wanted["child"], *searched]
        had += landlock(libc, wanted["folder"], readable) + seccomp(libc)
    return had


def _library() -> "Any":
    """The C library, by which the kernel is called; None where it is not Linux's, or the interpreter has no ctypes."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Arguments are NAME=VALUE; those after `--` are the command to become, which is told the report's number."""
    end = sys.argv.index("--")
    wanted = dict(argument.split("=", 1) for argument in sys.argv[1:end])
    os.write(int(wanted["report"]), ", ".join(confine(wanted)).encode())
    os.execv(sys.executable, [sys.executable, *sys.argv[end + 1 :], wanted["report"]])


if __name__ == "__main__":
    main()
