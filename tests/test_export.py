"""An export is the selection, whole and in order, in a folder that `datasets` opens and that names nobody's machine."""

import getpass
import json
import os
import socket
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from curate.card import without_local_paths
from curate.errors import DiskError, ExportError
from curate.export import Card, export_dataset
from curate.report.results import CertificateRow

CHAT = [
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "source": "maths"},
    {"messages": [{"role": "user", "content": "\U0001f642 <script>"}], "source": "chat", "turns": 1},
    {"source": None, "turns": 7, "blob": b"\x00\xff"},
]


def export(directory, rows, **changes):
    n = len(rows)
    given = {
        "ids": [f"row-{i}" for i in range(n)][::-1],
        "ranks": list(range(n)),
        "weights": [0.1 + i for i in range(n)],
        "scores": [1.5 - i for i in range(n)],
    }
    given |= {"reasons": ["nearest to target row 3"] * n, "card": Card(name="maths-5pct")}
    return export_dataset(directory, rows, **(given | changes))


def load(directory, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    return load_dataset(str(directory), split="train", cache_dir=str(cache))


def front_matter(directory):
    return yaml.safe_load((directory / "README.md").read_text().split("---\n")[1])


def test_load_dataset_gives_back_the_selection_in_its_order(tmp_path, monkeypatch):
    loaded = load(export(tmp_path / "out", CHAT), tmp_path / "cache", monkeypatch)
    assert loaded["id"] == ["row-2", "row-1", "row-0"] and loaded["rank"] == [0, 1, 2]
    assert loaded["weight"] == pytest.approx([0.1, 1.1, 2.1]) and loaded["score"] == [1.5, 0.5, -0.5]
    assert [row["messages"] for row in loaded] == [CHAT[0]["messages"], CHAT[1]["messages"], None]
    assert loaded["source"] == ["maths", "chat", None] and loaded["turns"] == [None, 1, 7] and loaded["blob"] == [None, None, b"\x00\xff"]
    assert set(loaded["reason"]) == {"nearest to target row 3"}


def test_many_files_are_one_data_set_in_order(tmp_path, monkeypatch):
    rows = [{"text": f"{i} " * 50} for i in range(40)]
    out = export(tmp_path / "out", rows, scores=None, file_bytes=2000)
    names = sorted(path.name for path in (out / "data").iterdir())
    assert len(names) > 2 and names[0] == f"train-00000-of-{len(names):05d}.parquet"
    loaded = load(out, tmp_path / "cache", monkeypatch)
    assert loaded["text"] == [row["text"] for row in rows] and set(loaded["score"]) == {None}


def test_hostile_names_and_values_come_back_as_they_were_and_do_nothing_in_the_card(tmp_path, monkeypatch):
    names = ["a|b", "<script>x</script>", "---\nlicense: mit", "\u202eright", "{{x}}", "dotted.name", "=1+1", "`x`"]
    rows = [{name: f"{name}\x1b[31m\r\n{i}" for name in names} for i in range(2)]
    card = Card(name="x\n---\n# owned\n<img src=x>", target="[a](javascript:b)", license="mit\nlanguage: xx", tags=["a: b"], recipe="````\n# h\n")
    out = export(tmp_path / "out", rows, card=card)
    loaded = load(out, tmp_path / "cache", monkeypatch)
    assert [{name: row[name] for name in names} for row in loaded] == rows
    text = (out / "README.md").read_text()
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "<img" not in body and "\x1b" not in text and "\u202e" not in text and "\n# owned" not in text
    assert "[a](javascript" not in body and "`````yaml\n````\n# h\n`````" in text
    assert front_matter(out)["license"] == r"mit\nlanguage: xx" and "language" not in front_matter(out)


def test_added_columns_are_prefixed_together_where_one_clashes_in_any_case(tmp_path):
    plain = json.loads((export(tmp_path / "a", [{"text": "x"}]) / "manifest.json").read_text())
    assert list(plain["columns"]) and set(plain["added_columns"].values()) == {"id", "rank", "weight", "score", "reason"}
    clash = json.loads((export(tmp_path / "b", [{"ID": 7}, {"text": "x"}]) / "manifest.json").read_text())
    assert set(clash["columns"]) == {"ID", "text", "curate_id", "curate_rank", "curate_weight", "curate_score", "curate_reason"}
    again = json.loads((export(tmp_path / "c", [{"id": 7, "curate_rank": 1}]) / "manifest.json").read_text())
    assert again["added_columns"]["rank"] == "curate_curate_rank"


def test_the_card_tells_what_was_chosen_for_what_how_far_from_optimal_and_how_to_repeat_it(tmp_path):
    proof = CertificateRow(kind="transport", sense="min", objective=2.0, bound=1.9, gap=0.05)
    card = Card(
        name="maths-5pct",
        arm="tarot",
        target="maths",
        budget="5%",
        seed=0,
        pool_rows=900,
        method="name: transport",
        certificate=proof,
        recipe="name: demo\n",
        comparison=["svamp (acc): better than random by 1.8 points [0.4, 3.1]"],
        command="curate run demo.yaml",
        versions={"curate": "0.1.0"},
    )
    text = (export(tmp_path / "out", CHAT, card=card) / "README.md").read_text()
    for words in ("3 rows of 900", "target maths", "arm tarot, budget 5%, seed 0", "at least 1.9 is possible, gap 5.00%", "better than random by 1.8 points"):
        assert words in text
    assert "```\ncurate run demo.yaml\n```" in text and "```yaml\nname: demo\n```" in text and "Licence: unknown" in text
    front = front_matter(tmp_path / "out")
    assert front["size_categories"] == ["n<1K"] and front["license"] == "unknown"
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


def test_the_manifest_hashes_ids_and_files(tmp_path):
    out = export(tmp_path / "out", CHAT)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows"] == 3 and manifest["ids_sha256"] == sha256(b'["row-2", "row-1", "row-0"]').hexdigest()
    for name, facts in manifest["files"].items():
        assert sha256((out / name).read_bytes()).hexdigest() == facts["sha256"]


def test_equal_selections_give_equal_bytes(tmp_path):
    first, second = export(tmp_path / "a", CHAT), export(tmp_path / "b", CHAT)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [(first / path).read_bytes() for path in files] == [(second / path).read_bytes() for path in files]


def test_no_written_file_names_a_local_path_the_user_the_host_or_a_token(tmp_path):
    home, here = str(Path.home()), os.getcwd()
    secret = "hf_" + "a1B2" * 8
    recipe = (
        f"pool: [{{path: {home}/my data/pool.parquet}}, {{hub: org/name}}]\nstore: {tmp_path}/store\nkeys: [{secret}, {here}]\nwin: C:\\Users\\jo\\x.parquet\n"
    )
    card = Card(
        name="x", recipe=recipe, command=f"curate run {here}/r.yaml", method=f"path: '{tmp_path}'", comparison=["/srv/someone/a"], versions={"torch": "2.13.0"}
    )
    out = export(tmp_path / "out", [{"text": "a row may speak of anything"}], card=card)
    for path in (out / "README.md", out / "manifest.json", *(out / "data").iterdir()):
        data = path.read_bytes().decode(errors="replace")
        for leak in (home + "/", here, str(tmp_path), "someone", "Users", secret, f"/{getpass.getuser()}", socket.gethostname()):
            assert leak not in data, (path.name, leak)
    assert "org/name" in (out / "README.md").read_text() and "pool.parquet" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "text", ["https://host/a/b", "org/name", "data/pools/*.parquet", "../shared/x.parquet", "1/2 and/or 3 / 4", "hf://datasets/a/b", "~", "a: ~"]
)
def test_what_is_no_local_path_stays(text):
    assert without_local_paths({"k": [text]}) == {"k": [text]}


