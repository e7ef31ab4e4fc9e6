"""Which files a source names, and what identifies their content: the part of a stage's key that stands for its data."""

import glob
from pathlib import Path
from typing import Any

from curate.data.files import is_data
from curate.data.source import Source
from curate.data.synthetic import instructions
from curate.errors import DataError
from curate.store import canonical, digest, file_digest

_DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json")


def paths(source: Source, folder: Path) -> list[Path]:
    """The files of a local source, sorted by name; `folder` is that of the recipe. DataError if there is none."""
    pattern = str(folder / (source.path or ""))
    if glob.has_magic(source.path or "") and not Path(pattern).exists():
        found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    else:
        found = [Path(pattern)] if Path(pattern).exists() else []
    files = sorted(file for entry in found for file in (_inside(source, entry) if entry.is_dir() else [entry]))
    if not files:
        raise DataError(f"{source.label}: no data file matches {pattern}; {_nearby(Path(pattern))}")
    if source.split is not None and not any((entry / "dataset_dict.json").exists() for entry in found):
        raise DataError(f"{source.label}: split {source.split!r} needs a Hub dataset or a saved DatasetDict; use where, limit or sample for files")
    return files


def fingerprint(source: Source, folder: Path) -> dict[str, Any]:
    """What the rows are determined by, as JSON: hash and size of each local file, the Hub commit, and the source's own fields."""
    fields = source.model_dump(mode="json", exclude_defaults=True, exclude={"path"})
    if source.path is not None:
        return {**fields, "files_read": [_content(file) for file in paths(source, folder)]}
    if source.hub is not None:
        return {**fields, "revision": pinned(source).revision}
    # A new version of the generator must not pass for the old one: its rows are what counts.
    return {**fields, "rows_made": digest(canonical(list(instructions(source.synthetic or "pool", source.rows or 0, source.seed))))}


def _content(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file} is no regular file, so it cannot be read twice; copy it to one")
    try:
        return {"name": file.name, "bytes": file.stat().st_size, "hash": file_digest(file)}
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions and its disk") from error


def pinned(source: Source) -> Source:
    """The same source with its Hub revision resolved to a commit, so that every later read sees the same rows."""
    if source.hub is None or _is_commit(source.revision):
        return source
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(source.hub, revision=source.revision).sha
    except (OSError, ValueError, RuntimeError) as error:
        if source.revision is not None:
            return source
        reason = f"{type(error).__name__}: {ascii(str(error).partition(chr(10))[0][:160])}"
        raise DataError(f"hub dataset {source.hub}: its revision cannot be resolved ({reason}); go online or give revision: COMMIT") from error
    return source.model_copy(update={"revision": commit})


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)


def _inside(source: Source, folder: Path) -> list[Path]:
    if (folder / "dataset_dict.json").exists():
        splits = sorted(entry.name for entry in folder.iterdir() if (entry / "state.json").exists())
        if source.split not in splits:
            asked = "no split is chosen" if source.split is None else f"there is no split {source.split!r}"
            raise DataError(f"{source.label}: {asked}; add split: with one of {', '.join(splits)}")
        folder = folder / str(source.split)
    if (folder / "state.json").exists():
        return list(folder.glob("*.arrow"))
    visible = (file for file in folder.rglob("*") if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return [file for file in visible if file.is_file() and is_data(file) and file.name not in _DESCRIPTIONS]


def _nearby(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    listed = ", ".join(map(ascii, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{parent} holds {listed or 'nothing'}"
