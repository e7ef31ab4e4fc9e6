"""Embedded: the rows of examples as vectors for hygiene, in reading order, before anything is left out; over the cluster, shard by shard.

Each task reads and commits `ROWS` rows, so that a killed run repeats at most the shards that were being computed. Vectors are what the scorer
gives, and take what its `store` says of the disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.beat import beat
from curate.core import Artifact, Integers, Row, Written
from curate.data.examples import in_reading_order, opened
from curate.errors import about
from curate.features import ShardedRows, open_shards, shard_bytes
from curate.interfaces import Scorer, ScoringContext
from curate.model import resolve
from curate.pipelines.guarded import item_of
from curate.pipelines.score import micro_batch_tokens
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs
from curate.recipe import Recipe
from curate.store import Workspace

VERSION = 1
ROWS = 1024  # in a shard
What = Literal["row", "question"]


@dataclass(frozen=True)
class EmbedTask:
    """A stretch of the examples, in reading order, to be embedded: whole rows, or what they ask."""

    workspace: Path
    examples: Path
    encoder: Scorer
    inputs: Inputs
    what: What
    start: int
    stop: int


def embedded(session: Session, recipe: Recipe, pool: Artifact, encoder: Scorer, what: What = "row") -> Artifact:
    """The vectors of the pool; rows that give none, such as token ids for an encoder of text, are not in it."""
    handle = None if encoder.reads == "text" else replace(resolve(recipe.model, session.folder), lora=None)
    inputs = Inputs(handle, pool, pool, (), (), session.folder, session.device)

    def make(workspace: Workspace) -> Mapping[str, Any]:
        count = len(opened(pool.path))
        tasks = [EmbedTask(workspace.path, pool.path, encoder, inputs, what, start, min(count, start + ROWS)) for start in range(0, count, ROWS)]
        found = list(session.cluster.map(embed, tasks, label=f"hygiene (vectors of {encoder.name})"))
        return {"shards": [_shard(task.start) for task in tasks], "rows": sum(found), "unread": count - sum(found)}

    with about("hygiene"):
        fields = {**inputs.fields(encoder), "what": what, "layout": {"rows": ROWS, "tokens": micro_batch_tokens(session.device)}}
    return session.build("vectors", f"pool (vectors of {encoder.name})", make, fields=fields, inputs=[pool.key], version=VERSION)


def embed(task: EmbedTask) -> int:
    """Embed these rows and commit; returns how many gave a vector."""
    from curate.rowwise import batches, faults, score_rows

    workspace, name = Workspace(task.workspace), _shard(task.start)
    if found := workspace.committed(name):
        return int(found["rows"])
    examples, order = opened(task.examples), in_reading_order(task.examples)[task.start : task.stop]
    context = task.inputs.context(task.encoder, None)
    values: list[Any] = [None] * len(order)
    for batch in batches(examples.lengths[order], context.model, micro_batch_tokens(task.inputs.device)):
        beat()
        rows = [_read(examples.rows[int(place)], task.what) for place in order[batch]]
        for i, value in zip(batch, score_rows([(task.encoder, context)], rows, examples.ids[order[batch]].tolist())[0], strict=True):
            values[int(i)] = value
    without = faults(values, "vectors")
    kept = [i for i in range(len(values)) if i not in without]
    stacked = np.stack([values[i] for i in kept]) if kept else np.zeros((0, *np.shape(values[0])), np.float32)
    data = shard_bytes(np.array(kept, np.int64) + task.start, stacked, getattr(task.encoder, "store", "float32"), examples.ids[order[kept]])
    workspace.commit(name, data, {"rows": len(kept)})
    return len(kept)


def _read(row: Row, what: What) -> Row:
    return row if what == "row" else asking(item_of("", row.content.turns).question)


def asking(text: str) -> Row:
    """A row that says only this, for scorers of text; one without text gives no vector."""
    return Row(np.zeros(1, np.int32), np.zeros(1, np.bool_), Written((("", text),) if text.strip() else ()))


def vectors_of_texts(texts: Sequence[str], encoder: Scorer, context: ScoringContext) -> tuple[Integers, NDArray[np.float32]]:
    """The places of the texts that a scorer of texts gives a vector for (n,), and the vectors (n, D)."""
    from curate.rowwise import faults, score_rows

    values = score_rows([(encoder, context)], [asking(text) for text in texts])[0]
    without = faults(list(values), "vectors")
    kept = np.array([i for i in range(len(values)) if i not in without], np.int64)
    return kept, values[kept]


def vectors_of(artifact: Artifact) -> tuple[Integers, ShardedRows]:
    """The places in reading order of the rows that have a vector (n,), and the vectors (n, D)."""
    return open_shards([artifact.path / name for name in artifact.manifest["summary"]["shards"]])


def _shard(start: int) -> str:
    return f"vectors-{start // ROWS:05d}.safetensors"
