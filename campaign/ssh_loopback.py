"""The small experiment on workers that are started by SSH, on this machine: `--profile ssh` with a real sshd.

    python -m campaign.ssh_loopback [--seed S] [--rows N] [--workers N] [--out r.json]

Starts an sshd of its own on the loopback interface, with keys of its own in a temporary folder (needs root and openssh-server; otherwise `skipped: ...`
and exit 0). Checks: a run has the bytes of a run in one process, all of it on workers of the profile; nothing is left of it; a machine whose key is not
known is refused with one line. `--python` names a Python that has asyncssh.
"""

import argparse
import contextlib
import getpass
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.elsewhere import Report, artifacts, curate, differing, found, left_over, skipped, workers_of, write_profile, write_recipe
from campaign.slurm_one_node import free_ports
from curate.clusters.settled import ended_like_interrupted

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[int]:
    """An sshd that takes one key; its port."""
    (port,) = free_ports(1)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
    for name, key in (("known", "host"), ("unknown", "stranger")):
        (folder / name).write_text(f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}")
    Path("/run/sshd").mkdir(exist_ok=True)
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log)
    time.sleep(1)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def ours(run: Path) -> list[int]:
    """Processes whose command names this run's folder."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [one.pid for one in psutil.process_iter() if "dask_spec" in " ".join(one.cmdline()) and str(run) in repr(one.environ())]
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="a Python that has asyncssh and curate")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if os.geteuid() or found("/usr/sbin/sshd", "ssh-keygen"):
        return skipped(f"needs root and {', '.join(found('/usr/sbin/sshd', 'ssh-keygen')) or 'nothing else'}")
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # as who comes by SSH finds it
    if subprocess.run([given.python, "-c", "import asyncssh, curate"], capture_output=True, cwd="/", env=bare).returncode:
        return skipped(f"{given.python} has no asyncssh, or no curate where PYTHONPATH does not say so")
    began, report = time.monotonic(), Report("ssh_loopback", 6)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ssh").mkdir(mode=0o700)
        with sshd(Path(folder) / "ssh") as port:
            trials(Path(folder), port, given, report)
    report.seconds = time.monotonic() - began
    return report.finish(given.out)


def trials(place: Path, port: int, given: argparse.Namespace, report: Report) -> None:
    """One process, workers by SSH, and a machine that pretends to be another."""
    alone, far, false = place / "alone", place / "far", place / "false"
    for one in (alone, far, false):
        write_recipe(one, given.seed, given.rows)
    ended = curate(alone, "--workers", "1", "--quiet")
    report.check("the run in one process ends well", ended.code == 0, ended.said)
    fields = {"kind": "ssh", "hosts": ["127.0.0.1"], "port": port, "username": getpass.getuser(), "client_keys": [str(place / "ssh" / "user")]}
    fields |= {"workers_per_host": given.workers, "host": "127.0.0.1", "python": given.python, "worker_timeout": 120.0}
    ended = curate(far, "--profile", write_profile(far, "far", known_hosts=str(place / "ssh" / "known"), **fields), python=given.python)
    report.figures["ssh"] = {"seconds": ended.seconds, "workers": len(workers_of(far))}
    report.check("the run by SSH ends well", ended.code == 0, ended.said)
    other = differing(artifacts(alone), artifacts(far))
    report.check("the run by SSH has the bytes of one process", not other, str(other))
    report.check("all its workers worked, and no other process did", len(workers_of(far)) == given.workers, str(workers_of(far)))
    report.check("nothing of it is left", not left_over(place) and not ours(far), f"{left_over(place)} {ours(far)}")
    ended = curate(false, "--profile", write_profile(false, "false", known_hosts=str(place / "ssh" / "unknown"), **fields), python=given.python)
    refused = ended.code == 6 and "Host key is not trusted" in ended.said and "Traceback" not in ended.said
    report.check("a machine whose key is not known is refused in one line", refused, ended.said)


if __name__ == "__main__":
    with ended_like_interrupted():  # what was started is stopped, however this ends
        sys.exit(main())
