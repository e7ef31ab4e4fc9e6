"""P18, S03, S16: a run opens ports on the loopback interface only, whatever Dask's files and variables ask for."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from curate.cluster import cluster_of
from curate.clusters.settled import settle_dask
from curate.errors import SafetyError
from tests.safety.hostile import Ran, hostile_dask

LOOPBACK = {"127.0.0.1", "::1"}
FACTORY = {"version": 1, "formatters": {"x": {"()": "os.system", "command": "true"}}}


def test_every_socket_of_a_real_run_listens_on_the_loopback_interface(ran: Ran) -> None:
    assert ran.code == 0, ran.said[-2000:].decode(errors="replace")
    drivers, workers = ({port for mine, _, port in ran.listening if mine is driver} for driver in (True, False))
    assert ran.processes >= 2 and drivers and len(workers) >= 2  # it was a cluster, and it was seen
    assert {address for _, address, _ in ran.listening} <= LOOPBACK


def test_the_dashboard_is_on_the_loopback_interface_too(ran: Ran) -> None:
    assert ran.answered and {address for driver, address, port in ran.listening if driver and port in ran.answered} <= LOOPBACK


def test_no_script_that_dasks_configuration_names_is_run(ran: Ran) -> None:
    assert not (ran.home / "sprung").exists()
    subprocess.run([sys.executable, str(ran.home / "trap.py")], check=True)
    assert (ran.home / "sprung").exists()  # the trap works
    (ran.home / "sprung").unlink()


def test_the_traps_are_set(tmp_path: Path) -> None:
    """The same files and variables do set the scripts and the address, where nobody takes them away."""
    code = "import dask, distributed; print(dask.config.get('distributed.nanny.preload'), dask.config.get('distributed.scheduler.contact-address'))"
    asked = {**os.environ, **hostile_dask(tmp_path)}
    for names in (asked, {name: value for name, value in asked.items() if not name.startswith("DASK_")}):
        done = subprocess.run([sys.executable, "-c", code], env=names, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [f"['{tmp_path / 'trap.py'}']", "tcp://0.0.0.0:8786"]


@pytest.mark.parametrize(
    "settings",
    [{"logging": FACTORY}, {"distributed": {"logging": FACTORY}}, {"logging-file-config": "x.ini"}, {"distributed": {"logging-file-config": "x.ini"}}],
    ids=["logging", "distributed.logging", "file", "distributed.file"],
)
def test_a_file_of_dasks_that_sets_up_logging_is_refused_before_a_process_starts(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dask.yaml").write_text(json.dumps(settings))
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    cluster, before = cluster_of(2), set(psutil.Process().children())
    with pytest.raises(SafetyError, match="dask.yaml sets up Python's logging for Dask, which can run any code; take"):
        list(cluster.map(abs, [1, 2]))
    assert set(psutil.Process().children()) <= before


def test_other_settings_of_logging_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dask.yaml").write_text("distributed: {logging: {distributed: info}}\nlogging:\n")
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    with dask.config.set({}):
        settle_dask()
        assert "logging" not in dask.config.get("distributed", {})


def test_what_was_open_is_closed_after_the_run(ran: Ran) -> None:
    for _, address, port in ran.listening:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
            assert other.connect_ex((address, port)) != 0
