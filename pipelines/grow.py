"""Grow: a pool that rows join and leave, of which only the new rows are prepared and scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.core import Artifact
from curate.data.derived import write_derived
from curate.data.examples import FILES, INDEX, folders_of, opened, quarantined
from curate.errors import DataError
from curate.growth import Step, leaving, read_ids
from curate.pipelines.session import Session
from curate.store import Workspace, digest

VERSION = 1


@dataclass(frozen=True)
class Grown:
    """A pool after one step: what it was, the rows that were prepared for it, and what it is."""

    before: Artifact
    added: Artifact | None
    pool: Artifact


def grow(session: Session, number: int, step: Step, before: Artifact, prepared: Callable[[str], Artifact]) -> Grown:
    """The pool after this step; `prepared` makes examples of the sources that are added, under a label."""
    added = prepared(f"added in step {number}") if step.add else None
    file = session.folder / step.remove if step.remove else None
    gone = read_ids(file) if file else []

    def make(workspace: Workspace) -> Mapping[str, Any]:
        return _write(workspace, before, added, gone, str(file))

    inputs = [before.key, *([added.key] if added else [])]
    fields = {"gone": digest("\n".join(sorted(gone)).encode())}
    return Grown(before, added, session.build("grown", f"pool, step {number}", make, fields=fields, inputs=inputs, version=VERSION))


def _write(workspace: Workspace, before: Artifact, added: Artifact | None, gone: list[str], file: str) -> Mapping[str, Any]:
    """The index over the rows of both, and all that was set aside, those that go among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    old = opened(before.path)
    goes = leaving(old.ids, gone, file)
    tables, folders = [], list[str]()
    there = old.ids[~goes]
    for artifact, stays in ((before, ~goes), (added, None)):
        if artifact is None:
            continue
        index = pq.read_table(artifact.path / INDEX)
        stays = ~np.isin(opened(artifact.path).ids, there) if stays is None else stays
        own = folders_of(artifact.key, index)
        moved = index["file"].to_numpy().astype(np.int64) + len(folders) * FILES
        tables.append(index.set_column(index.column_names.index("file"), "file", pa.array(moved)).filter(stays))
        folders += own
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    ids = np.asarray(table["id"].to_pylist(), np.str_)
    if not len(ids):
        raise DataError(f"no row is left when those in {file} are removed; remove fewer, or add some")
    index = table.take(np.argsort(ids, kind="stable"))
    already = len(opened(added.path)) - (len(table) - int((~goes).sum())) if added else 0
    return write_derived(workspace.write, index, folders, _aside(before, added, gone), {**before.manifest["summary"], "already_there": already})


def _aside(before: Artifact, added: Artifact | None, gone: list[str]) -> list[dict[str, str]]:
    """A line for every row that was set aside or taken out, by its id; a row that comes back is there again."""
    new = quarantined(added.path) if added else []
    back = set(opened(added.path).ids.tolist()) if added else set()
    went = [{"id": row, "reason": "removed", "detail": "a step of growth removes it", "origin": "pool"} for row in gone]
    lines = {line["id"]: line for line in (*quarantined(before.path), *new, *went)}
    return [line for row, line in lines.items() if row not in back]
