"""An export is the selection, whole and in order, in a folder that `datasets` opens and that names nobody's machine."""

import getpass
import json
import os
import socket
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from curate.card import Source, licence_of, without_local_paths
from curate.errors import DiskError, ExportError
from curate.export import Card, Chosen, Export, Part, export_folder
from curate.report.results import CertificateRow

CHAT = [
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "source": "maths"},
    {"messages": [{"role": "user", "content": "\U0001f642 <script>"}], "source": "chat", "turns": 1},
    {"source": None, "turns": 7, "blob": b"\x00\xff"},
]


def part(rows, **changes):
    n = len(rows)
    given = {"ids": [f"row-{i}" for i in range(n)][::-1], "weights": [0.1 + i for i in range(n)], "scores": [1.5 - i for i in range(n)]}
    return Part(rows, **(given | {"reasons": ["nearest to target row 3"] * n} | changes))


def export(directory, rows, card=None, overwrite=False, **changes):
    return export_folder(directory, Export([part(rows, **changes)], card or Card(name="maths-5pct")), overwrite=overwrite)


def load(directory, cache, monkeypatch, config=None):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    return load_dataset(str(directory), config, split="train", cache_dir=str(cache))


def manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


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
    card = Card(
        name="x\n---\n# owned\n<img src=x>",
        chosen=[Chosen(target="[a](javascript:b)", comparison=[["<b>t</b>", "|", "1", "2", "3", "![x](y)"]], formulas=["<i>f</i>\n# h"])],
        sources=[Source(name="<script>|x", hub=True, license="no\n# h")],
        licenses={"<u>": {"<u>": 2}},
        license="mit\nlanguage: xx",
        leaks=[["a|b"], ["<script>"]],
        tags=["a: b"],
        recipe="````\n# h\n",
    )
    out = export(tmp_path / "out", rows, card=card)
    loaded = load(out, tmp_path / "cache", monkeypatch)
    assert [{name: row[name] for name in names} for row in loaded] == rows
    text = (out / "README.md").read_text()
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "<img" not in body and "\x1b" not in text and "\u202e" not in text and "\n# owned" not in text
    assert "[a](javascript" not in body and "`````yaml\n````\n# h\n`````" in text
    assert "<u>" not in body and "<b>" not in body and "![x](y)" not in body and "\n# h" not in body.replace("`````yaml\n````\n# h", "")
    front = front_matter(out)
    assert (front["license"], front["license_name"]) == ("other", "mit-language-xx") and "language" not in front
    assert front["source_datasets"] == ["<script>|x"]


def test_added_columns_are_prefixed_together_where_one_clashes_in_any_case(tmp_path):
    plain = manifest(export(tmp_path / "a", [{"text": "x"}]))["configs"]["default"]
    assert list(plain["columns"]) and set(plain["added_columns"].values()) == {"id", "rank", "weight", "score", "reason"}
    clash = manifest(export(tmp_path / "b", [{"ID": 7}, {"text": "x"}]))["configs"]["default"]
    assert set(clash["columns"]) == {"ID", "text", "curate_id", "curate_rank", "curate_weight", "curate_score", "curate_reason"}
    again = manifest(export(tmp_path / "c", [{"id": 7, "curate_rank": 1}]))["configs"]["default"]
    assert again["added_columns"]["rank"] == "curate_curate_rank"


def test_the_card_tells_what_was_chosen_for_what_how_far_from_optimal_and_how_to_repeat_it(tmp_path):
    proof = CertificateRow(kind="transport", sense="min", objective=2.0, bound=1.9, gap=0.05)
    chosen = Chosen(
        arm="tarot",
        target="maths",
        budget="5%",
        seed=0,
        pool_rows=900,
        method="name: transport",
        formulas=["transport: the least cost W = min sum T C"],
        certificate=proof,
        comparison=[["svamp", "acc", "71.2", "69.4", "+1.8 [+0.4, +3.1]", "better than random"]],
    )
    card = Card(
        name="maths-5pct",
        chosen=[chosen],
        recipe="name: demo\n",
        leaks=[["benchmark", "verdict"], ["svamp", "clean"]],
        command="curate run demo.yaml",
        versions={"curate": "0.1.0"},
    )
    text = (export(tmp_path / "out", CHAT, card=card) / "README.md").read_text()
    for words in ("3 rows of 900", "target maths", "arm tarot, budget 5%, seed 0", "at least 1.9 is possible, gap 5.00%"):
        assert words in text
    assert "| svamp | acc | 71.2 | 69.4 | +1.8 \\[+0.4, +3.1\\] | better than random |" in text and "- transport: the least cost W = min sum T C" in text
    assert "| svamp | clean |" in text
    assert "```\ncurate run demo.yaml\n```" in text and "```yaml\nname: demo\n```" in text and "Licence: unknown" in text
    front = front_matter(tmp_path / "out")
    assert front["size_categories"] == ["n<1K"] and front["license"] == "unknown"
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


