"""A result is computed once: kept bit for bit, through kills and torn lines, under a name that all that decided it has part in."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.errors import ClusterError, ConfigError, IntegrityError
from curate.inference.ledger import Ledger, key, open_ledger
from curate.journal import JournalFile

IDENTITY: dict[str, Any] = {"model": "m1", "weights": None, "engine": {"dtype": "float32"}, "press": None, "versions": {"torch": "2.13"}}


class Remembered:
    """A journal in memory that counts its syncs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def entries(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def append(self, entry: Mapping[str, Any]) -> None:
        self.lines.append(json.dumps(entry, allow_nan=False))


def keys(count: int) -> list[str]:
    return [key(IDENTITY, [number]) for number in range(count)]


def test_every_part_of_the_identity_and_the_request_is_in_the_key() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model": "m2"},
        {"weights": "m2"},
        {"engine": {"dtype": "bfloat16"}},
        {"engine": {"dtype": "float32", "chunk": 1}},
        {"press": {"name": "snapkv"}},
        {"versions": {"torch": "2.14"}},
        {"more": None},
    ]
    requests: list[Any] = [[1, 2], [[1], [2]], [[1, 2], []], [12], [1, 2.0], ["1", "2"], [2, 1], None]
    made = {key(IDENTITY | change, request) for change in changes for request in requests}
    assert len(made) == len(changes) * len(requests) and all(len(name) == 32 for name in made)
    assert key(dict(reversed(IDENTITY.items())), (1, 2)) == key(IDENTITY, [1, 2])
    # as any other program would compute it
    from hashlib import blake2b

    text = '[1,{"engine":{"dtype":"float32"},"model":"m1","press":null,"versions":{"torch":"2.13"},"weights":null},[1,2]]'
    assert key(IDENTITY, [1, 2]) == blake2b(text.encode(), digest_size=16).hexdigest()


def test_an_identity_that_leaves_something_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks press, weights: results of unlike runs would pass for one another; give each, null where"):
        key({"model": "m", "engine": {}, "versions": {}}, [1])
    with pytest.raises(ValueError, match="no key of a ledger"):
        Ledger().add({"ab" * 15 + " ab": 1})
    for wrong in ("", "ab", "AB" * 16, "ab" * 17):
        with pytest.raises(ValueError, match="no key of a ledger"):
            Ledger().known([wrong])


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 64, 20_000, dtype=np.uint64)
    special = [0.0, -0.0, 5e-324, -2.2250738585072014e-308, math.inf, -math.inf, 0.1, 1.0, 1e22, 2.0**53, float(np.float32(0.1))]
    values = [value for value in bits.view(np.float64).tolist() if not math.isnan(value)] + special
    (name,) = keys(1)
    with open_ledger(tmp_path / "l.jsonl") as ledger:
        ledger.add({name: {"values": values, "text": "\u00e9\n\U0001f600\0", "none": None, "whole": 1, "true": True, "nan": math.nan}})
    with open_ledger(tmp_path / "l.jsonl") as ledger:
        found = ledger.known([name])[name]
    assert struct.pack(f"<{len(values)}d", *found["values"]) == struct.pack(f"<{len(values)}d", *values)
    assert all(type(value) is float for value in found["values"]) and math.isnan(found["nan"])
    assert found["text"] == "\u00e9\n\U0001f600\0" and found["none"] is None and found["true"] is True and type(found["whole"]) is int


@pytest.mark.parametrize("result", [np.float32(1), np.zeros(2), {1: 2}, [{"a": {2.0: 1}}], {1, 2}, b"a", [object()]])
def test_what_json_would_change_is_refused(result: object) -> None:
    ledger = Ledger(journal := Remembered())
    with pytest.raises(TypeError, match="a result h"):
        ledger.add({keys(1)[0]: result})
    assert len(ledger) == 0 and journal.lines == []


