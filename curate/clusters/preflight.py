"""Preflight: a worker gets no task before it has shown that it computes what this process would, on files that both of them see.

In order: versions of Python and of the libraries that decide numbers (asked without running any code of ours there), the hash of curate's own
source, a word read and answered in every folder of the run, a small product on its GPU, ports that it opens. The first difference refuses it, in one
line. Clocks play no part. Every worker is looked at once, when it is first seen, so that late ones are checked like the first.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from curate.clusters.audit import exposed
from curate.clusters.sentinel import Sentinel, answer
from curate.clusters.site import Site
from curate.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "peft", "dask", "distributed")
Notify = Callable[[str], None]
_SOURCE = "the hash of curate's source"
_REMIND = 30.0  # seconds between two messages while nobody comes
_LOOK = 0.1
_ANSWER = 60.0  # seconds in which a worker answers a question that needs no code
_EXAMINED = 300.0  # seconds in which it looks at folders and GPU


@dataclass(frozen=True)
class Verdict:
    """Why a worker gets no task, or nothing; and what it said of itself."""

    refused: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)


class Greeting:
    """The workers of one client: who has passed, who was refused, and who is still looked at."""

    def __init__(self, client: "Client", site: Site | None, sentinels: Sequence[Sentinel] = (), *, timeout: float = 300.0, dismisses: bool = True) -> None:
        self._client, self._site, self._sentinels = client, site, sentinels
        self.timeout, self._dismisses = timeout, dismisses
        self._verdicts: dict[str, Verdict] = {}
        self._begun: set[str] = set()
        self._told: set[str] = set()
        self._gpus: dict[str, str] = {}
        self._source = source_hasher()() if site else ""  # now, for files may change while a run goes on
        self.notify: Notify = lambda message: None

    @property
    def refusals(self) -> list[str]:
        """Why workers were refused, the first one first."""
        return [verdict.refused for verdict in list(self._verdicts.values()) if verdict.refused]

    def accepted(self, addresses: Iterable[str]) -> set[str]:
        """Those of these workers that may get tasks; the others are looked at in the background, and are accepted later or refused."""
        if self._site is None:
            return set(addresses)
        fit = set()
        for address in sorted(addresses):
            verdict = self._verdicts.get(address)
            if verdict is None:
                self._begin(address)
                continue
            self._tell(address, verdict)
            if not verdict.refused:
                fit.add(address)
        return fit

    def pending(self, addresses: Iterable[str]) -> set[str]:
        """Those that are still looked at."""
        return set() if self._site is None else set(addresses) - self._verdicts.keys()

    def _begin(self, address: str) -> None:
        if address not in self._begun:
            self._begun.add(address)
            threading.Thread(target=self._examine, args=(address,), daemon=True, name=f"preflight {address}").start()

    def _examine(self, address: str) -> None:
        try:
            verdict = self._judged(address)
        except Exception as error:  # whatever another machine raises, or a lost connection
            verdict = Verdict(f"{address}: it cannot be looked at: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")
        self._verdicts[address] = verdict
        if verdict.refused and self._dismisses:
            with suppress(Exception):
                self._client.retire_workers([address], close_workers=True, remove=True)

    def _judged(self, address: str) -> Verdict:
        """Ask the least first: versions need no code of ours, the hash of its source none of its curate."""
        name, site = self._name(address), self._site or Site()
        scheduler: Any = self._client.scheduler
        answers = self._client.sync(
            scheduler.broadcast, msg={"op": "versions", "packages": list(LIBRARIES)}, workers=[address], callback_timeout=_ANSWER
        )
        if refused := difference(name, answers[address]["packages"], versions()):
            return Verdict(refused)
        found = self._client.sync(self._client._run, source_hasher(), workers=[address], callback_timeout=_ANSWER)[address]
        if refused := difference(name, {_SOURCE: found}, {_SOURCE: self._source}):
            return Verdict(refused)
        words = [(str(sentinel.folder), sentinel.token) for sentinel in self._sentinels]
        said = self._client.sync(self._client._run, look_around, words, site.device, workers=[address], callback_timeout=_EXAMINED)[address]
        if said["refused"]:
            return Verdict(f"{name}: it {said['refused']}", said)
        for sentinel in self._sentinels:
            if not sentinel.answered(address):
                return Verdict(f"{name}: what it wrote in {sentinel.folder} is not to be seen from here; both must see one folder under that name", said)
        if said["exposed"] and self._dismisses:
            return Verdict(f"{name}: it listens on {said['exposed']}, beyond its own machine and without TLS", said)
        return Verdict("", said)

    def _name(self, address: str) -> str:
        """A worker as its owner knows it."""
        with suppress(Exception):
            known = _workers(self._client)[address]
            return f"worker {known['name']} at {address}" if str(known["name"]) != address else f"worker at {address}"
        return f"worker at {address}"

    def _tell(self, address: str, verdict: Verdict) -> None:
        """What the user should know of a worker, once."""
        if address in self._told:
            return
        self._told.add(address)
        if verdict.refused:
            self.notify(f"refused: {verdict.refused}")
            return
        said = verdict.said
        if said["exposed"]:
            self.notify(f"warning: worker at {address} listens on {said['exposed']} without TLS; start it with --dashboard-address 127.0.0.1:0")
        if other := self._gpus.get(said["gpu"]) if said["gpu"] else None:
            self.notify(f"warning: workers at {other} and {address} use the same GPU of {said['host']}; give each its own (CUDA_VISIBLE_DEVICES), or use fewer")
        self._gpus.setdefault(said["gpu"], address)

    def free_memory(self, addresses: Iterable[str]) -> dict[str, int]:
        """Bytes free on the machine of each accepted worker, when it was looked at."""
        return {address: self._verdicts[address].said.get("free", 0) for address in addresses if address in self._verdicts}


_GREETINGS: "WeakKeyDictionary[Client, Greeting]" = WeakKeyDictionary()


def expect(client: "Client", greeting: Greeting) -> None:
    """From now on, `greet` of this client looks at workers this way."""
    _GREETINGS[client] = greeting


def greet(client: "Client", expected: int, notify: Notify) -> Greeting:
    """Wait until one worker or more may get tasks, and no other is still looked at; ask the result about workers that come later.

    ClusterError where none comes in time, or all that are expected were refused, with the first reason.
    """
    greeting = _GREETINGS.get(client) or Greeting(client, None)
    greeting.notify = notify
    began = told = time.monotonic()
    while True:
        there = list(_workers(client))
        fit, waited = greeting.accepted(there), time.monotonic() - began
        if fit and not greeting.pending(there):
            _report(greeting, fit, notify)
            return greeting
        refused = greeting.refusals
        if not fit and len(refused) >= expected and not greeting.pending(there):
            raise ClusterError(f"no worker is left: {len(refused)} refused, the first because of {refused[0]}; mend it and run the same command again")
        if waited >= greeting.timeout:
            if fit:
                return greeting
            raise ClusterError(_nobody(waited, refused))
        if time.monotonic() - told >= _REMIND:
            told = time.monotonic()
            notify(f"waiting for workers: 0 of {expected} after {waited:.0f} s, at most {greeting.timeout:.0f} s")
        time.sleep(_LOOK)


def _workers(client: "Client") -> dict[str, Any]:
    """What the scheduler knows of each of its workers, by address."""
    scheduler: Any = client.scheduler
    return dict(client.sync(scheduler.identity, n_workers=-1, callback_timeout=_ANSWER)["workers"])


def _nobody(waited: float, refused: Sequence[str]) -> str:
    if refused:
        return f"no worker is left after {waited:.0f} s: {len(refused)} refused, the first because of {refused[0]}; mend it and run the same command again"
    return (
        f"no worker came in {waited:.0f} s; look at the queue or the log of the workers, or wait longer with worker_timeout in the profile, "
        "then run the same command: everything finished is kept"
    )


def _report(greeting: Greeting, fit: set[str], notify: Notify) -> None:
    free = greeting.free_memory(fit)
    if free:
        least = min(free.values())
        notify(f"{len(fit)} worker{'s' if len(fit) > 1 else ''} ready; least memory free on a machine: {least / 2**30:.1f} GiB")


def versions() -> dict[str, str | None]:
    """Of Python and the libraries that decide numbers, in this process, as Dask tells those of a worker."""
    import sys

    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info))}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def difference(name: str, theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> str:
    """The first field that differs, in one line; empty where none does."""
    for what, wanted in ours.items():
        if theirs.get(what) != wanted:
            return f"{name}: {what} is {theirs.get(what) or 'absent'} there and {wanted or 'absent'} here; give it the environment of this process"
    return ""


def source_hasher() -> Callable[[], str]:
    """A function that hashes every .py file of the package `curate` where it runs. It travels as code, not as a name, and needs no curate there."""

    def hash_of_source() -> str:
        import hashlib
        import importlib.util
        import os

        found = importlib.util.find_spec("curate")
        if found is None or not found.submodule_search_locations:
            return ""
        root, state, files = next(iter(found.submodule_search_locations)), hashlib.blake2b(digest_size=16), []
        for folder, _, names in os.walk(root, followlinks=True):
            files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
        for path in sorted(files):
            with open(path, "rb") as file:
                content = file.read()
            state.update(os.path.relpath(path, root).encode() + b"\0" + len(content).to_bytes(8, "big") + content)
        return state.hexdigest()

    return hash_of_source


async def look_around(words: Sequence[tuple[str, str]], device: str, dask_worker: Any = None) -> dict[str, Any]:
    """In a worker whose code is ours: what it sees, off the loop that answers the scheduler."""
    import asyncio

    ours = [address for address in (dask_worker.address, dask_worker.nanny) if address and address.startswith("tls://")]
    return await asyncio.to_thread(_look_around, words, device, dask_worker.contact_address or dask_worker.address, dask_worker.name, ours)


def _look_around(words: Sequence[tuple[str, str]], device: str, address: str, name: Any, tls: Sequence[str]) -> dict[str, Any]:
    import psutil

    refused, gpu = "", ""
    for folder, token in words:
        refused = refused or answer(Path(folder), token, address)
    if device != "cpu" and not refused:
        refused, gpu = _try_gpu(device, name)
    open_ports = exposed([int(one.rsplit(":", 1)[1]) for one in tls])
    return {"refused": refused, "gpu": gpu, "host": socket.gethostname(), "free": psutil.virtual_memory().available, "exposed": ", ".join(open_ports)}


def _try_gpu(device: str, name: Any) -> tuple[str, str]:
    """What is wrong with the GPU that this worker's tasks will use, or nothing; and which one of which machine it is."""
    import torch

    if not torch.cuda.is_available():
        return "sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES there", ""
    number = torch.device(device).index
    if number is None:
        number = int(name) % torch.cuda.device_count() if str(name).isdigit() else 0
    try:
        product = torch.ones(64, 64, device=f"cuda:{number}") @ torch.ones(64, 64, device=f"cuda:{number}")
        if float(product.sum()) != 64.0**3:
            return f"multiplies wrongly on cuda:{number}", ""
        return "", f"{socket.gethostname()} {torch.cuda.get_device_properties(number).uuid}"
    except RuntimeError as error:
        return f"cannot compute on cuda:{number}: {str(error).splitlines()[0]}", ""
