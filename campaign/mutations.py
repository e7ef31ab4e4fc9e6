"""Files of a small experiment with random damage: an error by name, rows set aside, or the same result; never other rows without a word.

Each trial damages one file and runs commands in a child with limits. What is asked of a file depends on what can be known of it:
- data with checksums (gzip, parquet): an error, or every row as it was, by id and by content;
- data without (JSON lines, JSON, CSV, Arrow): an error, or every record of the file used or set aside, under another key than the whole file's;
- a model: an error, or features under another key than the whole model's;
- an artifact in the store: `verify` finds it, and the same run again ends with the same selections, or in an error;
- the run's folder and the recipe: an error, or a result.
"""

import csv
import gzip
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign.catalogue import CODES, RECIPE_FILE, SELECT, TINY, VALIDATE, curate
from campaign.confined import MIB, Ended, Limits, confined
from campaign.data_files import parquet_of
from campaign.drawing import Rng, pick, rng_of

LIMITS = Limits(clock=300, processor=30, memory=3072 * MIB)
ROWS = [{"key": f"row-{number:02d}", "prompt": f"What is {number} plus {number}?", "completion": f"It is {2 * number}."} for number in range(24)]
PREPARE = ("run", RECIPE_FILE, "--until", "prepare", "--quiet", "--workers", "1")
RECIPE = """name: bad
pool: {path: pool.jsonl, id: key}
target: {rare: {synthetic: target, rows: 4}}
model: {path: model, max_length: 64}
hygiene: {quarantine_limit: 0.5, on_bad_row: quarantine}
features: {surprise: loss, alike: bm25}
arms:
  hard: {scores: surprise, selector: top_k}
  near: {similarity: alike, selector: round_robin}
budgets: [4]
seeds: [0]
evaluate: {task: likelihood, data: {synthetic: test, rows: 4}}
"""
DATA = ("pool.jsonl", "pool.jsonl.gz", "pool.json", "pool.csv", "pool.parquet", "pool.arrow")
CHECKED = ("pool.jsonl.gz", "pool.parquet")
MODEL = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
KINDS = ("data", "data", "data", "model", "store", "store", "store", "run", "recipe")


@dataclass(frozen=True)
class Experiment:
    """A finished run up to its selections, with its data in every format; what came of it, by file of data and by stage."""

    place: Path
    rows: dict[str, dict[str, str]]  # by file of data: the digest of every used row, by id
    keys: dict[str, str]  # of the examples of each file of data
    features: list[str]  # the keys of the features of the whole model
    selections: dict[str, str]


def finished(place: Path) -> Experiment:
    """Make it."""
    (place / RECIPE_FILE).write_text(RECIPE)
    shutil.copytree(TINY, place / "model")
    for name in DATA:
        (place / name).write_bytes(_written(name))
    rows: dict[str, dict[str, str]] = {}
    keys: dict[str, str] = {}
    for name in DATA:
        with tempfile.TemporaryDirectory() as folder:
            _copied(place, Path(folder), "data")
            told = _settled(confined(partial(_prepared, name), Path(folder), LIMITS), name)
            rows[name], keys[name] = told["rows"], told["key"]
    told = _settled(confined(_selected, place, LIMITS), "the whole experiment")
    return Experiment(place, rows, keys, told["features"], told["selections"])


def _settled(ended: Ended, what: str) -> dict[str, Any]:
    if not ended.returned or ended.returned["code"]:
        raise SystemExit(f"{what} does not run without damage: {ended.returned.get('code', ended.code)}: {ended.error[-500:]}")
    return ended.returned


def _written(name: str) -> bytes:
    import pyarrow

    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    file = io.BytesIO()
    match name:
        case "pool.jsonl":
            return lines
        case "pool.jsonl.gz":
            return gzip.compress(lines, mtime=0)
        case "pool.json":
            return json.dumps(ROWS).encode()
        case "pool.csv":
            text = io.StringIO()
            table = csv.DictWriter(text, list(ROWS[0]))
            table.writeheader()
            table.writerows(ROWS)
            return text.getvalue().encode()
        case "pool.parquet":
            return parquet_of(ROWS, write_page_checksum=True, compression="zstd")
    table_of = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(file, table_of.schema) as writer:
        writer.write_table(table_of)
    return file.getvalue()