def test_the_first_result_of_a_key_counts() -> None:
    one, two = keys(2)
    ledger = Ledger(journal := Remembered())
    ledger.add({one: 1.5})
    ledger.add({one: 2.5})
    ledger.add({one: 3.5, two: [4]})
    ledger.add({})
    assert ledger.known([two, one, keys(3)[2]]) == {one: 1.5, two: [4]} and len(journal.lines) == 2 and len(ledger) == 2
    assert Ledger(journal).known([one, two]) == {one: 1.5, two: [4]}
    assert Ledger().known([one]) == {}
    other = Ledger(late := Remembered())
    other.add({one: 9.5, keys(3)[2]: 6})
    journal.lines += late.lines  # as if two processes had written it
    assert Ledger(journal).known(keys(3)) == {one: 1.5, two: [4], keys(3)[2]: 6}
    found = ledger.known([two])[two]
    found.append(5)
    assert ledger.known([two]) == {two: [4]}


def test_a_file_cut_at_any_byte_holds_the_whole_batches_before_it(tmp_path: Path) -> None:
    path, names = tmp_path / "l.jsonl", keys(6)
    with open_ledger(path) as ledger:
        for start in range(0, 6, 2):
            ledger.add({name: start for name in names[start : start + 2]})
    whole = path.read_bytes()
    ends = [0] + [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        before = 2 * (sum(end <= cut for end in ends) - 1)
        with open_ledger(path) as ledger:
            assert sorted(ledger.known(names)) == sorted(names[:before])
            if cut % 97 == 0:
                ledger.add({name: 9 for name in names})
                assert sorted(Ledger(JournalFile(path)).known(names)) == sorted(names)


def test_a_changed_entry_is_named_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with open_ledger(path) as ledger:
        ledger.add({keys(1)[0]: 1.5})
    for old, new in (("1.5", "1.6"), (keys(1)[0], keys(2)[1]), ('"ledger":1', '"ledger":2'), ('["1.5"]', '"1.5"'), ('"keys":"', '"keys":"00')):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(IntegrityError, match="l.jsonl: entry 1 is no batch of results of this version, or was changed; restore"), open_ledger(path):
            pass
        path.write_text(text)
    with open_ledger(path) as ledger:
        assert len(ledger) == 1


WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from curate.inference.ledger import key, open_ledger
identity = {identity!r}
with open_ledger(Path({path!r})) as ledger:
    print('open', flush=True)
    for number in range(len(ledger), {count}):
        ledger.add({{key(identity, [number]): {{'number': number, 'text': 'x' * 20000}}}})
        print(number, flush=True)
"""


def writer(root: Path, path: Path, count: int) -> "subprocess.Popen[str]":
    code = WRITER.format(root=str(root), path=str(path), identity=IDENTITY, count=count)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_process_killed_while_it_appends_loses_nothing_that_it_was_told_is_kept(root: Path, tmp_path: Path) -> None:
    path, kept = tmp_path / "l.jsonl", 0
    for wait in (0.0, 0.003, 0.011):
        with writer(root, path, 10**9) as process:
            assert process.stdout is not None and process.stdout.readline() == "open\n"
            process.stdout.readline()
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            told = [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        with open_ledger(path) as ledger:  # the lock of the killed process does not stay
            assert len(ledger) > kept
            kept = len(ledger)
            assert kept > max(told, default=0)
            found = ledger.known(keys(kept))
        assert [found[name]["number"] for name in keys(kept)] == list(range(kept))
    with writer(root, path, kept + 3) as process:
        assert process.stdout is not None
        assert process.stdout.read().splitlines() == ["open", *map(str, range(kept, kept + 3))]  # nothing of before again


def test_a_second_process_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with writer(root, path, 10**9) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        with pytest.raises(ClusterError, match="in use by another curate process"), open_ledger(path):
            pass
        process.kill()
    with open_ledger(path), pytest.raises(ClusterError), open_ledger(path):
        pass


def test_memory_and_time_are_bounded_by_the_number_of_results() -> None:
    journal, count = Remembered(), 30_000
    names = [f"{number:032x}" for number in range(count)]
    writing = Ledger(journal)
    for start in range(0, count, 500):
        writing.add({name: {"loglikelihood": -1.0 / 3, "tokens": 7} for name in names[start : start + 500]})
    del writing
    started = time.process_time()
    ledger = Ledger(journal)
    assert time.process_time() - started < 3  # a tenth of it, on a quiet machine
    assert len(ledger) == count
    del ledger
    tracemalloc.start()
    ledger = Ledger(journal)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ledger) == count and size / count < 350 and peak / count < 600