def test_a_folder_that_holds_anything_is_refused_and_only_an_export_is_ever_replaced(tmp_path):
    out = export(tmp_path / "out", CHAT)
    with pytest.raises(ExportError, match="not empty.*--overwrite"):
        export(out, CHAT[:1])
    assert json.loads((out / "manifest.json").read_text())["rows"] == 3
    export(out, CHAT[:1], overwrite=True)
    assert json.loads((out / "manifest.json").read_text())["rows"] == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    with pytest.raises(ExportError, match="no export of curate"):
        export(foreign, CHAT, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="not a folder"):
        export(tmp_path / "file", CHAT, overwrite=True)
    assert (foreign / "chapter.tex").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "thesis"]


def test_an_export_that_fails_leaves_the_old_one_and_no_trace(tmp_path, monkeypatch):
    out = export(tmp_path / "out", CHAT)
    before = (out / "manifest.json").read_bytes()
    real = os.rename

    def rename(source, target):
        if str(source).endswith(".part"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(DiskError, match="No space left"):
        export(out, CHAT[:1], overwrite=True)
    assert (out / "manifest.json").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_written_is_read_back_and_compared(tmp_path, monkeypatch):
    import pyarrow

    real = pyarrow.array
    monkeypatch.setattr(pyarrow, "array", lambda values, *kind: real([v.upper() if v == "abc" else v for v in values], *kind))
    with pytest.raises(ExportError, match="column 'text' of row 'row-0' changed"):
        export(tmp_path / "out", [{"text": "abc"}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "selection is empty"),
        ([{"a": 1}, {"a": "x"}], {}, "column 'a' cannot be stored"),
        ([{"a": 2**70}], {}, "column 'a' cannot be stored"),
        ([{"a": "\ud800"}], {}, "column 'a' cannot be stored"),
        ([{"a": {}}], {}, "do not fit parquet"),
        ([{"a": 2**60 + 1}, {"a": 0.5}], {}, "column 'a'"),
        ([{"": 1}], {}, "is not a word"),
        ([{"a": 1}], {"weights": []}, "0 values of weight for 1 rows"),
        ([{"a": 1}, {"a": 2}], {"ids": ["x", "x"]}, "an id repeats"),
    ],
)
def test_rows_that_cannot_be_exported_are_refused_in_one_line(tmp_path, rows, changes, message):
    with pytest.raises(ExportError, match=message) as caught:
        export(tmp_path / "out", rows, **changes)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
