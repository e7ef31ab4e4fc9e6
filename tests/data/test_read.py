"""Reading sources: every kind of file gives the same rows, and damage is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.data import files as files_module
from curate.data.load import load
from curate.data.locate import paths
from curate.data.read import read
from curate.data.source import Source
from curate.errors import DataError

ROWS = [{"instruction": f"ask {number} \u00e9\U0001f600", "output": f'say "{number}",\nplease'} for number in range(700)]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, delimiter: str = ",") -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, ["instruction", "output"], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_bytes(as_lines(ROWS)),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + as_lines(ROWS).replace(b"}\n", b"}\r\n")),
    "no-final-newline.jsonl": lambda path: path.write_bytes(as_lines(ROWS).rstrip()),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_lines(ROWS[:100])) + gzip.compress(as_lines(ROWS[100:]))),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstd(as_lines(ROWS[:100])) + zstd(as_lines(ROWS[100:]))),
    "gzip-without-suffix.jsonl": lambda path: path.write_bytes(gzip.compress(as_lines(ROWS))),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "lines.json": lambda path: path.write_bytes(as_lines(ROWS)),
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, "\t"),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=100),
    "rows.arrow": write_arrow,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    rows = list(read(Source(path=name), tmp_path))
    assert [row.fields for row in rows] == ROWS
    assert {row.group for row in rows} == {name.partition(".")[0]}
    assert rows[0].origin.startswith(name + ":") and len({row.origin for row in rows}) == len(ROWS)


def test_a_folder_saved_by_datasets_gives_the_same_rows(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": data, "test": data.select(range(10))}).save_to_disk(tmp_path / "many")
    assert [row.fields for row in read(Source(path="one"), tmp_path)] == ROWS
    assert [row.fields for row in read(Source(path="many", split="train"), tmp_path)] == ROWS
    with pytest.raises(DataError, match="no split is chosen; add split: with one of test, train"):
        list(read(Source(path="many"), tmp_path))
    with pytest.raises(DataError, match="there is no split 'dev'"):
        list(read(Source(path="many", split="dev"), tmp_path))


def test_label_columns_of_datasets_are_read_by_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, None]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    for name in ("saved", "rows.parquet"):
        assert [row.fields["label"] for row in read(Source(path=name), tmp_path)] == ["yes", "no", None]


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n{"text": "two"}\n')
    assert [row.origin for row in read(Source(path="a.jsonl"), tmp_path)] == ["a.jsonl:1", "a.jsonl:3"]


def test_files_are_found_by_glob_and_folder_and_read_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden/d.jsonl", "notes.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(as_lines([{"text": name}]))
    assert [row.fields["text"] for row in read(Source(path="data"), tmp_path)] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert [path.name for path in paths(Source(path="data/*.jsonl"), tmp_path)] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in paths(Source(path="data/**/*.jsonl"), tmp_path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [path.name for path in paths(Source(path=str(tmp_path / "data" / "b.jsonl")), Path("/"))] == ["b.jsonl"]


@pytest.mark.parametrize("pattern", ["data/c.jsonl", "data/*.csv", "nowhere/x/*.jsonl"])
def test_a_path_without_files_names_the_pattern_and_what_is_near(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(as_lines(ROWS[:1]))
    with pytest.raises(DataError) as refusal:
        list(read(Source(path=pattern), tmp_path))
    assert pattern in str(refusal.value) and ("'a.jsonl'" in str(refusal.value) or "'data'" in str(refusal.value))


def test_where_limit_and_group_keep_what_they_say(jsonl: Callable[..., Source], tmp_path: Path) -> None:
    rows = [{"text": str(number), "kind": "ab"[number % 2], "n": number, "ok": number > 3} for number in range(10)]

    def kept(**fields: Any) -> list[int]:
        return [row.fields["n"] for row in read(jsonl("rows.jsonl", rows, **fields), tmp_path)]

    assert kept(where={"kind": "a"}) == [0, 2, 4, 6, 8]
    assert kept(where={"kind": ["a", "b"], "n": [1, 2, 77]}) == [1, 2]
    assert kept(where={"ok": True, "kind": "b"}, limit=2) == [5, 7]
    assert {row.group for row in read(jsonl("rows.jsonl", rows, group="kind"), tmp_path)} == {"a", "b"}
    assert {row.group for row in read(jsonl("rows.jsonl", rows, group="label:mine"), tmp_path)} == {"mine"}


def test_a_filter_compares_numbers_with_the_text_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,3\ny,4\n")
    assert [row.fields["text"] for row in read(Source(path="a.csv", where={"label": 3}), tmp_path)] == ["x"]


def test_no_rows_left_is_refused_with_the_count_of_each_filter(jsonl: Callable[..., Source], tmp_path: Path) -> None:
    rows = [{"text": "t", "a": number, "b": number} for number in range(5)]
    with pytest.raises(DataError, match=r"no row is left of 5 \(a: \[1, 2\] matches 2, b: 3 matches 1\)"):
        list(read(jsonl("rows.jsonl", rows, where={"a": [1, 2], "b": 3}), tmp_path))
    with pytest.raises(DataError, match="it has no rows"):
        list(read(jsonl("none.jsonl", []), tmp_path))


@pytest.mark.parametrize("field", [{"where": {"x": 1}}, {"id": "x"}, {"group": "x"}])
def test_a_missing_column_is_refused_with_those_found(jsonl: Callable[..., Source], tmp_path: Path, field: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no column 'x'; the columns are 'text', 'n'"):
        list(read(jsonl("rows.jsonl", [{"text": "t", "n": 1}], **field), tmp_path))


BAD_LINES = {
    "broken": b'{"text": "t"',
    "no object": b"[1]",
    "two equal keys": b'{"text": "t", "text": "u"}',
    "not a number": b'{"text": "t", "n": NaN}',
    "huge integer": b'{"n": ' + b"9" * 5000 + b"}",
    "deep nesting": b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "control characters": b'\x1b[31m{"text"',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_an_error_with_its_number_or_is_quarantined(jsonl: Callable[..., Source], tmp_path: Path, line: bytes) -> None:
    source = jsonl("rows.jsonl", [{"text": "t"}, line, {"text": "u"}])
    with pytest.raises(DataError, match="^rows.jsonl:2: bad_json") as refusal:
        list(read(source, tmp_path))
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500
    rows = list(read(source, tmp_path, on_bad_row="quarantine"))
    assert [row.problem.reason if row.problem else None for row in rows] == [None, "bad_json", None]


def test_bytes_that_are_not_utf8_reach_the_row_and_not_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "fine"}\n')
    (tmp_path / "a.csv").write_bytes(b"text\n\xff\nfine\n")
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"fine"]).buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert [row.fields["text"] for row in read(Source(path=name), tmp_path)] == ["\udcff", "fine"]


def test_an_endless_line_is_set_aside_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_LINE", 1000)
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"text": "a"}, {"text": "b" * 5000}, {"text": "c"}]))
    rows = list(read(Source(path="a.jsonl"), tmp_path))
    assert [row.problem.reason if row.problem else row.fields["text"] for row in rows] == ["a", "too_large", "c"]
    assert [row.origin for row in rows] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_a_compression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(as_lines([{"text": "a" * 2**16}]) * 64))
    assert len(list(read(Source(path="a.jsonl.gz"), tmp_path))) == 64
    monkeypatch.setattr(files_module, "ALWAYS_DECODED", 2**20)
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        list(read(Source(path="a.jsonl.gz"), tmp_path))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst", "rows.arrow", "rows.json"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in (len(content) // 2, len(content) - 5):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(DataError, match=name) as refusal:
            list(read(Source(path=name), tmp_path))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match="a.parquet"):
        list(read(Source(path="a.parquet"), tmp_path))


def test_a_flipped_bit_in_a_parquet_with_checksums_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"ask 300")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.parquet"):
        list(read(Source(path="a.parquet"), tmp_path))


def test_malformed_csv_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,1\ny\nz,2\n")
    with pytest.raises(DataError, match="^a.csv:3: bad_csv .1 values for 2 columns"):
        list(read(Source(path="a.csv"), tmp_path))
    assert len([row for row in read(Source(path="a.csv"), tmp_path, on_bad_row="quarantine") if row.problem is None]) == 2
    (tmp_path / "b.csv").write_text("text,text\nx,1\n")
    with pytest.raises(DataError, match="must name each column once"):
        list(read(Source(path="b.csv"), tmp_path))
    (tmp_path / "c.csv").write_text('text,label\n"x,1\n')
    with pytest.raises(DataError, match="c.csv:.*is not CSV"):
        list(read(Source(path="c.csv"), tmp_path))


DISAGREEING: dict[str, tuple[list[dict[str, Any]], str]] = {
    "type": ([{"text": "t", "n": 1.5}], "column 'n' holds float, but int"),
    "missing": ([{"text": "t"}], "column 'n' is missing"),
    "new": ([{"text": "t", "n": 1, "m": 2}], "column 'm' is new"),
}


@pytest.mark.parametrize(("rows", "message"), DISAGREEING.values(), ids=DISAGREEING)
def test_the_first_file_that_disagrees_is_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    for name, content in (("a", [{"text": "t", "n": 1}]), ("b", [{"text": None, "n": 1}]), ("c", rows), ("d", rows)):
        pq.write_table(pa.Table.from_pylist(content), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=message) as refusal:
        list(read(Source(path="*.parquet"), tmp_path))
    assert str(refusal.value).startswith(str(tmp_path / "c.parquet"))


def test_files_of_different_formats_are_not_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"instruction": "i", "output": "o"}]))
    (tmp_path / "b.jsonl").write_bytes(as_lines([{"instruction": "i", "output": "o", "input": "x"}]))
    (tmp_path / "c.jsonl").write_bytes(as_lines([{"question": "q", "answer": "a"}]))
    assert len(list(load([Source(path="[ab].jsonl")], tmp_path))) == 2
    with pytest.raises(DataError, match=r"c.jsonl: reads as question_answer .*, but b.jsonl as alpaca"):
        list(load([Source(path="*.jsonl")], tmp_path))


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="a.xlsx: this kind of file is not read; the kinds are .jsonl"):
        list(read(Source(path="a.xlsx"), tmp_path))


@pytest.mark.parametrize("value", [None, "", "a\nb", "x" * 300, 1.5, ["a"], "\ud800"])
def test_an_id_that_is_none_is_refused_with_its_place(jsonl: Callable[..., Source], tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"^rows.jsonl:2: .* in column 'key' is no id"):
        list(read(jsonl("rows.jsonl", [{"text": "t", "key": "good"}, {"text": "u", "key": value}], id="key"), tmp_path))
