"""Scheduler and workers in network namespaces of their own: machines, as far as the network is concerned, each with its address.

    python -m campaign.namespaces [--seed S] [--rows N] [--workers N] [--cut SECONDS] [--out r.json]

Needs root, `ip` and a kernel that allows namespaces; otherwise `skipped: ...` and exit 0. A bridge joins this machine and the namespaces. Checks: the
small experiment by `--profile scheduler` over TLS has the bytes of a run in one process, and several namespaces worked on it; beyond its own loopback
no namespace listens where TLS and a certificate are not asked for; who has no certificate of the cluster reaches nothing; a worker whose cable is
pulled for a while changes no byte. Only what this driver made is removed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.elsewhere import QUIET, ROOT, Ended, Report, artifacts, curate, differing, found, left_over, skipped, workers_of, write_profile, write_recipe
from curate.clusters.settled import ended_like_interrupted

SCHEDULER = 8786


class Network:
    """A bridge with the address .1 here, and namespaces with the addresses .2, .3, ..."""

    def __init__(self, count: int) -> None:
        self.tag = f"c{os.getpid() % 100_000}"
        self.subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() % 250}"
        self.names = [f"{self.tag}n{number}" for number in range(count)]

    def address(self, number: int) -> str:
        return f"{self.subnet}.{number + 2}"

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        try:
            ip("link", "add", self.tag, "type", "bridge")
            ip("addr", "add", f"{self.subnet}.1/24", "dev", self.tag)
            ip("link", "set", self.tag, "up")
            for number, name in enumerate(self.names):
                ip("netns", "add", name)
                ip("link", "add", f"{self.tag}v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", f"{self.tag}v{number}", "master", self.tag, "up")
                for words in (["addr", "add", f"{self.address(number)}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
                    ip("-n", name, *words)
            yield
        finally:
            for name in self.names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)
            subprocess.run(["ip", "link", "del", self.tag], capture_output=True)

    def cable(self, number: int, state: str) -> None:
        """Pull the cable of a namespace (`down`), or plug it in again (`up`)."""
        ip("link", "set", f"{self.tag}v{number}", state)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def inside(name: str, *command: str, timeout: float = 60) -> Ended:
    """A command in a namespace, to its end."""
    done = subprocess.run(["ip", "netns", "exec", name, *command], cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=timeout)
    return Ended(done.returncode, 0.0, done.stdout + done.stderr)


@contextlib.contextmanager
def cluster(network: Network, tls: Path, logs: Path) -> Iterator[str]:
    """A scheduler in the first namespace and a worker in each other one; the scheduler's address."""
    address = f"tls://{network.address(0)}:{SCHEDULER}"
    options = ["--protocol", "tls", "--tls-ca-file", f"{tls}/ca.pem", "--tls-cert", f"{tls}/node.pem", "--tls-key", f"{tls}/node.key"]
    options += ["--dashboard-address", "127.0.0.1:0"]
    commands = [["distributed.cli.dask_scheduler", "--host", network.address(0), "--port", str(SCHEDULER), *options]]
    commands += [["distributed.cli.dask_worker", address, "--nthreads", "1", "--name", name, *options] for name in network.names[1:]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in zip(network.names, commands, strict=True):
            log = (logs / f"{name}.log").open("wb")
            words = ["ip", "netns", "exec", name, sys.executable, "-m", *command]
            environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
            started.append(subprocess.Popen(words, cwd=logs, env=environment, stdout=log, stderr=log))
        yield address
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


# Run in a namespace: what listens there beyond its loopback, and does it turn away who has no certificate?
_LISTENERS = """
import sys
from curate.clusters.audit import Listener, demands_certificate
import subprocess
for line in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines():
    address, _, port = line.split()[3].rpartition(":")
    one = Listener(0, address.strip("[]").replace("*", "0.0.0.0"), int(port))
    if not one.loopback:
        print("closed" if demands_certificate(one) else "open", one.address, one.port)
"""
# Run in a namespace without certificate of this cluster: try to hand the scheduler a task.
_ATTACK = """
import sys
from distributed import Client
from curate.clusters.certificates import made
security = made().security() if sys.argv[1].startswith("tls") else None  # of an authority of its own
try:
    Client(sys.argv[1], security=security, timeout=8).submit(print, "in").result(8)
except (OSError, ValueError, TimeoutError, RuntimeError) as error:
    print("turned away:", type(error).__name__)
else:
    print("let in")
"""


def audited(network: Network, report: Report, address: str) -> None:
    """What can be reached in the namespaces that work, and by whom."""
    open_ones, closed = [], 0
    for name in network.names[:-1]:
        said = inside(name, sys.executable, "-c", _LISTENERS).said.split("\n")
        open_ones += [f"{name} {line}" for line in said if line.startswith("open")]
        closed += sum(line.startswith("closed") for line in said)
    report.figures["ports that ask for a certificate"] = closed
    report.check("every port beyond a loopback asks for a certificate", not open_ones and closed >= 2 * len(network.names[1:-1]), f"{open_ones} {closed}")
    for scheme in ("tcp", "tls"):
        said = inside(network.names[-1], sys.executable, "-c", _ATTACK, address.replace("tls", scheme)).said
        report.check(f"a client without certificate of this cluster is turned away ({scheme})", "turned away" in said, said)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--cut", type=float, default=15.0, help="seconds without network of one worker, in a run of its own; 0 leaves it out")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if os.geteuid() or found("ip", "ss"):
        return skipped(f"needs root and {', '.join(found('ip', 'ss')) or 'nothing else'}")
    began, report = time.monotonic(), Report("namespaces", 11 if given.cut else 8)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as held:
        network, place = Network(given.workers + 2), Path(folder)  # the last one has no worker: who attacks lives there
        try:
            held.enter_context(network.up())
        except subprocess.CalledProcessError as error:
            return skipped(f"this kernel gives no namespaces: {error.stderr.strip()}")
        trials(network, place, given, report)
    report.seconds = time.monotonic() - began
    return report.finish(given.out)


def trials(network: Network, place: Path, given: argparse.Namespace, report: Report) -> None:
    """The run in one process, and those over the network."""
    from curate.clusters.certificates import made, written

    alone = place / "alone"
    write_recipe(alone, given.seed, given.rows)
    ended = curate(alone, "--workers", "1", "--quiet")
    report.check("the run in one process ends well", ended.code == 0, ended.said)
    reference, tls = artifacts(alone), place / "tls"
    written(made(), tls)
    shown = Network(0)
    shown.names, shown.tag, shown.subnet = network.names[:-1], network.tag, network.subnet
    with cluster(shown, tls, place) as address:
        fields = {"kind": "scheduler", "address": address, "workers": given.workers, "worker_timeout": 120.0}
        fields |= {"ca": f"{tls}/ca.pem", "certificate": f"{tls}/node.pem", "key": f"{tls}/node.key"}
        compared(network, place / "plain", fields, given, report, reference, 0.0)
        audited(network, report, address)
        if given.cut:
            compared(network, place / "cut", fields, given, report, reference, given.cut)


def compared(
    network: Network, place: Path, fields: dict[str, object], given: argparse.Namespace, report: Report, reference: dict[str, str], cut: float
) -> None:
    """One run on the workers, with the cable of the first worker pulled for `cut` seconds while it goes on."""
    write_recipe(place, given.seed, given.rows)
    profile = write_profile(place, "elsewhere", **fields)
    pulled = threading.Timer(12.0, _pull, (network, cut))
    if cut:
        pulled.start()
    ended = curate(place, "--profile", profile)
    pulled.cancel()
    what, hosts = "a run with a cable pulled" if cut else "a run over the network", {one.split("//")[-1].split(":")[0] for one in workers_of(place)}
    report.figures[place.name] = {"seconds": ended.seconds, "addresses": len(hosts)}
    report.check(f"{what} ends well", ended.code == 0, ended.said)
    other = differing(reference, artifacts(place))
    report.check(f"{what} has the bytes of one process", not other, str(other))
    report.check(f"{what} leaves no sentinel", not left_over(place), str(left_over(place)))
    if not cut:
        known = {network.address(number) for number in range(1, 1 + given.workers)}
        report.check("several namespaces worked on it", len(hosts & known) > 1, str(hosts))


def _pull(network: Network, seconds: float) -> None:
    network.cable(1, "down")
    time.sleep(seconds)
    network.cable(1, "up")


if __name__ == "__main__":
    with ended_like_interrupted():  # what was started is stopped, however this ends
        sys.exit(main())
