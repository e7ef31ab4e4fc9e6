"""A real SLURM of one node on the loopback interface: the small experiment runs as its jobs, with the bytes of a run in one process.

    python -m campaign.slurm_one_node [--seed S] [--rows N] [--workers N] [--out r.json]

Starts munged, slurmctld and slurmd of its own in a temporary folder (needs root and Debian's slurmctld, slurmd, slurm-client and munge; otherwise
`skipped: ...` and exit 0). Checks: sbatch takes the script that `--dry-run` prints (`sbatch --test-only`), and refuses it with a directive that does
not exist; a whole run on jobs; a run in which jobs are cancelled, before their worker came and while it works; a run on one to `--workers` jobs whose
walltime is shorter than the run, so that workers must end before their job does and be replaced; after each run no job and no certificate is left.
Python needs dask-jobqueue: `--python` names one that has it.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.elsewhere import ROOT, Ended, Report, artifacts, curate, differing, found, left_over, skipped, workers_of, write_profile, write_recipe
from curate.clusters.settled import ended_like_interrupted

CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""
PARTS = {"script": 3, "whole": 3, "cancelled": 4, "short": 5}  # and how many checks each has
LONGER = 4  # times the rows, for a run that outlasts jobs of two minutes
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")


@dataclass
class Slurm:
    """A running SLURM, and the environment by which its programs find it."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> Ended:
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
        return Ended(done.returncode, 0.0, done.stdout + done.stderr)

    def jobs(self) -> list[str]:
        """Numbers of the jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%i", "--states=PENDING,RUNNING,COMPLETING").said.split()

    def no_jobs(self, seconds: float) -> bool:
        """Whether all jobs are gone within that time."""
        deadline = time.monotonic() + seconds
        while self.jobs() and time.monotonic() < deadline:
            time.sleep(0.5)
        return not self.jobs()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """munged, slurmctld and slurmd in the foreground, as children of this process; stopped in the end."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count()))
    environment = {"SLURM_CONF": str(config)}
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/log/munged", f"--seed-file={folder}/munge.seed"]
    controller, node = ["slurmctld", "-D", "-i", "-f", str(config)], ["slurmd", "-D", "-N", host, "-f", str(config)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, controller, node):
            log = (folder / "log" / f"{command[0]}.out").open("wb")
            started.append(subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True))
            time.sleep(2)
        yield Slurm(folder, environment)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()


def up(slurm: Slurm, seconds: float = 60) -> str:
    """Wait until the node takes jobs; what is wrong where it does not."""
    deadline, said = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        said = slurm.ask("sinfo", "--noheader", "--format=%T").said
        if said.strip() in ("idle", "mixed", "allocated"):
            return ""
        time.sleep(1)
    logs = "".join(path.read_text(errors="replace")[-800:] for path in sorted((slurm.folder / "log").glob("*.out")))
    return f"the node is {said.strip()}: {logs}"