def test_the_manifest_hashes_ids_and_files(tmp_path):
    out = export(tmp_path / "out", CHAT)
    about = manifest(out)
    config = about["configs"]["default"]
    assert config["rows"] == 3 and config["ids_sha256"] == sha256(b'["row-2", "row-1", "row-0"]').hexdigest()
    assert set(about["files"]) == {"README.md", *config["files"]}
    for name, facts in about["files"].items():
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
        name="x",
        recipe=recipe,
        command=f"curate run {here}/r.yaml",
        chosen=[Chosen(method=f"path: '{tmp_path}'", comparison=[["/srv/someone/a"] * 6])],
        inputs={"model": {"path": f"{home}/models/m"}},
        leaks=[["where"], [f"{here}/x.parquet"]],
        versions={"torch": "2.13.0"},
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
    assert manifest(out)["configs"]["default"]["rows"] == 3
    export(out, CHAT[:1], overwrite=True)
    assert manifest(out)["configs"]["default"]["rows"] == 1
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
        ([{"a": 1}], {"weights": []}, "0 weights for 1 rows"),
        ([{"a": 1}], {"name": "../x"}, "cannot name a configuration"),
        ([{"a": 1}, {"a": 2}], {"ids": ["x", "x"]}, "an id repeats"),
    ],
)
def test_rows_that_cannot_be_exported_are_refused_in_one_line(tmp_path, rows, changes, message):
    with pytest.raises(ExportError, match=message) as caught:
        export(tmp_path / "out", rows, **changes)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_several_selections_are_configurations_of_one_data_set(tmp_path, monkeypatch):
    parts = [part([{"text": f"{name} {i}"} for i in range(3)], name=name) for name in ("less-5pct", "rds-5pct")]
    card = Card(name="both", chosen=[Chosen(config="rds-5pct", arm="rds"), Chosen(config="less-5pct", arm="less")])
    out = export_folder(tmp_path / "out", Export(parts, card))
    assert load(out, tmp_path / "cache", monkeypatch, "rds-5pct")["text"] == ["rds-5pct 0", "rds-5pct 1", "rds-5pct 2"]
    assert load(out, tmp_path / "cache", monkeypatch)["text"][0] == "less-5pct 0"  # the first is the default
    text = (out / "README.md").read_text()
    assert text.index("(arm less)") < text.index("## rds-5pct") < text.index("(arm rds)")
    with pytest.raises(ExportError, match="configuration of its own"):
        export_folder(tmp_path / "twice", Export([parts[0], parts[0]], card))


def test_the_front_matter_is_what_the_hub_s_own_parser_reads(tmp_path):
    from huggingface_hub import DatasetCard

    card = Card(name="x", sources=[Source(name="org/a", hub=True, license="mit"), Source(name="b.jsonl", license="CC-BY-4.0")], language=["en"])
    data = DatasetCard.load(export(tmp_path / "out", CHAT, card=card) / "README.md").data
    assert (data.license, data.language, data.source_datasets, data.size_categories) == (["mit", "cc-by-4.0"], ["en"], ["org/a"], ["n<1K"])
    assert data.configs[0]["config_name"] == "default" and data.pretty_name == "x" and "curate" in data.tags


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({}, (["unknown"], "")),
        ({"sources": [{"name": "a", "license": "mit"}]}, (["mit"], "")),
        ({"sources": [{"name": "a", "license": "mit"}, {"name": "b"}]}, (["mit", "unknown"], "")),
        ({"sources": [{"name": "a"}], "licenses": {"MIT": {"a": 3}, "odc-by": {"b": 1}}}, (["mit", "odc-by"], "")),  # rows know better than their source
        ({"licenses": {"Terms of X, 2024": {"a": 3}}}, (["other"], "terms-of-x-2024")),
        ({"licenses": {"mit": {"a": 3}}, "license": "cc0-1.0"}, (["cc0-1.0"], "")),
    ],
)
def test_licences_are_rolled_up_and_unknown_ones_are_said_to_be(card, expected):
    assert licence_of(Card.model_validate({"name": "x", **card})) == expected


def test_an_export_does_not_depend_on_the_folder_one_stands_in(tmp_path, monkeypatch):
    card = Card(name="x", recipe=f"path: {tmp_path}/here/models/m\n", command=f"curate run {tmp_path}/here/r.yaml")
    found = []
    for place in (tmp_path / "here", tmp_path):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        found.append((export(tmp_path / f"out-{len(found)}", CHAT, card=card) / "manifest.json").read_bytes())
    assert found[0] == found[1]
