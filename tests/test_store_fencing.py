"""A worker that was frozen, a shard that rots, a link that was planted: none of them reaches a finished artifact, and what is left to do is known at once."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import curate.store
from curate import fault
from curate.errors import DiskError, IntegrityError, SafetyError
from curate.intact import SetAside, require_whole
from curate.journal import JournalFile
from curate.store import DamagedShards, Request, Store, Workspace, verify

SHARDS = [f"shard-{number}" for number in range(3)]


@pytest.fixture(autouse=True)
def unarmed() -> Iterator[None]:
    yield
    fault.arm(None)


def make(workspace: Workspace) -> Mapping[str, Any]:
    """Three shards, those that are there already not again."""
    known = workspace.present(SHARDS)
    for name in SHARDS:
        if name not in known:
            workspace.commit(name, name.encode() * 9, {"rows": 1})
    return {"rows": 3}


def opened(folder: Path) -> Workspace:
    folder.mkdir(parents=True)
    return Workspace(folder)


def whole(artifact: Path) -> bool:
    return verify(artifact) == [] and {path.name for path in artifact.glob("shard-?")} == set(SHARDS)


@pytest.mark.parametrize("name", ["shard", "checkpoint/weights"])
def test_a_workspace_whose_folder_is_gone_is_not_made_again(tmp_path: Path, name: str) -> None:
    workspace = opened(tmp_path / "part" / "key")
    workspace.write(name, b"bytes")
    (tmp_path / "part" / "key").rename(tmp_path / "finished")
    for late in (workspace.write, lambda name, data: workspace.commit(name, data, {})):
        with pytest.raises(DiskError, match="another process finished or removed its folder; run the same command again"):
            late(name, b"bytes")  # type: ignore[operator]
    with pytest.raises(DiskError, match="another process finished"):
        JournalFile(workspace.path / "decisions.jsonl").append({})
    assert list((tmp_path / "part").iterdir()) == []


def frozen_in_a_write(workspace: Workspace) -> int:
    """A process that stops itself with its file written under a name of its own; when it goes on it ends with the exit code of its error."""
    child = os.fork()
    if child:
        os.waitpid(child, os.WUNTRACED)
        return child
    replace = os.replace
    os.replace = lambda source, to: os.kill(os.getpid(), signal.SIGSTOP) or replace(source, to)  # type: ignore[assignment, func-returns-value]
    try:
        workspace.commit(SHARDS[0], b"late", {"rows": 1})
    except DiskError:
        os._exit(DiskError.exit_code)
    os._exit(0)


def test_a_worker_that_was_frozen_in_a_write_cannot_reach_the_artifact_that_was_finished_meanwhile(tmp_path: Path) -> None:
    frozen: list[int] = []

    def making(workspace: Workspace) -> Mapping[str, Any]:
        frozen.append(frozen_in_a_write(workspace))
        assert [path.read_bytes() for path in workspace.path.glob(".shard-0.*.tmp")] == [b"late"]
        return make(workspace)

    artifact = Store(tmp_path).build("stage", making, fields={})
    os.kill(frozen[0], signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(frozen[0], 0)[1]) == DiskError.exit_code
    assert whole(artifact.path) and not list(tmp_path.rglob("*.tmp")) and list((tmp_path / ".part").iterdir()) == []


def test_who_writes_while_the_manifest_is_made_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[str] = []

    def recorded(folder: Path) -> dict[str, dict[str, Any]]:
        found = curate.intact.recorded(folder)
        with pytest.raises(DiskError):
            Workspace(folder.with_name(folder.name.removesuffix(".closed"))).write("late", b"late")
        late.append(folder.name)
        return found

    monkeypatch.setattr(curate.store, "recorded", recorded)
    assert whole(Store(tmp_path).build("stage", make, fields={}).path) and len(late) == 1


def test_a_temporary_file_is_neither_recorded_nor_damage(tmp_path: Path) -> None:
    name = f".shard-0.{'0' * 32}.tmp"

    def leaving(workspace: Workspace) -> Mapping[str, Any]:
        (workspace.path / name).write_bytes(b"half")
        return make(workspace)

    artifact = Store(tmp_path).build("stage", leaving, fields={})
    assert not (artifact.path / name).exists() and name not in artifact.manifest["files"]
    (artifact.path / name).write_bytes(b"half")
    assert verify(artifact.path) == []
    (artifact.path / "foreign").touch()
    assert len(verify(artifact.path)) == 1


@pytest.mark.parametrize("at", range(1, 13))
def test_a_finish_that_was_refused_is_taken_up_with_all_shards(tmp_path: Path, at: int) -> None:
    seen: list[int] = []

    def noting(workspace: Workspace) -> Mapping[str, Any]:
        seen.append(len(workspace.present(SHARDS)))
        summary = make(workspace)
        if len(seen) == 1:
            fault.arm(fault.Fault(at, "EIO", lasting=True))
        return summary

    with pytest.raises(DiskError):
        Store(tmp_path).build("stage", noting, fields={})
    fault.arm(None)
    assert whole(Store(tmp_path).build("stage", noting, fields={}).path)
    assert seen in ([0, 3], [0]) and not list((tmp_path / ".part").glob("*-*"))


def test_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    store, elsewhere = Store(tmp_path / "store"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    part = tmp_path / "store" / ".part" / store.key("stage", 1, {})
    part.parent.mkdir(parents=True)
    part.symlink_to(elsewhere)
    with pytest.raises(SafetyError, match="is a link"):
        store.build("stage", make, fields={})
    part.unlink()

    def piped(workspace: Workspace) -> Mapping[str, Any]:
        os.mkfifo(workspace.path / "pipe")
        return {}

    with pytest.raises(SafetyError, match="pipe is no regular file"):
        store.build("stage", piped, fields={})
    (elsewhere / "decisions").touch()
    (tmp_path / "link").symlink_to(elsewhere / "decisions")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(SafetyError, match="no regular file"):
            JournalFile(tmp_path / name)
    assert (elsewhere / "decisions").read_bytes() == b"" and list(elsewhere.iterdir()) == [elsewhere / "decisions"]


def test_what_is_present_is_told_by_sidecars_and_sizes_without_reading_shards(tmp_path: Path) -> None:
    workspace = opened(tmp_path / "key")
    for name in SHARDS:
        workspace.commit(name, name.encode(), {"rows": 1})
    (workspace.path / "shard-1").write_bytes(b"short")
    (workspace.path / "shard-2").write_bytes(b"SHARD-2")
    (workspace.path / "alone").write_bytes(b"no sidecar")
    os.mkfifo(workspace.path / "pipe")
    assert list(workspace.present([*SHARDS, "alone", "pipe", "absent"])) == ["shard-0", "shard-2"]
    assert workspace.committed("shard-0") == workspace.present(SHARDS)["shard-0"] and workspace.committed("shard-2") is None


def test_a_shard_that_was_copied_from_another_artifact_does_not_count(tmp_path: Path) -> None:
    theirs, ours = opened(tmp_path / "theirs"), opened(tmp_path / "ours")
    theirs.commit("shard-0", b"numbers", {"rows": 1})
    for path in theirs.path.iterdir():
        (ours.path / path.name).write_bytes(path.read_bytes())
    assert ours.committed("shard-0") is None and ours.present(SHARDS) == {}


@pytest.mark.parametrize("sidecar", [b"", b"[]", b"null", b"{}", b'{"bytes": 7', b"\xff"])
def test_a_garbled_sidecar_does_not_count(tmp_path: Path, sidecar: bytes) -> None:
    workspace = opened(tmp_path / "key")
    workspace.commit("shard-0", b"numbers", {})
    (workspace.path / "shard-0.json").write_bytes(sidecar)
    assert workspace.committed("shard-0") is None and workspace.present(["shard-0"]) == {}


def rotting(times: int, calls: list[int]) -> Any:
    """Make, and change a bit of a committed shard in the first `times` calls."""

    def made(places: Sequence[Workspace | None]) -> list[Mapping[str, Any] | None]:
        calls.append(sum(place is not None for place in places))
        summaries = [make(place) if place else None for place in places]
        if len(calls) <= times and places[0]:
            (places[0].path / "shard-1").write_bytes(b"shard-2" * 9)
        return summaries

    return made


def test_a_shard_that_changed_before_the_end_is_made_again_alone(tmp_path: Path) -> None:
    calls, heard = list[int](), list[str]()
    artifacts = Store(tmp_path, heard.append).build_together([Request("a", {}), Request("b", {})], rotting(1, calls))
    assert calls == [2, 1] and all(whole(artifact.path) for artifact in artifacts)
    assert heard == [f"1 committed shards of {artifacts[0].key} changed on the disk, the first shard-1; they are computed again"]


def test_a_disk_that_goes_on_changing_shards_is_an_error_and_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(DamagedShards) as raised:
        Store(tmp_path).build_together([Request("a", {})], rotting(99, []))
    assert isinstance(raised.value, IntegrityError) and not list(tmp_path.glob("a-*"))
    assert whole(Store(tmp_path).build_request(Request("a", {}), make).path)


def test_finding_what_is_finished_changes_nothing(tmp_path: Path) -> None:
    artifact = Store(tmp_path).build("stage", make, fields={})
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    operations: list[fault.Operation] = []
    fault.arm(fault.Fault(0, observe=operations.append))
    time.sleep(0.01)
    again = Store(tmp_path).build("stage", make, fields={})
    assert again == artifact and operations == []
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def test_features_are_found_by_sizes_and_compared_before_they_are_read(tmp_path: Path) -> None:
    path = Store(tmp_path).build("features", make, fields={}).path
    (path / "shard-1").write_bytes(b"shard-2" * 9)
    store = Store(tmp_path)
    found = store.find(path.name)
    assert found is not None
    with pytest.raises(SetAside, match="shard-1 differs from its recorded hash; the artifact was moved to .*, and the same command computes it again"):
        require_whole(found)
    assert store.find(path.name) is None and list((tmp_path / ".part").glob("damaged-features-*/shard-1"))
    again = store.build("features", make, fields={})
    require_whole(again)
    (path / "shard-1").write_bytes(b"short")
    assert Store(tmp_path).find(path.name) is None