def _prepared(name: str) -> dict[str, Any]:
    """Read this file of data as the pool; the rows that came of it."""
    from curate.data.examples import open_examples, quarantined
    from curate.store import digest, read_json

    code = curate(*PREPARE[:2], f"pool={{path: {name}, id: key}}", *PREPARE[2:])
    if code:
        return {"code": code}
    key = next(stage["key"] for stage in read_json(Path("runs/bad/run.json"))["stages"] if (stage["stage"], stage["label"]) == ("examples", "pool"))
    path = Path("store") / key
    examples = open_examples(path)
    read = [examples.rows[number] for number in range(len(examples.ids))]
    rows = {one: digest(row.input_ids.tobytes() + row.supervised.tobytes()) for one, row in zip(examples.ids.tolist(), read, strict=True)}
    aside = [str(row["id"]) for row in quarantined(path)]
    return {"code": code, "rows": rows, "aside": aside, "key": key, "rows_in": read_json(path / "manifest.json")["summary"]["rows_in"]}


def _selected() -> dict[str, Any]:
    """Run until the selections; which rows they hold."""
    from curate.store import file_digest, read_json

    code = curate(*SELECT)
    manifests = [read_json(path) for path in sorted(Path("store").glob("*/manifest.json"))] if code == 0 else []
    kept = {one["key"]: file_digest(next((Path("store") / one["key"]).glob("*.parquet"))) for one in manifests if one["stage"] == "selection"}
    return {"code": code, "selections": kept, "features": sorted(one["key"] for one in manifests if one["stage"] == "features")}


