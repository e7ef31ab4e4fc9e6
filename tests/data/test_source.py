"""Which rows a source stands for: samples by content, fingerprints, the Hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from curate.data.load import load
from curate.data.locate import fingerprint, pinned
from curate.data.read import read
from curate.data.source import Source
from curate.errors import DataError

ROWS = [{"instruction": f"ask {number} \u00e9\U0001f600", "output": f'say "{number}",\nplease'} for number in range(700)]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_synthetic_rows_are_a_source(tmp_path: Path) -> None:
    rows = list(load([Source(synthetic="target", rows=20, group="kind")], tmp_path))
    assert len(rows) == 20 and all(parsed.meaning for parsed in rows)
    assert {parsed.row.group for parsed in rows} == {parsed.row.fields["kind"] for parsed in rows}


def test_a_sample_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    (tmp_path / "whole.jsonl").write_bytes(as_lines([*ROWS, ROWS[0]]))
    for name, part in (("b", ROWS[:350]), ("a", [ROWS[0], *reversed(ROWS[350:])])):
        (tmp_path / f"part-{name}.jsonl").write_bytes(as_lines([{**row, "extra": name} for row in part]))

    def drawn(path: str, **fields: Any) -> list[bytes]:
        return sorted(parsed.key for parsed in load([Source(path=path, **fields)], tmp_path))

    for size in (1, 50, 700):
        assert len(drawn("whole.jsonl", sample=size)) == size
        assert drawn("whole.jsonl", sample=size) == drawn("part-*.jsonl", sample=size)
    assert set(drawn("whole.jsonl", sample=50)) < set(drawn("whole.jsonl", sample=100))
    assert drawn("whole.jsonl", sample=50) != drawn("whole.jsonl", sample=50, sample_seed=1)
    assert len(drawn("whole.jsonl", sample=10_000)) == 701


def test_of_equal_rows_the_same_one_is_drawn_whatever_their_order(tmp_path: Path) -> None:
    rows = [{**row, "copy": copy} for copy in range(3) for row in ROWS[:20]]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    (tmp_path / "b.jsonl").write_bytes(as_lines(rows[::-1]))
    for size in range(1, 12):
        first, second = ([p.row.fields for p in load([Source(path=name, sample=size, group="label:g")], tmp_path)] for name in ("a.jsonl", "b.jsonl"))
        assert len(first) == size and sorted(map(str, first)) == sorted(map(str, second))


def test_every_row_is_as_likely_to_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(as_lines(ROWS[:40]))
    counts: dict[bytes, int] = {}
    for seed in range(200):
        for parsed in load([Source(path="rows.jsonl", sample=10, sample_seed=seed)], tmp_path):
            counts[parsed.key] = counts.get(parsed.key, 0) + 1
    assert len(counts) == 40 and sum(counts.values()) == 2000
    assert all(abs(count - 50) < 6 * (200 * 0.25 * 0.75) ** 0.5 for count in counts.values())


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_bytes(as_lines(ROWS))
    first, second = (fingerprint(Source(path="*.jsonl"), tmp_path / folder) for folder in ("one", "two"))
    assert first == second == json.loads(json.dumps(first))
    assert fingerprint(Source(path="*.jsonl", limit=3), tmp_path / "one") != first
    (tmp_path / "two" / "rows.jsonl").write_bytes(as_lines(ROWS).replace(b"ask 7 ", b"ask 8 "))
    assert fingerprint(Source(path="*.jsonl"), tmp_path / "two") != first


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    source = Source(hub="no-such-org/no-such-data", split="train")
    for attempt in (lambda: list(read(source, tmp_path)), lambda: fingerprint(source, tmp_path)):
        with pytest.raises(DataError, match="hub dataset no-such-org/no-such-data") as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
    commit = source.model_copy(update={"revision": "0" * 40})
    assert pinned(commit) is commit and fingerprint(commit, tmp_path)["revision"] == "0" * 40


def test_a_hub_dataset_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    asked: list[Any] = []

    def load_dataset(*positional: Any, **named: Any) -> Any:
        asked.append((positional, named))
        return data if named["split"] else datasets.DatasetDict({"train": data, "test": data})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source(hub="org/name", config="main", revision="abc", split="train[:20%]", files=["a.parquet"])
    rows = list(read(source, tmp_path))
    assert asked == [(("org/name", "main"), {"revision": "abc", "split": "train[:20%]", "data_files": ["a.parquet"]})]
    assert [(row.origin, row.group, row.fields) for row in rows] == [
        ("org/name:1", "name", {"text": "a", "label": "yes"}),
        ("org/name:2", "name", {"text": "b", "label": "no"}),
    ]
    with pytest.raises(DataError, match="no split is chosen; add split: with one of train, test"):
        list(read(Source(hub="org/name"), tmp_path))
