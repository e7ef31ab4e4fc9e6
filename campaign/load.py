"""A million rows through two scorers of words and three selectors while worker processes are killed at random: same bytes, flat memory?

    python -m campaign.load [--rows 1000000] [--small 250000] [--workers 2] [--kills 6] [--seed S] [--folder DIR] [--out r.json]

A pool of short rows is written once, as parquet. A run without kills gives the bytes to compare with. Then what was prepared is kept and scoring
and selection are run again while workers, found as children of the driver, die by SIGKILL at random moments; at the end the store must hold the same
bytes. The most memory of the driver and of any worker is reported for every stage, beside that of the same run with a quarter of the rows. It fails
where bytes differ, where a planned kill did not land, or where the memory that a row adds is more than `MOST_PER_ROW`.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from campaign.command import Running, curate, start
from campaign.trial import contents, differences

ROOT = Path(__file__).resolve().parents[1]
MOST_PER_ROW = 1500  # bytes of own memory that a row may add to a process: its id, lengths and group, and the ledger of preparing
_NOISE = 64.0  # MiB by which two runs of one size may differ: what libraries and the allocator keep
_BATCH = 50_000
_WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("an", "el", "ino", "um", "or")]
_OWN = re.compile(r"RssAnon:\s*(\d+) kB")


def recipe(pool: Path, target: Path, rows: int) -> dict[str, Any]:
    """Two scorers that read words, and three selectors over them; nothing is trained."""
    return {
        "name": "load",
        "pool": {"path": str(pool), "prompt": "{prompt}", "completion": "{completion}", "group": "kind"},
        "target": {"some": {"path": str(target), "prompt": "{prompt}", "completion": "{completion}", "group": "kind"}},
        "model": {"path": str(ROOT / "configs" / "quickstart_model"), "max_length": 96},
        "features": {"words": {"name": "bm25"}, "weight": {"name": "dsir"}},
        "arms": {
            "turns": {"similarity": "words", "selector": "round_robin"},
            "largest": {"scores": "weight", "selector": "top_k"},
            "drawn": {"scores": "weight", "selector": "dsir_sample"},
        },
        "budgets": [max(8, rows // 100)],
        "seeds": [0],
        "baselines": ["random"],
        "evaluate": [{"task": "likelihood", "data": {"synthetic": "test", "rows": 4}}],
    }


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Rows of 4 to 16 words, the first number of which makes each one of a kind, as parquet in constant memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("prompt", pa.string()), ("completion", pa.string()), ("kind", pa.string())])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as file:
        for batch in _drawn(rows, seed):
            file.write_table(pa.Table.from_pylist(batch, schema=schema))


def _drawn(rows: int, seed: int) -> Iterator[list[dict[str, str]]]:
    generator = random.Random(seed)
    for begin in range(0, rows, _BATCH):
        yield [
            {
                "prompt": f"Row {number}: {' '.join(generator.choices(_WORDS, k=generator.randint(4, 16)))}",
                "completion": generator.choice(_WORDS),
                "kind": f"kind {number % 7}",
            }
            for number in range(begin, min(begin + _BATCH, rows))
        ]


@dataclass
class Watch:
    """The memory of a command's driver and workers while it runs, and the kills among its workers."""

    running: Running
    moments: list[float] = field(default_factory=list)  # seconds between a kill, or the first workers, and the next
    seed: int = 0
    samples: list[tuple[float, float, float, int]] = field(default_factory=list)  # seconds, MiB of the driver, most MiB of a worker, workers
    killed: int = 0

    def follow(self, every: float = 0.5) -> int:
        """Watch until it ends; its exit code."""
        drawn, left, due = random.Random(self.seed), list(self.moments), 0.0
        while (code := self.running.ended(every)) is None:
            now, workers = time.monotonic() - self.running.began, self.running.workers()
            held = [own_mib(one.pid) for one in workers]
            self.samples.append((round(now, 1), own_mib(self.running.pid), max(held, default=0.0), len(workers)))
            if left and workers and not due:
                due = now + left[0]
            if due and now >= due and len(workers) > 1:
                drawn.choice(sorted(workers, key=lambda one: one.pid)).kill()
                self.killed += 1
                left.pop(0)
                due = now + left[0] if left else 0.0
        return code

    def most(self) -> dict[str, float]:
        """The most that the driver, and that any worker, held at once."""
        return {"driver_mib": max((one[1] for one in self.samples), default=0.0), "worker_mib": max((one[2] for one in self.samples), default=0.0)}

    def over_time(self, parts: int = 12) -> list[dict[str, float]]:
        """The most of every twelfth of the run."""
        size = max(1, -(-len(self.samples) // parts))
        pieces = [self.samples[at : at + size] for at in range(0, len(self.samples), size)]
        return [
            {"until_s": piece[-1][0], "driver_mib": round(max(one[1] for one in piece)), "worker_mib": round(max(one[2] for one in piece))} for piece in pieces
        ]


def own_mib(pid: int) -> float:
    """Memory that is the process's own; pages of mapped files are not counted, for the kernel takes them back when it wants to."""
    try:
        return int(found[1]) / 1024 if (found := _OWN.search(Path(f"/proc/{pid}/status").read_text())) else 0.0
    except (OSError, psutil.Error):
        return 0.0


def ran(place: Path, until: str, workers: int, moments: Sequence[float], seed: int) -> dict[str, Any]:
    """One command in `place`, watched; its seconds, memory and kills, and its words where it failed."""
    arguments = curate("run", place / "load.yaml", "--until", until, "--workers", workers, "--quiet", "--device", "cpu")
    running = start([*arguments, "--store", str(place / "store"), "--runs", str(place / "runs")], place, place.with_suffix(".said"))
    watch = Watch(running, list(moments), seed)
    try:
        code = watch.follow()
    finally:
        running.remove()
    failed = [] if code == 0 else [f"--until {until} exits with {code}: {running.words()}"]
    return {
        "until": until,
        "seconds": round(time.monotonic() - running.began, 1),
        "kills": watch.killed,
        "failed": failed,
        **{name: round(value) for name, value in watch.most().items()},
        "over_time": watch.over_time(),
    }


def staged(place: Path, workers: int, say: Any) -> list[dict[str, Any]]:
    """Prepare, score and select in a command each, so that each shows its own time and memory."""
    found = []
    for until in ("prepare", "score", "select"):
        one = ran(place, until, workers, (), 0)
        say(f"  {place.name} {until}: {one['seconds']} s, driver {one['driver_mib']} MiB, worker {one['worker_mib']} MiB{_failed(one)}")
        found.append(one)
        if one["failed"]:
            break
    return found


def _failed(one: dict[str, Any]) -> str:
    return "; FAILED " + one["failed"][0] if one["failed"] else ""


def laid_out(folder: Path, name: str, rows: int, seed: int) -> Path:
    """A folder with its pool, target and recipe."""
    place, data = folder / name, folder / f"{name}-data"
    place.mkdir(parents=True)
    data.mkdir()
    write_rows(data / "pool.parquet", rows, seed)
    write_rows(data / "target.parquet", 20, seed + 1)
    (place / "load.yaml").write_text(yaml.safe_dump(recipe(data / "pool.parquet", data / "target.parquet", rows)))
    return place


def again_with_kills(whole: Path, given: argparse.Namespace, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Score and select once more beside the first run, from the same prepared rows, while workers die; what differs at the end."""
    expected = contents(whole / "store")
    torn = whole.with_name("torn")
    torn.mkdir()
    shutil.copy(whole / "load.yaml", torn / "load.yaml")
    for prepared in (whole / "store").glob("examples-*"):
        shutil.copytree(prepared, torn / "store" / prepared.name)
    drawn = random.Random(f"{given.seed} kills")
    moments = [drawn.uniform(0.2, 1.0) * seconds / (given.kills + 1) for _ in range(given.kills)]
    one = ran(torn, "select", given.workers, moments, given.seed)
    return one, one["failed"] or differences(torn / "store", expected)


def per_row(large: Sequence[dict[str, Any]], small: Sequence[dict[str, Any]], rows: int) -> dict[str, float]:
    """Bytes that a further row adds to the driver and to a worker, at the most of all stages; 0 where two runs of one size differ as much."""
    more = {name: max(one[f"{name}_mib"] for one in large) - max(one[f"{name}_mib"] for one in small) for name in ("driver", "worker")}
    return {name: round(held * 2**20 / max(rows, 1)) if held > _NOISE else 0 for name, held in more.items()}


def judged(given: argparse.Namespace, folder: Path, say: Any) -> dict[str, Any]:
    """The whole of it, as JSON."""
    large = laid_out(folder, "whole", given.rows, given.seed)
    whole = staged(large, given.workers, say)
    wrong = [line for one in whole for line in one["failed"]]
    if wrong:
        return {"whole": whole, "wrong": wrong, "planned": given.kills, "landed": 0}
    torn, different = again_with_kills(large, given, sum(one["seconds"] for one in whole[1:]))
    say(f"  torn: {torn['kills']} of {given.kills} workers killed, {torn['seconds']} s, driver {torn['driver_mib']} MiB, worker {torn['worker_mib']} MiB")
    wrong += different
    small = staged(laid_out(folder, "small", given.small, given.seed), given.workers, say) if given.small else []
    grows = per_row([*whole, torn], small, given.rows - given.small) if small else {}
    wrong += [line for one in small for line in one["failed"]]
    wrong += [f"a row adds {size} bytes to a {name}, more than {MOST_PER_ROW}" for name, size in grows.items() if size > MOST_PER_ROW]
    return {"whole": whole, "torn": torn, "small": small, "bytes_per_row": grows, "wrong": wrong, "planned": given.kills, "landed": torn["kills"]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=250_000, help="rows of the run that memory is compared with; 0 for none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=6, help="of worker processes, spread over scoring and selection")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of the moments")
    parser.add_argument("--folder", type=Path, help="work here, and leave it; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="write all figures here, as JSON")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = judged(given, given.folder or Path(scratch), lambda line: print(line, flush=True))
    found |= {"rows": given.rows, "seed": given.seed, "workers": given.workers, "seconds": round(time.monotonic() - began, 1)}
    failed = len(found["wrong"])
    for line in found["wrong"][:10]:
        print(f"  FAILED {line}")
    print(
        f"load, {given.rows} rows, seed {given.seed}: {found['planned']} planned, {found['landed']} landed, {found['planned'] - found['landed']} not landed, "
        f"{'passed' if not failed else 'failed'}, bytes per row {found.get('bytes_per_row')}, {found['seconds']} s"
    )
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if not failed and found["landed"] == found["planned"] else 1


if __name__ == "__main__":
    sys.exit(main())
