"""Duplicates: which rows of the pool say what a row before them says, exactly or almost, over the cluster, in bounded memory.

Of each row 16 bytes of hash and 200 of MinHash buckets go to the disk. Memory holds the hashes of all rows and one band at a time, some 40 bytes a
row, and the candidates; texts are read again for the candidates only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Integers, Turns
from curate.data.examples import in_reading_order, opened
from curate.features import map_tensors
from curate.hygiene.exact import firsts, keys_of
from curate.hygiene.near import BANDS, bands_of, candidates, components, similarity, text_of
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.store import Workspace

VERSION = 1
ROWS = 16384  # in a shard
BATCH = 512  # texts at a time
PAIRS = 20000  # verified in one task
GROUPS = "groups.safetensors"
_CANDIDATES = "candidates.safetensors"


@dataclass(frozen=True)
class SignTask:
    """A stretch of the pool, in reading order, to be hashed."""

    workspace: Path
    pool: Path
    near: bool
    start: int
    stop: int


@dataclass(frozen=True)
class VerifyTask:
    """Some candidates to be compared on their words."""

    workspace: Path
    pool: Path
    start: int
    stop: int


def find_duplicates(session: Session, pool: Artifact, hygiene: Hygiene) -> Artifact:
    """The pool's rows in groups that say the same, exactly or almost; see `Groups`."""
    near = hygiene.deduplicate == "near"

    def make(workspace: Workspace) -> Mapping[str, Any]:
        count = len(opened(pool.path))
        tasks = [SignTask(workspace.path, pool.path, near, start, min(count, start + ROWS)) for start in range(0, count, ROWS)]
        unread = sum(session.cluster.map(sign, tasks, label="duplicates (hashing)"))
        same = firsts(_concatenated(workspace.path, "exact", tasks))
        group, likeness, looked_at = same, np.ones(count), 0
        if near:
            rows = np.flatnonzero(same == np.arange(count))
            pairs = rows[candidates((_concatenated(workspace.path, f"band{band}", tasks) for band in range(BANDS)), rows)]
            found = _verified(session, workspace, pool, pairs)
            group, likeness = _joined(pairs, found, hygiene.near_at, same)
            looked_at = len(pairs)
        workspace.write(GROUPS, _tensors(group=group, same=same, likeness=likeness))
        exact, apart = (int((one != np.arange(count)).sum()) for one in (same, group))
        return {"rows": count, "exact": exact, "near": apart - exact, "candidates": looked_at, "unread": unread}

    fields = {"deduplicate": "near" if near else "exact", "near_at": hygiene.near_at if near else None}
    return session.build("duplicates", "pool (duplicates)", make, fields=fields, inputs=[pool.key], version=VERSION)


def sign(task: SignTask) -> int:
    """Hash these rows and commit; returns how many have no text to compare (token ids)."""
    workspace, name = Workspace(task.workspace), _shard(task.start)
    if found := workspace.committed(name):
        return int(found["unread"])
    examples = opened(task.pool)
    order = in_reading_order(task.pool)[task.start : task.stop]
    exact = np.zeros((len(order), 2), np.uint64)
    bands = np.zeros((len(order), BANDS if task.near else 0), np.uint64)
    for begin in range(0, len(order), BATCH):
        turns = [examples.rows[int(place)].content.turns for place in order[begin : begin + BATCH]]
        exact[begin : begin + BATCH] = keys_of(turns)
        if task.near:
            bands[begin : begin + BATCH] = bands_of([text_of(row) for row in turns])
    columns = {f"band{band}": np.ascontiguousarray(bands[:, band]) for band in range(bands.shape[1])}
    unread = int((~exact.any(axis=1)).sum())
    workspace.commit(name, _tensors(exact=exact, **columns), {"unread": unread})
    return unread


def verify_pairs(task: VerifyTask) -> int:
    """Compare these candidates and commit their similarities."""
    workspace, name = Workspace(task.workspace), _checked(task.start)
    if workspace.committed(name):
        return task.stop - task.start
    examples, order = opened(task.pool), in_reading_order(task.pool)
    pairs = map_tensors(task.workspace / _CANDIDATES)["pairs"].astype(np.int64)[task.start : task.stop]

    @lru_cache(maxsize=4096)
    def turns(row: int) -> Turns:
        return examples.rows[int(order[row])].content.turns

    found = np.array([similarity(turns(one), turns(other)) for one, other in pairs.tolist()], np.float64)
    workspace.commit(name, _tensors(likeness=found), {})
    return task.stop - task.start


def _verified(session: Session, workspace: Workspace, pool: Artifact, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """The similarity of each candidate."""
    workspace.write(_CANDIDATES, _tensors(pairs=pairs))
    tasks = [VerifyTask(workspace.path, pool.path, start, min(len(pairs), start + PAIRS)) for start in range(0, len(pairs), PAIRS)]
    for _ in session.cluster.map(verify_pairs, tasks, label="duplicates (verifying)"):
        pass
    parts = [np.array(map_tensors(workspace.path / _checked(task.start))["likeness"]) for task in tasks]
    return np.concatenate(parts) if parts else np.zeros(0)


def _joined(pairs: NDArray[np.int64], found: NDArray[np.float64], least: float, same: Integers) -> tuple[Integers, NDArray[np.float64]]:
    """Groups joined by the pairs that reach the threshold, and the best similarity of each row to another of its group."""
    alike = found >= least
    likeness = np.zeros(len(same))
    for side in (0, 1):
        np.maximum.at(likeness, pairs[alike, side], found[alike])
    return components(map(tuple, pairs[alike].tolist()), len(same))[same], likeness[same]


@dataclass(frozen=True)
class Groups:
    """Of each row, by its place in reading order (N,): the first row of its group, the first that says exactly the same, and its best similarity."""

    group: Integers
    same: Integers
    likeness: NDArray[np.float64]


def groups_of(duplicates: Artifact) -> Groups:
    """What was found."""
    tensors = map_tensors(duplicates.path / GROUPS)
    return Groups(np.array(tensors["group"], np.int64), np.array(tensors["same"], np.int64), np.array(tensors["likeness"]))


def _concatenated(path: Path, name: str, tasks: Sequence[SignTask]) -> NDArray[np.uint64]:
    parts = [np.array(map_tensors(path / _shard(task.start))[name]).view(np.uint64) for task in tasks]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _tensors(**arrays: NDArray[Any]) -> bytes:
    """As safetensors; unsigned numbers keep their bits as signed ones."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array.view(np.int64) if array.dtype == np.uint64 else array) for name, array in arrays.items()})


def _shard(start: int) -> str:
    return f"hashes-{start // ROWS:05d}.safetensors"


def _checked(start: int) -> str:
    return f"verified-{start // PAIRS:05d}.safetensors"
