"""Flags, licences and sources, and what `curate inspect` says of a pool before a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.data.load import load
from curate.data.source import Source
from curate.hygiene.provenance import licence_of, rolled_up, source_of
from curate.hygiene.quality import FLAGS, flags_of, script_of

Command = Callable[..., int]


@pytest.mark.parametrize(
    ("question", "answer", "flags"),
    [
        ("Name a bird of the forest.", "The wren is one.", []),
        ("Name a bird of the forest.", " ... ", ["empty_answer", "placeholder"]),
        ("Name a bird of the forest.", "<nooutput>", ["placeholder"]),
        ("Name a bird of the forest.", "N/A", ["placeholder"]),
        ("Hi", "Hello", ["very_short"]),
        ("Say it often.", "word " * 30, ["repeats_itself"]),
        ("Count.", "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", []),
        ("Draw a cat.", "As an AI language model, I cannot draw.", ["refusal"]),
        ("Draw a cat.", "I'm sorry, but I can't help with that.", ["refusal"]),
        ("Draw a cat.", "She said she is sorry that it cannot be seen.", []),
        ("Say this again.", "say this AGAIN", ["echo"]),
        (
            "Translate to Russian: good morning to all",
            "\u0434\u043e\u0431\u0440\u043e\u0435 \u0443\u0442\u0440\u043e \u0432\u0441\u0435\u043c",
            ["mixed_scripts"],
        ),
        ("\u4f60\u597d\u5417 \u3053\u3093\u306b\u3061\u306f", "\u6211\u5f88\u597d \u30a2", []),
    ],
)
def test_the_flags_of_known_rows(question: str, answer: str, flags: list[str]) -> None:
    found = flags_of((("system", "As an AI language model you never fail."), ("user", question), ("assistant", answer)))
    assert found == flags and set(found) <= set(FLAGS)


def test_the_scripts_of_japanese_are_one() -> None:
    assert script_of("\u3042") == script_of("\u30a2") == script_of("\u4e9c") != script_of("a")


def test_licences_and_sources_come_from_the_rows_own_columns() -> None:
    assert licence_of({"license": "mit"}) == "mit" and licence_of({"License": " "}) == "unknown"
    assert source_of({"source": "wiki"}, "file") == "wiki" and source_of({}, "file") == "file"
    rows = [({"license": "mit", "source": "b"}, "f"), ({"license": "mit"}, "f"), ({"license": "mit"}, "f"), ({}, "g")]
    assert rolled_up(rows) == {"mit": {"f": 2, "b": 1}, "unknown": {"g": 1}}


def test_the_licence_of_a_source_goes_with_rows_that_have_none(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "license": None}, {"prompt": "c", "completion": "d", "license": "mit"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [json.loads(parsed.source_json)["license"] for parsed in load([Source(path="rows.jsonl", license="cc-by-4.0")], tmp_path)]
    assert found == ["cc-by-4.0", "mit"]
    assert "license" not in Source(path="rows.jsonl").model_dump(exclude_defaults=True)  # keys of old artifacts stay


def test_inspect_tells_of_leaks_repeats_and_poor_rows_before_a_run(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poor = {"prompt": "Draw a cat.", "completion": "As an AI language model, I cannot draw.", "license": "mit"}
    with open(folder / "first.jsonl", "a") as file:
        file.write(json.dumps(poor) + "\n")
    assert curate("inspect", "--rows", "0") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "duplicates: 1, such as second.jsonl:1 of first.jsonl:1" in said
    assert "near-duplicates: 1, such as second.jsonl:2 of first.jsonl:26" in said
    assert "leaks of evaluation likelihood: 1 of its 3 items are dirty, such as first.jsonl:25 covers 100% of test.jsonl:1" in said
    assert "refusal" in said and "first.jsonl:27" in said
    assert "licence mit: first 1" in said and "licence unknown: first 26, second 2" in said
