"""Data that cannot be used, through the command line: the file, the line or the column, the reason, and what to do, in one sentence."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPE = """name: bad
pool: {POOL}
target: {rare: {TARGET}}
model: {path: MODEL, max_length: 128}
budgets: [4]
evaluate: {task: likelihood, data: {TEST}}
"""
ROWS = [{"prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}."} for i in range(30)]
Prepare = Callable[..., tuple[int, str]]


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


@pytest.fixture
def prepare(
    command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path
) -> Prepare:
    """Read this pool as a run would; the exit code and what was said on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(content: bytes | None, *overrides: str, name: str = "pool.jsonl", pool: str = "", command: str = "run", **sources: str) -> tuple[int, str]:
        if content is not None:
            Path(name).write_bytes(content)
        places = {"POOL": pool or f"path: {name}", "TARGET": "synthetic: target, rows: 8", "TEST": "synthetic: test, rows: 8", "MODEL": str(tiny)} | sources
        text = RECIPE
        for place, value in places.items():
            text = text.replace(place, value)
        Path("bad.yaml").write_text(text)
        options = ["--until", "prepare", "--quiet"] if command == "run" else []
        code = command_line(command, "bad.yaml", *overrides, *options)
        said = capsys.readouterr()
        assert "Traceback" not in said.err and (command != "run" or code == 0 or said.out == "")
        return code, said.err

    return run