class Trial:
    """The runs that are compared."""

    def __init__(self, slurm: Slurm, scratch: Path, given: argparse.Namespace, report: Report) -> None:
        self.slurm, self.scratch, self.given, self.report = slurm, scratch, given, report
        self.reference: dict[str, str] = {}

    def place(self, name: str, times: int = 1) -> Path:
        """A folder with the recipe, of so many times the rows."""
        place = self.scratch / name
        write_recipe(place, self.given.seed, times * self.given.rows)
        return place

    def run(self, place: Path, *arguments: str) -> Ended:
        return curate(place, *arguments, environment=self.slurm.environment, python=self.given.python)

    def profile(self, place: Path, **fields: object) -> str:
        common = {"kind": "slurm", "cores": 1, "memory": "500 MiB", "host": "127.0.0.1", "worker_timeout": 240.0}
        return write_profile(place, "jobs", **common, **fields)

    def script(self) -> None:
        """The job script that a dry run prints, held against sbatch's own grammar."""
        place = self.place("script")
        made = self.run(place, "--profile", self.profile(place, walltime="01:00:00", account="some-account", queue="all"), "--dry-run")
        script = place / "job.sh"
        script.write_text(made.printed)
        tested = self.slurm.ask("sbatch", "--test-only", str(script))
        taken = made.code == 0 and tested.code == 0 and "to start at" in tested.said
        self.report.check("sbatch --test-only takes the script of --dry-run", taken, tested.said + made.said)
        script.write_text(made.printed.replace("#SBATCH -n 1", "#SBATCH -n 1\n#SBATCH --no-such-directive=1"))
        refused = self.slurm.ask("sbatch", "--test-only", str(script))
        self.report.check("and refuses it with a directive that does not exist", refused.code != 0 and "no-such-directive" in refused.said, refused.said)
        self.report.check("a dry run starts no job and writes no run", not self.slurm.jobs() and not (place / "runs").exists())

    def alone(self, times: int = 1) -> float:
        """The run in one process that others are held against; its seconds."""
        place = self.place(f"one-process-{times}", times)
        ended = self.run(place, "--workers", "1", "--quiet")
        if ended.code:
            raise SystemExit(f"the run in one process exits with {ended.code}: {ended.said}")
        self.reference = artifacts(place)
        return ended.seconds

    def whole(self) -> None:
        """A run on jobs that nothing disturbs."""
        self.report.figures["one process"] = self.alone()
        self.compared("jobs", "a run on jobs", workers=self.given.workers)

    def cancelled(self) -> None:
        """A job is cancelled before its worker can be there, and another while it works."""
        self.alone()
        self.compared("cancelled", "a run whose jobs are cancelled", (8.0, 45.0), workers=self.given.workers)

    def short(self) -> None:
        """Jobs of two minutes, more of them while all are busy: none may be ended by SLURM for its time."""
        what, seconds = "a run on short jobs", self.alone(LONGER)
        self.compared("short", what, times=LONGER, adaptive={"minimum": 1, "maximum": self.given.workers}, walltime="00:02:00")
        logs = self.scratch / "short" / "runs" / "small" / "logs"
        said = [path.read_text(errors="replace") for path in sorted(logs.glob("*.err"))]
        self.report.figures["short"] |= {"jobs": len(said), "one process": seconds}
        self.report.check(f"{what}: no job ran into its walltime", bool(said) and not any("TIME LIMIT" in one for one in said), str(said)[-400:])
        self.report.check(f"{what}: jobs came when all were busy, or in the place of others", len(said) > 1, f"{len(said)} jobs")

    def compared(self, name: str, what: str, meanwhile: Sequence[float] = (), times: int = 1, **fields: object) -> None:
        """A run on jobs; at each of `meanwhile` seconds a running job is cancelled."""
        place = self.place(name, times)
        profile = self.profile(place, **fields)
        cancelled: list[str] = []
        with _elsewhere(self.slurm, meanwhile, cancelled):
            ended = self.run(place, "--profile", profile)
        self.report.figures[name] = {"seconds": ended.seconds, "cancelled": len(cancelled), "workers": len(workers_of(place))}
        self.report.check(f"{what} ends well", ended.code == 0, ended.said)
        other = differing(self.reference, artifacts(place))
        self.report.check(f"{what} has the bytes of one process", not other, str(other))
        self.report.check(f"{what} leaves no job, certificate or sentinel", self.slurm.no_jobs(30) and not left_over(place), f"{left_over(place)}")
        if meanwhile:
            self.report.check(f"{what}: jobs were cancelled", bool(cancelled), "no job was there to cancel")


@contextlib.contextmanager
def _elsewhere(slurm: Slurm, at: Sequence[float], cancelled: list[str]) -> Iterator[None]:
    import threading

    stop = threading.Event()

    def work() -> None:
        began = time.monotonic()
        for seconds in at:
            if stop.wait(max(0.0, began + seconds - time.monotonic())):
                return
            while not stop.is_set():
                running = slurm.ask("squeue", "--noheader", "--format=%i", "--states=RUNNING").said.split()
                if running:
                    slurm.ask("scancel", running[0])
                    cancelled.append(running[0])
                    break
                stop.wait(0.5)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("script", "whole", "cancelled", "short"), help="one of the four parts")
    parser.add_argument("--python", default=sys.executable, help="a Python that has dask-jobqueue")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() or found(*NEEDED):
        return skipped(f"needs root and {', '.join(found(*NEEDED)) or 'nothing else'}")
    if subprocess.run([given.python, "-c", "import dask_jobqueue"], capture_output=True, cwd=ROOT).returncode:
        return skipped(f"{given.python} has no dask_jobqueue")
    began = time.monotonic()
    report = Report("slurm_one_node", sum(PARTS[part] for part in PARTS if given.only in (part, None)))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as held:
        (Path(folder) / "slurm").mkdir()
        slurm = held.enter_context(running(Path(folder) / "slurm"))
        if wrong := up(slurm):
            return skipped(f"SLURM does not start here: {wrong}")
        report.figures["version"] = slurm.ask("sbatch", "--version").said.strip()
        trial = Trial(slurm, Path(folder), given, report)
        for part in PARTS:
            if given.only in (part, None):
                getattr(trial, part)()
    report.seconds = time.monotonic() - began
    return report.finish(given.out)


if __name__ == "__main__":
    with ended_like_interrupted():  # what was started is stopped, however this ends
        sys.exit(main())
