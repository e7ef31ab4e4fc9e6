"""An export to the Hub and back: one commit on top of the revision that was looked at, read back before it counts.

The token is huggingface_hub's affair: it reads HF_TOKEN, or what `hf auth login` stored, and nothing here sees it. What it raises may repeat
what a server said, so its text is never passed on. Requests that may be repeated are, a few times; the commit is sent once. It names its
parent, so the Hub refuses it where somebody was faster; and where its answer is lost, the head tells whether it arrived.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import CurateError, DataError, ExportError, IntegrityError
from curate.exporting.columns import stored_rows
from curate.exporting.hub_requests import explained, quiet_client, repeated, status_of
from curate.exporting.manifest import MANIFEST, Manifest, changed_files, ids_digest, parse_manifest
from curate.exporting.names import check_repository
from curate.scratch import Scratch

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_KIND = "dataset"
_NEW = {".gitattributes"}  # what a new repository holds


@dataclass(frozen=True)
class Pushed:
    """Where an export is now; `new` is False where it was there already."""

    repository: str
    revision: str
    rows: int
    new: bool


@dataclass(frozen=True)
class Head:
    """A repository as it was looked at: the newest commit, who may see it, and the manifest that lies there, if it is ours."""

    commit: str
    private: bool
    manifest: Manifest | None = None


def push_folder(folder: Path, about: Manifest, repository: str, *, public: bool = False) -> Pushed:
    """Make the Hub dataset `repository` this export, in one commit, and read it back; a repeat changes nothing.

    A new repository is private unless `public`; an existing one keeps its visibility, which must be the one asked for. Files that an earlier
    export left and this one has not are deleted in the same commit; other files of the repository stay. ExportError with what is wrong and
    whether anything was changed. The commit is seen by readers whole or not at all.
    """
    check_repository(repository)
    with quiet_client() as api:
        head = _opened(api, repository, public)
        rows = sum(config["rows"] for config in about["configs"].values())
        if head.manifest is not None and head.manifest.get("content_sha256") == about["content_sha256"]:
            _read_back(api, repository, head.commit, about)
            return Pushed(repository, head.commit, rows, new=False)
        revision = _commit(api, folder, about, repository, head)
        _read_back(api, repository, revision, about)
    return Pushed(repository, revision, rows, new=True)


def fetch(repository: str, to: Path, revision: str | None = None) -> tuple[Path, str]:
    """The export in a Hub dataset, in a folder below `to`, and its commit. DataError where there is none; ExportError where the Hub does not give it."""
    check_repository(repository)
    with quiet_client() as api:
        found = repeated(repository, "read", lambda: api.repo_info(repository, repo_type=_KIND, revision=revision))
        commit = str(found.sha)
        about = _manifest_at(api, repository, commit, to)
        if about is None:
            raise DataError(f"{repository} holds no export of curate: there is no {MANIFEST} at {commit[:12]}")
        return _downloaded(api, repository, commit, about, to), commit


def _opened(api: "HfApi", repository: str, public: bool) -> Head:
    """The repository, made where there was none; refused where it is not ours, or seen by others than was asked for."""
    head = _look(api, repository)
    if head is None:
        repeated(repository, "create", lambda: api.create_repo(repository, repo_type=_KIND, private=not public, exist_ok=True))
        head = _look(api, repository)
    if head is None:
        raise ExportError(f"{repository}: it was created, but the Hub does not show it; run the same command again")
    if head.private is public:
        if public:
            raise ExportError(f"{repository} exists and is private; make it public in its settings on the Hub, or leave out --public")
        raise ExportError(f"{repository} exists and is public; add --public if everybody may see these rows, or push to another name")
    return head


def _look(api: "HfApi", repository: str) -> Head | None:
    """What is there now; None where there is no such repository."""
    try:
        info = repeated(repository, "read", lambda: api.repo_info(repository, repo_type=_KIND), or_raise=(404,))
    except Exception as error:
        if status_of(error) == 404:
            return None
        raise
    if not info.sha:
        raise ExportError(f"{repository} has no first commit, so nothing can be put on top of it; create it anew on the Hub")
    names = {
        entry.path
        for entry in repeated(repository, "read", lambda: list(api.list_repo_tree(repository, repo_type=_KIND, revision=info.sha, recursive=True)))
        if hasattr(entry, "blob_id")
    }
    if MANIFEST not in names:
        if names - _NEW:
            odd = sorted(names - _NEW)[0]
            raise ExportError(f"{repository} holds files that curate did not write, such as {ascii(odd)}; push to another name")
        return Head(info.sha, bool(info.private))
    with Scratch("hub") as scratch:
        try:
            return Head(info.sha, bool(info.private), _manifest_at(api, repository, info.sha, scratch))
        except DataError:
            raise ExportError(f"{repository} holds no export of curate; push to another name") from None
        except IntegrityError as error:
            raise ExportError(f"{error}; push to another name, or delete this dataset") from None


def _manifest_at(api: "HfApi", repository: str, commit: str, scratch: Path) -> Manifest | None:
    try:
        path = repeated(repository, "read", lambda: api.hf_hub_download(repository, MANIFEST, **_where(commit, scratch)), or_raise=(404,))
    except Exception as error:
        if status_of(error) == 404:
            return None
        raise
    return parse_manifest(Path(path).read_bytes(), repository)


def _where(commit: str, scratch: Path) -> dict[str, Any]:
    return {"repo_type": _KIND, "revision": commit, "cache_dir": str(scratch)}


def _commit(api: "HfApi", folder: Path, about: Manifest, repository: str, head: Head) -> str:
    """The commit that makes the repository this export; never more than one, and none where the head has moved."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    names = [*about["files"], MANIFEST]
    stale = sorted(set(head.manifest["files"]) - set(names)) if head.manifest is not None else []
    additions = [CommitOperationAdd(name, str(folder / name)) for name in names]
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [*additions, *map(CommitOperationDelete, stale)]
    try:
        api.preupload_lfs_files(repository, additions, repo_type=_KIND, free_memory=False)  # repeats what may be repeated by itself
    except Exception as error:
        raise explained(error, repository, "upload to", "nothing was committed") from None
    try:
        made = api.create_commit(
            repository, operations, commit_message=f"Export {about['content_sha256'][:12]} by curate", repo_type=_KIND, parent_commit=head.commit
        )
        return str(made.oid)
    except Exception as error:
        return _landed(api, about, repository, head, error)