# id, the pool's bytes, the pool's source beside its path, and what is said
UNUSABLE: list[tuple[str, bytes, str, str]] = [
    ("D01-empty", b"", "", "pool.jsonl: it has no rows; check the path and the filter"),
    ("D01-filtered", lines(*ROWS), "where: {prompt: x}", "pool.jsonl: no row is left of 30 (prompt: 'x' matches 0); check the path and the filter"),
    ("D01-aside", lines(*[{"prompt": "a", "completion": ""}] * 5), "", "100.0% of 5 rows were set aside (empty_text 5; for example pool.jsonl:"),
    ("D02-columns", lines({"foo": 1, "bar": 2}), "", "the columns ('foo', 'bar') are not those of any known format; known are messages"),
    ("D02-ambiguous", lines({**ROWS[0], "instruction": "c", "output": "d"}), "",
     "can be read as prompt_completion (prompt -> completion); as alpaca (instruction -> output). Choose with format: prompt_completion or format: alpaca"),
    ("D02-format", lines(*ROWS), "format: alpaca", "are not those of format alpaca; known are alpaca (instruction+output or instruction+response), or"),
    ("D02-id", lines(*ROWS), "id: uid", "pool.jsonl: id: there is no column 'uid'; the columns are 'prompt', 'completion'"),
    ("D02-where", lines(*ROWS), "where: {kind: a}", "pool.jsonl: where: there is no column 'kind'; the columns are 'prompt', 'completion'"),
    ("D02-template", lines(*ROWS), "prompt: '{q}', completion: '{a}'", "prompt or completion: there is no column 'q'; the columns are 'prompt', 'completion'"),
    ("D02-nested", lines({"prompt": {"a": 1}, "completion": "x"}), "", "column 'prompt' of prompt_completion (prompt -> completion) holds dict, not text; "),
    ("D05", lines({**ROWS[0], "id": "a"}, {**ROWS[1], "id": "b"}, {**ROWS[2], "id": "a"}), "id: id",
     "id 'a' is that of pool.jsonl:1 and of pool.jsonl:3; make the id column unique, or leave out id"),
    ("D05-no-id", lines({**ROWS[0], "id": None}), "id: id", "pool.jsonl:1: None in column 'id' is no id; ids are 1 to 256 printable characters"),
    ("D14-json", lines(*ROWS[:4], b'{"prompt": "a" "b"}', *ROWS), "",
     "pool.jsonl:5: bad_json (Expecting ',' delimiter at character 16); mend the line, or set hygiene.on_bad_row: quarantine to leave it out"),
    ("D14-nan", lines(*ROWS, b'{"prompt": NaN}'), "", "pool.jsonl:31: bad_json (NaN is not JSON)"),
    ("D14-twice", lines(*ROWS, b'{"prompt": "a", "prompt": "b"}'), "", "pool.jsonl:31: bad_json (a key appears twice in one object)"),
    ("D14-deep", lines(*ROWS, b"[" * 100_000), "", "pool.jsonl:31: bad_json (values are nested too deep)"),
    ("D14-digits", lines(*ROWS, b'{"prompt": ' + b"9" * 5000 + b"}"), "", "pool.jsonl:31: bad_json (a number has too many digits)"),
    ("D14-list", lines(*ROWS, b"[1]"), "", "pool.jsonl:31: bad_json (a JSON object was expected, not list)"),
    ("D02-split", lines(*ROWS), "split: train", "pool.jsonl: split 'train' needs a Hub dataset or a saved DatasetDict; use where, limit or sample for files"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "fields", "said"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_a_pool_that_cannot_be_used_is_refused_with_its_place(prepare: Prepare, content: bytes, fields: str, said: str) -> None:
    code, message = prepare(content, pool=f"path: pool.jsonl, {fields}" if fields else "")
    assert (code, message.count("\n")) == (3, 1) and message.startswith("error: ") and said in message


# id, the one bad row of 31, its reason, and what its detail says
ASIDE = [
    ("D03", {"prompt": " ", "completion": "x"}, "empty_text", "a turn of the user is blank"),
    ("D03-null", {"prompt": None, "completion": "x"}, "empty_text", "column 'prompt' is null or absent"),
    ("D04", {"prompt": "word " * 200, "completion": "x"}, "too_long", "tokens, at most 128"),
    ("D07-surrogate", {"prompt": "\ud800", "completion": "x"}, "bad_unicode", r"character 0 is '\ud800'"),
    ("D07-bytes", b'{"prompt": "\xff", "completion": "x"}', "bad_unicode", r"character 0 is '\udcff'"),
    ("D07-nul", {"prompt": "a\x00", "completion": "x"}, "bad_unicode", r"character 1 is '\x00'"),
    ("D09", {"prompt": "a" * 2**21, "completion": "x"}, "too_large", "bytes, at most 1048576 are read"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), [case[1:] for case in ASIDE], ids=[case[0] for case in ASIDE])
def test_above_the_limit_of_rows_set_aside_the_run_stops_with_reason_place_and_remedy(prepare: Prepare, row: Any, reason: str, detail: str) -> None:
    code, message = prepare(lines(*ROWS, row))
    assert (code, message.count("\n")) == (3, 1)
    assert f"pool: 3.2% of 31 rows were set aside ({reason} 1; for example pool.jsonl:31: {reason}, " in message and detail in message
    remedy = "raise model.max_length (now 128)" if reason == "too_long" else "mend them"
    assert f"the limit is 1%: {remedy} or raise hygiene.quarantine_limit" in message
    assert prepare(None, "hygiene.quarantine_limit=5%")[0] == 0


def test_d14_a_bad_line_can_be_set_aside_within_the_limit(prepare: Prepare) -> None:
    code, message = prepare(lines(*ROWS, b"{"), "hygiene.on_bad_row=quarantine")
    assert code == 3 and "bad_json 1; for example pool.jsonl:31: bad_json" in message
    assert prepare(None, "hygiene.on_bad_row=quarantine", "hygiene.quarantine_limit=5%")[0] == 0


def test_d19_turns_that_cannot_be_trained_on_are_set_aside_by_their_roles(prepare: Prepare) -> None:
    user, tool = {"role": "user", "content": "a"}, {"role": "tool", "content": "b"}
    code, message = prepare(lines(*({"messages": turns} for turns in ([user], [user, user], [tool]))))
    assert code == 3 and "bad_roles 3" in message and "wanted: an optional system turn, then user and assistant in turn" in message
    assert "no row is left: mend the data" in message


PACKED = gzip.compress(lines(*ROWS))
FILES = [
    ("D02-kind", "pool.xlsx", b"x", "this kind of file is not read; the kinds are .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow"),
    ("D12-footer", "pool.parquet", b"PAR1" + b"x" * 50, "pool.parquet: cannot be read (ArrowInvalid: 'Parquet magic bytes not found"),
    ("D12-short", "pool.parquet", b"PAR1", "pool.parquet: cannot be read (ArrowInvalid: 'Parquet file size is 4 bytes"),
    ("D15-truncated", "pool.jsonl.gz", PACKED[:-20], "pool.jsonl.gz: cannot be read (OSError: 'Truncated compressed stream'); the file is damaged or not of"),
    ("D02-csv-header", "pool.csv", b"a,a\n1,2\n", "pool.csv:1: the first line must name each column once; it is 'a', 'a'"),
    ("D02-csv-quote", "pool.csv", b'prompt,completion\n"a,b\n', "pool.csv:2: is not CSV (unexpected end of data); quote values that hold"),
    ("D02-csv-values", "pool.csv", b"prompt,completion\na,b\nc\n", "pool.csv:3: bad_csv (1 values for 2 columns); mend the line, or set hygiene.on_bad_row"),
]


@pytest.mark.parametrize(("name", "content", "said"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_cannot_be_read_is_named(prepare: Prepare, name: str, content: bytes, said: str) -> None:
    code, message = prepare(content, name=name)
    assert (code, message.count("\n")) == (3, 1) and said in message


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.jsonl.gz"])
def test_d15_compression_is_told_by_the_content_and_not_by_the_suffix(prepare: Prepare, name: str) -> None:
    assert [prepare(content, name=name)[0] for content in (lines(*ROWS), PACKED)] == [0, 0]


@pytest.mark.parametrize("role", ["POOL", "TARGET", "TEST"])
@pytest.mark.parametrize("place", ["rows.jsonl", "none*.jsonl", "pool.jsonl/rows.jsonl"])
def test_c15_a_missing_file_is_named_in_full_with_what_is_near(prepare: Prepare, tmp_path: Path, role: str, place: str) -> None:
    code, message = prepare(lines(*ROWS), **{role: f"path: '{place}'"})
    assert (code, message.count("\n")) == (3, 1)
    assert f"error: {place}: no data file matches {tmp_path / place}; {tmp_path} holds 'bad.yaml', 'pool.jsonl'" in message


def test_d12_what_is_no_regular_file_is_refused_and_not_waited_for(prepare: Prepare) -> None:
    import os

    os.mkfifo("pipe.jsonl")
    code, message = prepare(None, name="pipe.jsonl")
    assert code == 3 and "pipe.jsonl is no regular file, so it cannot be read twice; copy it to one" in message


def test_d18_files_that_disagree_are_not_one_source(prepare: Prepare) -> None:
    Path("pool2.jsonl").write_bytes(lines({"question": "a", "answer": "b"}))
    code, message = prepare(lines(*ROWS), pool="path: 'pool*.jsonl'")
    assert (code, message.count("\n")) == (3, 1)
    assert "pool2.jsonl: reads as question_answer (question -> answer), but pool.jsonl as prompt_completion (prompt -> completion); make them" in message


@pytest.mark.parametrize("revision", ["", ", revision: " + "a" * 40], ids=["main", "commit"])
def test_a_hub_dataset_that_is_out_of_reach_is_one_line(prepare: Prepare, revision: str) -> None:
    code, message = prepare(None, pool=f"hub: org/name{revision}")
    assert (code, message.count("\n")) == (3, 1) and "hub dataset org/name: " in message
    assert ("check the name, the revision and the network" if revision else "go online or give revision: COMMIT") in message


def test_d16_files_that_change_while_they_are_read_are_an_integrity_error(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    import curate.pipelines.prepare as stage

    read = stage.load

    def meddled(*arguments: Any, **options: Any) -> Any:
        yield from read(*arguments, **options)
        with open("pool.jsonl", "ab") as file:
            file.write(lines(ROWS[0]))

    monkeypatch.setattr(stage, "load", meddled)
    code, message = prepare(lines(*ROWS))
    assert (code, message.count("\n")) == (8, 1) and "pool: the files changed while they were read; leave them alone and run the same command again" in message


def test_d21_the_rows_that_were_selected_for_cannot_be_evaluated_on(prepare: Prepare) -> None:
    code, message = prepare(lines(*ROWS), TEST="synthetic: target, rows: 8")
    assert (code, message.count("\n")) == (3, 1)
    assert "evaluation likelihood: fewer than two of its 8 items are not target rows; evaluate on other data than the target" in message


def test_d21_evaluation_items_that_are_in_the_pool_are_reported(prepare: Prepare) -> None:
    assert prepare(lines(*ROWS), TEST="path: pool.jsonl")[0] == 0
    assert "are also in the pool, word for word: scores on them measure memory" in Path("runs/bad/report.md").read_text()


@pytest.mark.parametrize(("shots", "said"), [(9, "evaluate.shots is 9, but the target has 8 rows; lower it"), (8, "use fewer shots, raise model.max_length")])
def test_shots_that_do_not_fit_are_found_before_anything_is_scored(prepare: Prepare, shots: int, said: str) -> None:
    code, message = prepare(lines(*ROWS), f"evaluate.shots={shots}")
    assert (code, message.count("\n")) == (3, 1) and said in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([b"{"], "pool: a run stops at pool.jsonl:31 (bad_json); mend the line, or set hygiene.on_bad_row: quarantine to leave it out"),
        ([{"prompt": "a", "completion": " "}], "pool: 1 of 31 rows are set aside (such as pool.jsonl:31 empty_text); the limit is 1%: mend them or raise"),
    ],
    ids=["bad-line", "aside"],
)
def test_inspect_fails_where_a_run_would(prepare: Prepare, rows: list[Any], said: str) -> None:
    assert prepare(lines(*ROWS), command="inspect")[0] == 0
    code, message = prepare(lines(*ROWS, *rows), command="inspect")
    assert (code, message.count("\n")) == (3, 1) and said in message
