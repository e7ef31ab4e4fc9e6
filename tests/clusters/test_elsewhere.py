"""Whole runs by the command line on workers of a scheduler of its own process, and what ends a run early."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign.elsewhere import QUIET, ROOT, artifacts, curate, differing, left_over, workers_of, write_profile, write_recipe
from curate.clusters.certificates import made, written
from tests.clusters.outside import address_in, ended

SEED, ROWS = 4, 300


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A scheduler and three workers, each a process of its own, and the folder of their certificates."""
    place = tmp_path_factory.mktemp("scheduler")
    files = written(made(), place / "tls")
    tls = ["--protocol", "tls", "--tls-ca-file", files.authority, "--tls-cert", files.node, "--tls-key", files.key, "--dashboard-address", "127.0.0.1:0"]
    commands = [["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place / "scheduler.json")]]
    worker = ["distributed.cli.dask_worker", "--scheduler-file", str(place / "scheduler.json"), "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]
    environment, started = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}, []
    with ended(started):
        for command in (*commands, worker, worker, worker):
            log = (place / f"{len(started)}.log").open("wb")
            started.append(subprocess.Popen([sys.executable, "-m", *command, *tls], cwd=place, env=environment, stdout=log, stderr=log))
        yield address_in(place / "scheduler.json"), place / "tls"


@pytest.mark.campaign
def test_three_workers_of_another_process_write_the_bytes_of_one_process(address: tuple[str, Path], tmp_path: Path) -> None:
    alone, elsewhere = tmp_path / "alone", tmp_path / "elsewhere"
    write_recipe(alone, SEED, ROWS)
    write_recipe(elsewhere, SEED, ROWS)
    files = {"ca": str(address[1] / "ca.pem"), "certificate": str(address[1] / "node.pem"), "key": str(address[1] / "node.key")}
    profile = write_profile(elsewhere, "mine", kind="scheduler", address=address[0], workers=3, **files)
    first, second = curate(alone, "--workers", "1", "--quiet"), curate(elsewhere, "--profile", profile)
    assert (first.code, second.code) == (0, 0), first.said + second.said
    assert differing(artifacts(alone), artifacts(elsewhere)) == []
    assert len(workers_of(elsewhere)) > 1 and not left_over(tmp_path)
    assert second.said.count("ready; least memory free") == 1


@pytest.mark.slow
def test_a_scheduler_without_workers_ends_with_exit_6_and_says_where_to_look(tmp_path: Path) -> None:
    files = written(made(), tmp_path / "tls")
    tls = ["--protocol", "tls", "--tls-ca-file", files.authority, "--tls-cert", files.node, "--tls-key", files.key, "--dashboard-address", "127.0.0.1:0"]
    command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(tmp_path / "scheduler.json"), *tls]
    write_recipe(tmp_path, SEED, 20)
    scheduler = subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        given = {"ca": files.authority, "certificate": files.node, "key": files.key}
        profile = write_profile(tmp_path, "mine", kind="scheduler", address=address_in(tmp_path / "scheduler.json"), worker_timeout=2.0, **given)
        ended = curate(tmp_path, "--profile", profile, "--until", "score")
    finally:
        scheduler.kill()
        scheduler.wait(20)
    assert ended.code == 6 and "error: no worker came in 2 s; look at the queue or the log of the workers" in ended.said, ended.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_sigterm_ends_a_run_as_ctrl_c_does(number: signal.Signals, tmp_path: Path) -> None:
    write_recipe(tmp_path, SEED, ROWS)
    command = [sys.executable, "-m", "curate", "run", "small.yaml", "--workers", "1", "--device", "cpu"]
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        log = tmp_path / "runs" / "small" / "log.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and '"stage"' in log.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted: everything finished so far is kept; run the same command again to go on"
    assert "Traceback" not in said