def _landed(api: "HfApi", about: Manifest, repository: str, head: Head, error: Exception) -> str:
    """The commit, if it arrived although its answer did not; otherwise an error that says what there is instead."""
    try:
        now = _look(api, repository)
    except ExportError as unknown:
        raise ExportError(f"{repository}: whether the commit arrived is not known ({unknown}); run the same command again, which finds out") from None
    if now is None or now.commit == head.commit:
        raise explained(error, repository, "commit to", "nothing was committed") from None
    if now.manifest is not None and now.manifest.get("content_sha256") == about["content_sha256"]:
        return now.commit
    raise ExportError(
        f"{repository}: somebody else has changed it meanwhile, to {now.commit[:12]}, and nothing of yours was committed; "
        "look at it and run the same command again"
    ) from None


def _downloaded(api: "HfApi", repository: str, commit: str, about: Manifest, to: Path) -> Path:
    names = [*about["files"], MANIFEST]
    found = repeated(repository, "read", lambda: api.snapshot_download(repository, **_where(commit, to), allow_patterns=names))
    return Path(found)


def _read_back(api: "HfApi", repository: str, commit: str, about: Manifest) -> None:
    """ExportError unless this revision is the export: the manifest, every file's bytes, and the ids of every configuration in their order."""
    with Scratch("hub") as scratch:
        try:
            folder = _downloaded(api, repository, commit, about, scratch)
            there = parse_manifest((folder / MANIFEST).read_bytes(), repository)
        except (CurateError, OSError) as error:
            said = error if isinstance(error, CurateError) else type(error).__name__
            raise ExportError(f"{repository}: commit {commit[:12]} could not be read back ({said}); run the same command again to check it") from None
        wrong = [] if there["content_sha256"] == about["content_sha256"] else [f"{MANIFEST} is another one"]
        wrong += changed_files(folder, about)
        for name, config in about["configs"].items():
            if not wrong and ids_digest(ids_in(folder, config)) != config["ids_sha256"]:
                wrong.append(f"the ids of {name} are not those of the selection")
    if wrong:
        raise ExportError(f"{repository}: commit {commit[:12]} is not what was sent: {wrong[0]}; delete the dataset and push again")


def ids_in(folder: Path, config: Manifest) -> Sequence[str]:
    """The ids of a configuration's stored rows, in their order."""
    column = config["added_columns"]["id"]
    return [str(row.get(column)) for row in stored_rows(folder, config["files"])]
