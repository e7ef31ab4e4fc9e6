"""An export is held against the data it came from, the selection and its certificate; what differs is told by id and field."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.errors import DataError, IntegrityError
from curate.exporting.manifest import content_digest, ids_digest, known_by
from curate.pipelines.verify_export import Given, verify_export
from tests.hub.client import Place

Change = Callable[[dict[str, list[Any]]], None]


def verified(folder: Path, place: Place, **more: Any) -> list[str]:
    return verify_export(str(folder), Given(**({"data": place.folder, "store": place.store} | more)))


def rewritten(folder: Path, change: Change, *, forged: bool) -> None:
    """Change the stored rows, and, `forged`, every hash in the manifest with them, as somebody would who wants it not to be seen."""
    import pyarrow
    from pyarrow import parquet

    path = folder / "data" / "train-00000-of-00001.parquet"
    table = parquet.read_table(path)
    columns = table.to_pydict()
    change(columns)
    parquet.write_table(pyarrow.table(columns, schema=table.schema), path)
    if forged:
        about = json.loads((folder / "manifest.json").read_bytes())
        about["files"]["data/train-00000-of-00001.parquet"] = known_by(path.read_bytes())
        about["configs"]["default"]["ids_sha256"] = ids_digest(columns["id"])
        resealed(folder, about)


def resealed(folder: Path, about: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps({**about, "content_sha256": content_digest(about)}))


def told(folder: Path, place: Place, **more: Any) -> str:
    with pytest.raises(IntegrityError) as caught:
        verified(folder, place, **more)
    return str(caught.value)


@pytest.mark.parametrize("layout", ["datasets", "trl", "llama-factory", "axolotl"])
def test_an_export_that_nobody_touched_is_found_again_row_by_row(exported: Callable[..., Path], place: Place, layout: str) -> None:
    said = "\n".join(verified(exported(["all"], layout), place))
    assert "20 rows in 4 selections" in said and said.count("were found again in the pool") == 4
    assert said.count("those of the selection in the store") == 4 and said.count("its certificate, recomputed from the features, is as claimed") == 2


def set_at(column: str, row: int, value: Any) -> Change:
    return lambda columns: columns[column].__setitem__(row, value)


def swapped(columns: dict[str, list[Any]]) -> None:
    for name, values in columns.items():
        if name != "rank":
            values[0], values[1] = values[1], values[0]


def without_the_last(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


CHANGES: list[tuple[str, Change, str]] = [
    ("field", set_at("completion", 2, "nonsense"), "field 'completion' differs from the pool's"),
    ("licence", set_at("license", 1, "other"), "field 'license' differs from the pool's"),
    ("id", set_at("id", 3, "nobody"), "row 'nobody' is not in the pool"),
    ("rank", set_at("rank", 3, 1), "field 'rank' is 1, its place is 3"),
    ("weight", set_at("weight", 0, 7.0), "field 'weight' is 7.0, the selection has 1.0"),
    ("order", swapped, "the order differs from rank 0 on"),
]


@pytest.mark.parametrize("forged", [False, True], ids=["changed", "forged"])
@pytest.mark.parametrize(("change", "words"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_what_differs_is_told_by_id_and_field(exported: Callable[..., Path], place: Place, change: Change, words: str, forged: bool) -> None:
    folder = exported(["near"], budget="4")
    rewritten(folder, change, forged=forged)
    said = told(folder, place)
    assert words in said and ("has other bytes than were exported" in said) != forged


def test_a_row_too_few_or_a_strange_file_is_told(exported: Callable[..., Path], place: Place, tmp_path: Path) -> None:
    folder = exported(["near"], budget="4")
    rewritten(folder, without_the_last, forged=False)
    (folder / "data" / "more.parquet").write_bytes(b"")
    said = told(folder, place)
    assert "(3 rows, 4 were)" in said and "is in the selection and not in the export" in said and "data/more.parquet is not in the manifest" in said
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    assert "its rows cannot be read" in told(folder, place)


def test_a_certificate_that_was_improved_is_told(exported: Callable[..., Path], place: Place) -> None:
    folder = exported(["cover"], budget="4")
    about = json.loads((folder / "manifest.json").read_bytes())
    about["card"]["chosen"][0]["certificate"]["gap"] = 0.0
    (folder / "manifest.json").write_text(json.dumps(about))
    assert "does not carry its own hash" in told(folder, place)
    resealed(folder, about)
    assert "default: certificate: gap 0.0 is claimed, the features give" in told(folder, place)


def test_data_that_has_changed_is_told_and_data_that_is_not_here_is_asked_for(exported: Callable[..., Path], place: Place, tmp_path: Path) -> None:
    folder, data = exported(["near"], budget="4"), tmp_path / "data"
    data.mkdir()
    with pytest.raises(DataError, match="files and ids are intact, but the data .* name its folder with --data"):
        verified(folder, place, data=data)
    lines = (place.folder / "pool.jsonl").read_text().splitlines()
    (data / "pool.jsonl").write_text("\n".join([*lines, '{"prompt": "new?", "completion": "yes", "license": "mit"}']) + "\n")
    assert "pool: file pool.jsonl has other bytes" in (said := told(folder, place, data=data)) and "not in the pool" not in said
    (data / "pool.jsonl").write_text("\n".join(reversed(lines)) + "\n")  # other bytes, and the same rows
    assert told(folder, place, data=data).count("\n") == 1


def test_without_the_store_the_choice_is_made_again_on_request(exported: Callable[..., Path], place: Place, tmp_path: Path, tiny: Path) -> None:
    folder = exported(["all"])
    said = "\n".join(verified(folder, place, store=tmp_path / "nothing"))
    assert said.count("the choice was not repeated") == 4 and "--rebuild" in said
    said = "\n".join(verified(folder, place, store=tmp_path / "store", rebuild=True, model=str(tiny)))
    assert said.count("those of the selection made again from the recipe") == 4


def test_nothing_is_written_where_an_export_is_verified(exported: Callable[..., Path], place: Place, tmp_path: Path) -> None:
    folder, copy = exported(["near"], budget="4"), tmp_path / "copy"
    shutil.copytree(place.store, copy)
    (next(copy.glob("selection-*")) / "selection.parquet").write_bytes(b"damaged")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for damaged in copy.glob("selection-*/selection.parquet"):
        damaged.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="differs from its recorded hash"):
        verified(folder, place, store=copy)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"format": "curate-export-2"}', b"[" * 100_000, b"\xff"], ids=range(6))
def test_a_manifest_that_is_none_is_refused_in_a_line(exported: Callable[..., Path], place: Place, damage: bytes) -> None:
    folder = exported(["near"], budget="4")
    (folder / "manifest.json").write_bytes(damage)
    with pytest.raises((DataError, IntegrityError)) as caught:
        verified(folder, place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "data/../../x", "a\0b"])
def test_a_manifest_leads_nowhere_else(exported: Callable[..., Path], place: Place, name: str) -> None:
    folder = exported(["near"], budget="4")
    about = json.loads((folder / "manifest.json").read_bytes())
    about["files"][name] = known_by(b"")
    resealed(folder, about)
    assert "names or fields that curate does not write" in told(folder, place)
