"""Results that were paid for once: what a model said to a request, by all that decided it, and never asked for again.

    key = blake2b(model, weights, engine, press, versions, request)      128 bits, in hexadecimal
    one journal entry = one batch of results and their hash              one line, one sync to the disk

A result is what JSON can hold; floats come back bit for bit (all but a NaN's payload), tuples as lists. The first result
of a key counts. A batch that a crash cut short never counted, and is computed again.

Cost: results are kept as text and parsed when asked for, about 250 bytes each in memory besides the text itself. One
process at a time: `open_ledger` refuses a ledger that another process has open, for two that append could cut each
other's lines.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.errors import ConfigError, IntegrityError, about
from curate.interfaces import Journal
from curate.journal import JournalFile
from curate.store import canonical, digest, locked

SCHEMA = 1
IDENTITY = frozenset({"model", "weights", "engine", "press", "versions"})


def key(identity: Mapping[str, Any], request: Any) -> str:
    """The name of what this model, as it is run here, says to this request; both are what JSON can hold.

    `identity` has at least the model's fingerprint, the hash of the adapter or weights on top of it (null: none), the
    engine's settings with its dtype, the press (null: none) and the versions of what computes. `request` is its tokens.
    """
    missing = sorted(IDENTITY - identity.keys())
    if missing:
        raise ConfigError(f"a ledger's key lacks {', '.join(missing)}: results of unlike runs would pass for one another; give each, null where there is none")
    return digest(canonical([SCHEMA, identity, request]))


class Ledger:
    """Results by key, and on disk where there is a journal."""

    def __init__(self, journal: Journal | None = None) -> None:
        """Reads all entries; IntegrityError for one that is no batch of results, or not as it was written."""
        self._journal = journal
        self._texts: dict[bytes, str] = {}
        for number, entry in enumerate(journal.entries() if journal else (), 1):
            for name, text in zip(*_opened(entry, number), strict=True):
                self._texts.setdefault(name, text)

    def __len__(self) -> int:
        return len(self._texts)

    def known(self, keys: Iterable[str]) -> dict[str, Any]:
        """The results of those keys that have one."""
        found = ((name, self._texts.get(_packed(name))) for name in keys)
        return {name: json.loads(text) for name, text in found if text is not None}

    def add(self, results: Mapping[str, Any]) -> None:
        """Keep a batch for good before this returns; keys that have a result keep it."""
        fresh = {name: _written(result) for name, result in results.items() if _packed(name) not in self._texts}
        if not fresh:
            return
        if self._journal is not None:
            names, texts = "".join(fresh), list(fresh.values())
            self._journal.append({"ledger": SCHEMA, "keys": names, "results": texts, "check": _check(names, texts)})
        self._texts |= {_packed(name): text for name, text in fresh.items()}


@contextlib.contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """The ledger in this file, for this process alone; ClusterError at once if another has it open."""
    with locked(path.with_name(f"{path.name}.lock"), wait=False):
        with about(str(path)):
            ledger = Ledger(JournalFile(path))
        yield ledger


def _packed(name: str) -> bytes:
    """A key in 16 bytes; ValueError for what `key` never made."""
    packed = bytes.fromhex(name)
    if packed.hex() != name or len(packed) != 16:
        raise ValueError(f"{name!r} is no key of a ledger; make keys by curate.inference.ledger.key")
    return packed


def _opened(entry: Mapping[str, Any], number: int) -> tuple[list[bytes], list[str]]:
    """Keys and texts of one batch."""
    names, texts = entry.get("keys"), entry.get("results")
    if entry.get("ledger") != SCHEMA or not isinstance(names, str) or not isinstance(texts, list) or entry.get("check") != _check(names, texts):
        raise IntegrityError(f"entry {number} is no batch of results of this version, or was changed; restore the file, or remove it to compute them again")
    joined = bytes.fromhex(names)
    return [joined[start : start + 16] for start in range(0, len(joined), 16)], texts


def _check(names: str, texts: Sequence[Any]) -> str:
    return digest("\n".join([names, *map(str, texts)]).encode())


def _written(result: Any) -> str:
    """The result as text that gives the same value again, NaN and infinities with it."""
    _require_plain(result)
    return json.dumps(result, separators=(",", ":"))


def _require_plain(value: Any) -> None:
    """TypeError for what JSON would change without a word, such as keys that are no text."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a result has the key {name!r}, which is no text; JSON would make it one")
            _require_plain(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _require_plain(part)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"a result holds a {type(value).__name__}; give numbers, text, lists and mappings of them (tensors and arrays: .tolist())")