def damaged(raw: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """The bytes with a bit flipped, a piece cut, zeroed, doubled or put elsewhere, random bytes in between, or in the place of another file."""
    while True:
        found = bytearray(raw)
        start = int(rng.integers(max(1, len(found))))
        length = int(rng.integers(1, 64)) if rng.integers(2) else int(rng.integers(1, max(2, len(found))))
        piece = bytes(found[start : start + length])
        match int(rng.integers(10)):
            case 0 | 1 | 2 if found:
                found[start] ^= 1 << int(rng.integers(8))
            case 3:
                del found[start:]
            case 4:
                del found[start : start + length]
            case 5:
                found[start : start + length] = bytes(len(piece))
            case 6:
                at = int(rng.integers(len(found) + 1))
                found[at:at] = piece
            case 7:
                found[start:start] = rng.bytes(int(rng.integers(1, 32)))
            case 8:
                found[start : start + 16] = rng.bytes(16)
            case _:
                found = bytearray(pick(rng, others)) if others else bytearray()
        if bytes(found) != raw:
            return bytes(found)


def _copied(source: Path, place: Path, kind: str) -> None:
    """The experiment in another folder, by hard links: a damaged file takes the place of its link."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if kind in ("data", "model", "recipe") and name.parts[0] in ("store", "runs"):
            continue
        if path.is_dir():
            (place / name).mkdir(exist_ok=True)
        elif path.is_file():
            os.link(path, place / name)


def _target(experiment: Experiment, kind: str, rng: Rng) -> Path:
    """The file that the trial damages."""
    place = experiment.place
    match kind:
        case "data":
            return Path(pick(rng, DATA))
        case "model":
            return Path("model") / pick(rng, MODEL)
        case "recipe":
            return Path(RECIPE_FILE)
    folder = place / ("store" if kind == "store" else "runs")
    files = sorted(path.relative_to(place) for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "log.jsonl", "built.json"))
    return Path(pick(rng, [path for path in files if ".part" not in path.parts]))


def trial(experiment: Experiment, seed: int, number: int) -> list[str]:
    """Damage one file; what is wrong with what curate makes of it."""
    rng = rng_of(seed, number)
    kind = str(pick(rng, KINDS))
    name = _target(experiment, kind, rng)
    with tempfile.TemporaryDirectory(dir=experiment.place.parent) as folder:
        place = Path(folder).resolve()
        _copied(experiment.place, place, kind)
        others = [path.read_bytes() for path in sorted((place / name).parent.iterdir()) if path.is_file() and path.name != name.name]
        raw = damaged((place / name).read_bytes(), others, rng)
        (place / name).unlink()
        (place / name).write_bytes(raw)
        wrong = _judged(experiment, kind, name, place)
    return [f"{kind} {name}: {line}" for line in wrong]


def _judged(experiment: Experiment, kind: str, name: Path, place: Path) -> list[str]:
    if kind == "data":
        ended = confined(partial(_prepared, str(name)), place, LIMITS)
        return _documented(ended, "code") or _rows(experiment, str(name), place, ended.returned)
    if kind == "recipe":
        return _documented(confined(lambda: {"code": curate(*VALIDATE)}, place, LIMITS), "code", more=True)  # a line for each problem
    verified: list[str] = []
    if kind in ("store", "run"):
        ended = confined(lambda: {"code": curate("verify", "bad")}, place, LIMITS)
        verified = _documented(ended, "code", more=True)
        if kind == "store" and ended.returned.get("code") == 0:
            verified.append("verify does not find it")
    ended = confined(_selected, place, LIMITS)
    wrong = verified + _documented(ended, "code", healed=kind == "store")
    if ended.returned.get("code") == 0 and kind == "model" and ended.returned["features"] == experiment.features:
        wrong.append("features of another model have the same keys")
    if ended.returned.get("code") == 0 and kind in ("store", "run") and ended.returned["selections"] != experiment.selections:
        wrong.append("the selections are others")
    return wrong


def _documented(ended: Ended, name: str, *, more: bool = False, healed: bool = False) -> list[str]:
    """Whether it came back, with an exit code that is documented and one line of error; `more` lines where several files can be wrong."""
    if name not in ended.returned:
        return [f"it did not come back (exit {ended.code}): {ended.error[-300:]!r}"]
    code = ended.returned[name]
    if code not in CODES or "Traceback" in ended.error:
        return [f"it exits with {code}: {ended.error[-300:]!r}"]
    lines = ended.error.count("\n")
    if code and (not ended.error.startswith("error: ") and not healed or (lines != 1 and not more and not healed)):
        return [f"it says {lines} lines: {ended.error[:300]!r}"]
    return []


def _rows(experiment: Experiment, name: str, place: Path, told: dict[str, Any]) -> list[str]:
    """What is wrong with the rows of a file of data that could be read."""
    if told["code"]:
        return []
    whole, used = experiment.rows[name], told["rows"]
    if name in CHECKED:
        return [] if used == whole and not told["aside"] else ["a file with checksums was read with other rows"]
    if told["key"] == experiment.keys[name]:
        return ["other bytes have the key of the whole file"]
    count = _records(place / name)
    if len(used) + len(told["aside"]) != told["rows_in"] or count not in (None, told["rows_in"]):
        return [f"{count} records make {told['rows_in']} rows, {len(used)} used and {len(told['aside'])} set aside"]
    return []


def _records(path: Path) -> int | None:
    """How many records a file holds, counted without curate; None where that cannot be told."""
    raw = path.read_bytes()  # which is told by its first bytes, whatever its name
    if raw.startswith((b"PAR1", b"ARROW1")):
        return None
    raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    if path.suffix == ".jsonl":
        return sum(bool(line.strip()) for line in raw.split(b"\n"))
    if path.suffix == ".json" and raw.lstrip()[:1] == b"[":
        return len(json.loads(raw.decode("utf-8", "surrogateescape")))
    return None


def mutated(seed: int, numbers: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of these trials."""
    began, failures = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "whole"
        place.mkdir()
        experiment = finished(place)
        for number in numbers:
            wrong = trial(experiment, seed, number)
            if wrong:
                say(f"  FAILED {number}: " + "; ".join(wrong))
                failures.append({"number": number, "wrong": wrong})
    planned = len(numbers)
    counts = {"planned": planned, "landed": planned, "not_landed": 0, "skipped": 0, "passed": planned - len(failures), "failed": len(failures)}
    return {**counts, "seconds": round(time.monotonic() - began, 1), "failures": failures}
