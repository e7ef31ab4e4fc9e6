"""Artifacts are whole or absent, found by content, and never trusted by name."""

import fcntl
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ClusterError, DiskError, IntegrityError
from curate.store import Store, Workspace, atomic_write, digest, locked, verify


def make_letters(workspace: Workspace) -> Mapping[str, Any]:
    workspace.write("letters.txt", b"abc")
    return {"letters": 3}


def test_what_was_built_is_found_and_not_built_again(tmp_path: Path) -> None:
    first = Store(tmp_path).build("stage", make_letters, fields={"a": 1})

    def never(workspace: Workspace) -> Mapping[str, Any]:
        raise AssertionError("built twice")

    again = Store(tmp_path).build("stage", never, fields={"a": 1})
    assert again == first and (again.path / "letters.txt").read_bytes() == b"abc"


@pytest.mark.parametrize("other", [{"fields": {"a": 2}}, {"fields": {"a": 1}, "version": 2}, {"fields": {"a": 1}, "inputs": ["x"]}])
def test_another_content_has_another_key(tmp_path: Path, other: dict[str, Any]) -> None:
    store = Store(tmp_path)
    assert store.build("stage", make_letters, fields={"a": 1}).key != store.build("stage", make_letters, **other).key


def test_the_order_of_fields_does_not_matter_and_their_manifests_are_equal_bytes(tmp_path: Path) -> None:
    one = Store(tmp_path / "one").build("stage", make_letters, fields={"a": 1, "b": 2})
    two = Store(tmp_path / "two").build("stage", make_letters, fields={"b": 2, "a": 1})
    assert one.key == two.key
    assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()


def test_a_build_that_fails_leaves_nothing_under_the_final_name_and_keeps_its_shards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen: list[bool] = []

    def torn(workspace: Workspace) -> Mapping[str, Any]:
        seen.append(workspace.committed("shard") is not None)
        workspace.commit("shard", b"numbers", {"rows": 2})
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.build("stage", torn, fields={})
    assert store.find(store.key("stage", 1, {})) is None
    store.build("stage", torn, fields={})
    assert seen == [False, True]


@pytest.mark.parametrize("damage", [b"numbezs", b"numb", b""])
def test_a_shard_with_other_bytes_than_it_was_committed_with_does_not_count(tmp_path: Path, damage: bytes) -> None:
    workspace = Workspace(tmp_path)
    workspace.commit("shard", b"numbers", {"rows": 2})
    assert workspace.committed("shard") == {"rows": 2, "bytes": 7, "artifact": tmp_path.name, "blake2b": digest(b"numbers")}
    (tmp_path / "shard").write_bytes(damage)
    assert workspace.committed("shard") is None


def test_a_flipped_bit_is_found_the_artifact_moved_aside_and_made_again(tmp_path: Path) -> None:
    path = Store(tmp_path).build("stage", make_letters, fields={}).path
    (path / "letters.txt").write_bytes(b"abd")
    assert "letters.txt differs from its recorded hash" in verify(path)[0]
    heard: list[str] = []
    again = Store(tmp_path, heard.append).build("stage", make_letters, fields={})
    assert (again.path / "letters.txt").read_bytes() == b"abc"
    assert "letters.txt differs" in heard[0]
    assert list((tmp_path / ".part").glob("damaged-*/letters.txt"))


def test_verify_names_missing_and_foreign_files(tmp_path: Path) -> None:
    path = Store(tmp_path).build("stage", make_letters, fields={}).path
    (path / "letters.txt").rename(path / "moved.txt")
    found = verify(path)
    assert any("letters.txt is missing" in line for line in found) and any("moved.txt is not in the manifest" in line for line in found)


def test_a_disk_that_refuses_is_one_error_that_names_the_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot write .*taken/file"):
        atomic_write(tmp_path / "taken" / "file", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match="cannot write .*folder"):
        atomic_write(tmp_path / "folder", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "taken"]


def _hold(path: Path, ready: Any) -> None:
    with locked(path, wait=False):
        ready.set()
        time.sleep(60)


def test_a_lock_is_refused_while_held_and_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run" / ".lock", ready))
    holder.start()
    assert ready.wait(10)
    with pytest.raises(ClusterError, match="in use by another curate process"), locked(tmp_path / "run" / ".lock", wait=False):
        pass
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join(10)
    with locked(tmp_path / "run" / ".lock", wait=False):
        pass


def test_a_lock_leaves_no_file_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.build("stage", make_letters, fields={})
    with pytest.raises(KeyError), locked(tmp_path / "run" / ".lock", wait=False):
        raise KeyError
    assert not list(tmp_path.rglob("*lock"))


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock, others = tmp_path / ".lock", fcntl.flock, list[int]()

    def late(handle: int, kind: int) -> None:
        """Between our opening and locking its file another process lets go of the lock, and a third takes it."""
        if not others:
            path.unlink()
            others.append(os.open(path, os.O_RDWR | os.O_CREAT))
            flock(others[0], fcntl.LOCK_EX)
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ClusterError, match="in use by another curate process"), locked(path, wait=False):
        pass
    os.close(others[0])
    with locked(path, wait=False):
        assert path.exists()
    assert not path.exists()


def test_a_manifest_of_which_any_byte_is_other_is_found(tmp_path: Path) -> None:
    """Whatever it says is covered, also what nothing else hangs on: inputs, fields, a summary."""
    artifact = Store(tmp_path).build("stage", make_letters, fields={"a": {2: 0.1, 10: None}, "b": "ä"}, inputs=["other-0"])
    manifest = artifact.path / "manifest.json"
    whole = manifest.read_bytes()
    assert verify(artifact.path) == []
    for place in range(len(whole)):
        for other in (whole[place] ^ 1, whole[place] ^ 0x20):
            manifest.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            try:
                assert verify(artifact.path), (place, chr(other))
            except IntegrityError:
                pass  # no JSON any more


def test_an_artifact_whose_manifest_was_changed_is_set_aside_and_built_again(tmp_path: Path) -> None:
    artifact = Store(tmp_path).build("stage", make_letters, fields={"a": 1})
    whole = (artifact.path / "manifest.json").read_bytes()
    (artifact.path / "manifest.json").write_bytes(whole.replace(b'"letters":3', b'"letters":4'))
    told: list[str] = []
    again = Store(tmp_path, told.append).build("stage", make_letters, fields={"a": 1})
    assert again.manifest["summary"] == {"letters": 3} and (again.path / "manifest.json").read_bytes() == whole
    assert any("manifest.json does not carry its own hash" in line and "is computed again" in line for line in told)
