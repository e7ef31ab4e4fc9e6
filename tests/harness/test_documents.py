"""Documents of local files: values as `datasets` gives them, ids that stay, splits by name."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import DataError
from curate.harness.documents import read_documents, split_files
from curate.harness.reading import LocalTask, parse_task
from curate.harness.task_file import Files
from tests.harness.asking import write_rows

TASK = "task: demo\noutput_type: loglikelihood_rolling\ndoc_to_target: q\ntest_split: test\n"


def task(folder: Path, keys: str = "") -> LocalTask:
    return parse_task(TASK + keys, "demo.yaml", folder)


def fields(*files: Path) -> list[dict[str, Any]]:
    return [dict(document.fields) for document in read_documents(files)]


def test_an_id_is_the_rows_number_and_a_hash_of_its_content(tmp_path: Path) -> None:
    rows = [{"q": "a", "n": 1}, {"q": "b", "n": 2}, {"q": "a", "n": 1}]
    ids = [document.id for document in read_documents([write_rows(tmp_path / "a.jsonl", rows)])]
    assert [name[:7] for name in ids] == ["000000-", "000001-", "000002-"]
    assert ids[0][7:] == ids[2][7:] != ids[1][7:]
    turned = [{"n": 1, "q": "a"}, {"q": "b", "n": 3}]
    again = [document.id for document in read_documents([write_rows(tmp_path / "b.jsonl", turned)])]
    assert again[0] == ids[0] and again[1] != ids[1]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    assert [document.id for document in read_documents([tmp_path / "c.parquet"])] == ids


def test_label_columns_are_their_numbers(tmp_path: Path) -> None:
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pa.table({"label": pa.array([1, 0, -1, None], pa.int64())}).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row["label"] for row in fields(tmp_path / "a.parquet")] == [1, 0, -1, None]


def test_columns_of_a_csv_file_have_types(tmp_path: Path) -> None:
    header, *rows = [["q", "n", "m", "real", "flag", "code"], ["x, y", "1", "", "0.5", "True", "007"], ["NA", "2", "3", "1e3", "False", "8"]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    assert fields(tmp_path / "a.csv") == [
        {"q": "x, y", "n": 1, "m": None, "real": 0.5, "flag": True, "code": 7},
        {"q": None, "n": 2, "m": 3.0, "real": 1000.0, "flag": False, "code": 8},
    ]


def test_a_column_that_rows_lack_is_none_there_and_files_follow_each_other(tmp_path: Path) -> None:
    one, two = write_rows(tmp_path / "1.jsonl", [{"q": "a"}]), write_rows(tmp_path / "2.jsonl", [{"z": [1]}])
    assert fields(one, two) == [{"q": "a", "z": None}, {"q": None, "z": [1]}]
    assert [document.number for document in read_documents([one, two])] == [0, 1]
    assert len(read_documents([one, two], limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', "a.jsonl:2: bad_json ("),
        ("a.jsonl", b'{"q": "\xff"}\n', "a.jsonl:1: holds bytes that are not UTF-8; save the file as UTF-8"),
        ("a.jsonl", b"", "a.jsonl: holds no row; check the path"),
        ("a.csv", b"q,n\n1\n", "a.csv:2: bad_csv (1 values for 2 columns)"),
        ("a.parquet", b"PAR1 but no more", "a.parquet: cannot be read ("),
        ("a.arrow", b"ARROW1", "a.arrow: Arrow files are not read as task data"),
    ],
)
def test_a_file_that_cannot_be_read_names_the_row(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_documents([tmp_path / name])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_data_are_the_files_that_are_asked_or_files_by_split(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_rows(tmp_path / f"{name}.jsonl", [{"q": name}])
    names = {"a": tmp_path / "a.jsonl", "b": tmp_path / "b.jsonl"}

    def found(keys: str, data: Files | None = None) -> dict[str, list[Path]]:
        return split_files(task(tmp_path, keys), data)

    assert found("data: a.jsonl\n") == {"test": [names["a"]]}
    assert found("data: {test: a.jsonl, train: [b.jsonl]}\n") == {"test": [names["a"]], "train": [names["b"]]}
    assert found("data: b.jsonl\n", "a.jsonl") == {"test": [names["a"]]}
    assert found("dataset_path: org/name\ndataset_name: part\n", "a.jsonl") == {"test": [names["a"]]}
    assert found("dataset_path: json\ndataset_kwargs: {data_files: a.jsonl}\n") == {"train": [names["a"]]}
    assert found("dataset_path: json\ndataset_kwargs: {data_files: {test: '[ab].jsonl'}}\n") == {"test": [names["a"], names["b"]]}
    assert found("dataset_path: b.jsonl\n") == {"test": [names["b"]]}


def test_splits_of_a_folder_go_by_the_names_in_it(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "my_dev", "test_1", "latest", "other"):
        write_rows(tmp_path / f"{name}.jsonl", [{"q": name}])
    found = split_files(task(tmp_path.parent, f"dataset_path: {tmp_path.name}\n"))
    assert {split: [file.stem for file in files] for split, files in found.items()} == {
        "train": ["train-00000-of-00001"],
        "validation": ["my_dev"],
        "test": ["test_1"],
    }
    (tmp_path / "sub" / "eval-set").mkdir(parents=True)
    write_rows(tmp_path / "sub" / "eval-set" / "train.jsonl", [{"q": "by folder"}])
    assert {split: len(files) for split, files in split_files(task(tmp_path.parent, f"dataset_path: {tmp_path.name}\n")).items()} == {"test": 1}
    plain = tmp_path / "plain"
    plain.mkdir()
    write_rows(plain / "b.jsonl", [{"q": "b"}])
    assert split_files(task(tmp_path, "dataset_path: plain\n")) == {"train": [plain / "b.jsonl"]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("", "demo.yaml:1: task: the task names no data; add data: FILE"),
        ("data: none.jsonl\n", "none.jsonl: no data file matches "),
        ("data: https://host/a.jsonl\n", "demo: 'https://host/a.jsonl' is an address, and only local files are read; download it first"),
        ("dataset_path: org/name\n", "demo.yaml:5: dataset_path 'org/name' is no local file or folder "),
        ("dataset_path: org/name\ndataset_name: part\n", "demo.yaml:6: dataset_name is a part of a Hub dataset, and only local files are read here"),
    ],
)
def test_data_that_is_not_here_is_refused(keys: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        split_files(task(tmp_path, keys))
    assert str(caught.value).startswith(said)
