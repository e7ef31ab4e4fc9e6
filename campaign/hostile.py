"""A real run under hostile circumstances, watched from outside while it goes on."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CANARY = "hf_" + "Canary0Of1The2Token3That4Nobody5May6See"
BELL = "\x1b]0;owned\x07\x9b31m\u202e"  # sets a window's title, colours, and turns the reading direction round
RECIPE = """
name: safe
pool: {{path: pool.jsonl, id: key, group: kind}}
target: {{rare: {{path: target.jsonl}}}}
model: {{path: {model}, max_length: 96, lora: {{r: 2, alpha: 4, targets: attention}}}}
hygiene: {{quarantine_limit: 20%}}
features: {{surprise: loss}}
arms: {{hard: {{scores: surprise, selector: top_k}}}}
budgets: [6]
seeds: [0, 1]
baselines: [random]
train: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 8}}
evaluate: {{task: exact_match, data: {{synthetic: test, rows: 4}}}}
"""
EVERYWHERE = "0.0.0.0"


@dataclass
class Ran:
    """A finished run: its folder, where Dask was told to go, what it said to a terminal, and what was seen while it went on."""

    folder: Path
    home: Path
    code: int = -1
    said: bytes = b""
    listening: set[tuple[bool, str, int]] = field(default_factory=set)  # of the driver or of a worker, address, port
    arguments: set[str] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)  # ports of the driver that speak HTTP
    processes: int = 0


def trap(folder: Path) -> Path:
    """A script that leaves a file `sprung` beside itself when it is run."""
    script = folder / "trap.py"
    script.write_text(f"open({str(folder / 'sprung')!r}, 'a').close()\n")
    return script


def hostile_dask(home: Path) -> dict[str, str]:
    """A configuration file and variables of Dask that open every address and run a script."""
    script = str(trap(home))
    section = {"preload": [script], "contact-address": f"tcp://{EVERYWHERE}:8786", "dashboard": {"bokeh-application": {"allow_websocket_origin": ["*"]}}}
    asked = {"scheduler": section, "worker": {"preload": [script]}, "nanny": {"preload": [script]}, "client": {"preload": [script]}}
    (home / ".config" / "dask").mkdir(parents=True)
    (home / ".config" / "dask" / "distributed.yaml").write_text(json.dumps({"distributed": asked}))
    names = {f"DASK_DISTRIBUTED__{part}__PRELOAD": repr([script]) for part in ("SCHEDULER", "WORKER", "NANNY", "CLIENT")}
    names |= {"DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS": f"tcp://{EVERYWHERE}:8786", "DASK_SCHEDULER_ADDRESS": f"tcp://{EVERYWHERE}:8786"}
    return {**names, "DASK_HOST": EVERYWHERE, "DASK_CONFIG": str(home / ".config" / "dask"), "HOME": str(home)}


def planted_rows(folder: Path) -> None:
    """A pool and a target whose texts, ids and groups try to steer a terminal and to name files elsewhere; two rows cannot be used."""
    kinds = ["../../outside", "/tmp/outside", "con", f"shown{BELL}"]
    names = ["../../outside", "/etc/outside", "..", ".", "~", "a\\..\\b", "$(touch outside)", "%2e%2e%2foutside"]
    names += [f"row {number}" for number in range(len(names), 40)]
    rows = [{"prompt": f"{BELL}{number} + 1", "completion": f"{number + 1}{BELL}", "kind": kinds[number % 4], "key": key} for number, key in enumerate(names)]
    rows += [{"prompt": f"{BELL} word" * 200, "completion": "x", "kind": "x", "key": "long"}, {"prompt": " ", "completion": "x", "kind": "x", "key": "blank"}]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = [{"prompt": f"{BELL}{number} - 1", "completion": str(number)} for number in range(4)]
    (folder / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wanted))


def watched_run(model: Path, folder: Path, home: Path) -> Ran:
    """`curate run` with two workers on a terminal, watched from outside until it ends."""
    found = Ran(folder, home)
    safe_recipe(folder, model)
    environment = {**os.environ, **hostile_dask(found.home), "HF_TOKEN": CANARY, "HUGGING_FACE_HUB_TOKEN": CANARY, "TERM": "xterm", "PYTHONSAFEPATH": "1"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "curate", "run", "safe.yaml", "--workers", "2", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=found.folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    listener = threading.Thread(target=_listen, args=(ours, found), daemon=True)
    listener.start()
    try:
        _watch(process, found)
    finally:
        process.kill()
    listener.join(10)
    return found


def _listen(terminal: int, found: Ran) -> None:
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other side is closed
            return
        found.said += piece
        if not piece:
            return


def _watch(process: "subprocess.Popen[bytes]", found: Ran) -> None:
    deadline = time.monotonic() + 900
    while process.poll() is None and time.monotonic() < deadline:
        for pid, connection, words in _sockets(process.pid):
            found.arguments.add(words)
            if connection:
                found.listening.add((pid == process.pid, *connection))
                if pid == process.pid and connection[1] not in found.answered and _speaks_http(connection[1]):
                    found.answered.add(connection[1])
        found.processes = max(found.processes, len(psutil.Process(process.pid).children(recursive=True)) if process.poll() is None else 0)
        time.sleep(0.1)
    found.code = process.wait(10)


def _sockets(pid: int) -> Iterator[tuple[int, tuple[str, int] | None, str]]:
    """Of every process of the tree: its arguments, and each socket that takes what others send."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            yield process.pid, None, " ".join(process.cmdline())
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN or (socket.laddr and not socket.raddr):
                    yield process.pid, (socket.laddr.ip, socket.laddr.port), ""
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue


def _speaks_http(port: int) -> bool:
    import http.client

    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        asked.request("GET", "/health")
        return asked.getresponse().read() == b"ok"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()


def unseen(said: str) -> set[str]:
    """The characters in it that steer a terminal or the reading direction, but for the ends of lines."""
    import unicodedata

    return {character for character in said if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


def safe_recipe(folder: Path, model: Path) -> Path:
    """The recipe of the run and its rows in this folder; the path of the recipe."""
    planted_rows(folder)
    path = folder / "safe.yaml"
    path.write_text(RECIPE.format(model=model))
    return path


def holding(folder: Path, secret: str) -> list[Path]:
    """The files below whose name or content, packed or not, has the secret."""
    from pyarrow import parquet

    def content(path: Path) -> bytes:
        return path.read_bytes() + (repr(parquet.read_table(path).to_pydict()).encode() if path.suffix == ".parquet" else b"")

    return [path for path in sorted(folder.rglob("*")) if secret in path.name or (path.is_file() and secret.encode() in content(path))]
