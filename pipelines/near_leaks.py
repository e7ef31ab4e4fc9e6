"""Near leaks: what rows of the pool ask compared with what items ask, by vectors; a reason to look, never proof."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.beat import beat
from curate.core import Artifact
from curate.data.examples import in_reading_order, opened
from curate.features import open_shards, shard_bytes
from curate.hygiene.benchmark import Benchmark, Item
from curate.hygiene.settings import Leaks, NearItems
from curate.hygiene.vectors import near_by_vectors
from curate.interfaces import ScoringContext
from curate.pipelines.embedded import vectors_of_texts
from curate.pipelines.guarded import Guarded, item_of, read_written, written
from curate.pipelines.leaks import LEAKS, LETTERS, UNSAID, parquet_of, read_pairs
from curate.pipelines.session import Session
from curate.store import Workspace

VERSION = 1
KIND = "vectors"
ROWS = 1024  # items in a shard
_ITEMS = "items.jsonl"
Pair = tuple[int, int, float]  # a row's place in reading order, an item's number among all, the cosine


@dataclass(frozen=True)
class ItemsTask:
    """Items to be embedded, by their numbers among those of all sets."""

    workspace: Path
    sets: tuple[str, ...]
    near: NearItems
    folder: Path
    device: str
    start: int
    stop: int


@dataclass(frozen=True)
class CompareTask:
    """A shard of the pool's vectors to be compared with all items."""

    items: ItemsTask
    pool: Path
    shard: Path
    allow: frozenset[str]


def find_near_leaks(session: Session, vectors: Artifact, pool: Artifact, sets: Sequence[Guarded], rules: Leaks) -> Artifact:
    """Rows beside the items that they are most alike to, from `rules.near.at` on; as a table of leaks, whose cover is the cosine."""
    near, named = rules.near or NearItems(), tuple(one.name for one in sets)

    def make(workspace: Workspace) -> Mapping[str, Any]:
        workspace.write(_ITEMS, written(sets))
        count = len(_owned(workspace.path, named))
        whole = ItemsTask(workspace.path, named, near, session.folder, session.device, 0, count)
        tasks = [replace(whole, start=start, stop=min(count, start + ROWS)) for start in range(0, count, ROWS)]
        for _ in session.cluster.map(embed_items, tasks, label="near leaks (items)"):
            pass
        allow = frozenset(rules.allow)
        compared = [CompareTask(whole, pool.path, vectors.path / name, allow) for name in vectors.manifest["summary"]["shards"]]
        found = sum(session.cluster.map(compare, compared, label="near leaks"))
        workspace.write(LEAKS, parquet_of([line for task in compared for line in read_pairs(workspace.path / _hits(task.shard))]))
        return {"pairs": found, "items": count, "unread": vectors.manifest["summary"]["unread"]}

    fields = {"sets": [one.identity() for one in sets], "near": near.model_dump(mode="json"), "allow": sorted(rules.allow)}
    return session.build("near_leaks", "pool (near leaks)", make, fields=fields, inputs=[pool.key, vectors.key], version=VERSION)


@lru_cache(maxsize=2)
def _owned(path: Path, sets: tuple[str, ...]) -> list[tuple[int, Item]]:
    """The items of all sets, each with the number of its set."""
    benchmarks: list[Benchmark] = read_written(path / _ITEMS, [{"name": name} for name in sets])
    return [(number, item) for number, one in enumerate(benchmarks) for item in one.items]


def embed_items(task: ItemsTask) -> int:
    """Embed what these items ask and commit; returns how many gave a vector."""
    workspace, name = Workspace(task.workspace), _items(task.start)
    if found := workspace.committed(name):
        return int(found["rows"])
    beat()
    asked = [item.question for _, item in _owned(task.workspace, task.sets)[task.start : task.stop]]
    kept, values = vectors_of_texts(asked, task.near.encoder, ScoringContext(device=task.device, folder=task.folder))
    workspace.commit(name, shard_bytes(kept + task.start, values), {"rows": len(kept)})
    return len(kept)


@lru_cache(maxsize=2)
def _vectors(whole: ItemsTask) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(M,) the items that have a vector, and (M, D) the vectors."""
    numbers, rows = open_shards([whole.workspace / _items(start) for start in range(0, whole.stop, ROWS)])
    return numbers, np.asarray(rows[:], np.float32) if len(rows) else np.zeros((0, 1), np.float32)


def compare(task: CompareTask) -> int:
    """Compare these rows and commit the pairs that are alike; returns how many."""
    workspace, name = Workspace(task.items.workspace), _hits(task.shard)
    if found := workspace.committed(name):
        return int(found["pairs"])
    beat()
    (places, rows), (numbers, items) = open_shards([task.shard]), _vectors(task.items)
    pairs: list[Pair] = []
    if len(rows) and len(items):
        near = near_by_vectors(np.asarray(rows[:], np.float32), items, task.items.near.at)
        pairs = [(int(places[row]), int(numbers[item]), cosine) for row, item, cosine in near]
    lines = list(_lines(task, pairs))
    workspace.commit(name, parquet_of(lines), {"pairs": len(lines)})
    return len(lines)


def _lines(task: CompareTask, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """A line for the item of each set that a row is most alike to, with both texts, and for the row that an item is most alike to."""
    owned, order, examples = _owned(task.items.workspace, task.items.sets), in_reading_order(task.pool), opened(task.pool)
    allowed = [pair for pair in pairs if owned[pair[1]][1].id not in task.allow and str(examples.ids[order[pair[0]]]) not in task.allow]
    by_row: dict[tuple[int, int], Pair] = {}
    by_item: dict[int, Pair] = {}
    for pair in sorted(allowed, key=lambda one: (-one[2], one[0], one[1])):
        by_row.setdefault((pair[0], owned[pair[1]][0]), pair)
        by_item.setdefault(pair[1], pair)
    for pair in sorted({*by_row.values(), *by_item.values()}):
        row, number, cosine = pair
        benchmark, item = owned[number]
        said = _shown(item_of("", examples.rows[int(order[row])].content.turns), item, cosine) if by_row[row, benchmark] == pair else UNSAID
        line = {"id": str(examples.ids[order[row]]), "benchmark": benchmark, "item": item.id, "verdict": "suspicious"}
        yield {**line, "part": "question", "kind": KIND, "cover": round(cosine, 6), **said}


def _shown(row: Item, item: Item, cosine: float) -> dict[str, str]:
    return {"matched": f"no words, cosine {cosine:.3f}", "row_text": row.question[:LETTERS], "item_text": item.question[:LETTERS]}


def _items(start: int) -> str:
    return f"item-vectors-{start // ROWS:05d}.safetensors"


def _hits(shard: Path) -> str:
    return f"near-{shard.stem}.parquet"
