"""Data that cannot be used, through the command line: the file, the line or the column, the reason, and what to do, in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import catalogue_data
from campaign.catalogue import Case, tried_here
from campaign.catalogue_data import BIG, PACKED, RECIPE, ROWS, lines

Prepare = Callable[..., tuple[int, str]]


@pytest.fixture
def prepare(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path) -> Prepare:
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


CASES = [case for case in catalogue_data.cases() if isinstance(case, Case) and case.id not in {big[0] for big in BIG}]  # those take seconds each


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_pool_that_cannot_be_used_is_refused_with_its_place_and_rows_are_set_aside_with_a_reason(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tried_here(case, tmp_path, capsys.readouterr) == []


def test_d14_a_bad_line_can_be_set_aside_within_the_limit(prepare: Prepare) -> None:
    code, message = prepare(lines(*ROWS, b"{"), "hygiene.on_bad_row=quarantine")
    assert code == 3 and "bad_json 1; for example pool.jsonl:31: bad_json" in message
    assert prepare(None, "hygiene.on_bad_row=quarantine", "hygiene.quarantine_limit=5%")[0] == 0


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.jsonl.gz"])
def test_d15_compression_is_told_by_the_content_and_not_by_the_suffix(prepare: Prepare, name: str) -> None:
    assert [prepare(content, name=name)[0] for content in (lines(*ROWS), PACKED)] == [0, 0]


@pytest.mark.parametrize("revision", ["", ", revision: " + "a" * 40], ids=["main", "commit"])
def test_a_hub_dataset_that_is_out_of_reach_is_one_line(prepare: Prepare, revision: str) -> None:
    code, message = prepare(None, pool=f"hub: org/name{revision}")
    assert (code, message.count("\n")) == (3, 1) and "hub dataset org/name: " in message
    assert ("check the name, the revision and the network" if revision else "go online or give revision: COMMIT") in message


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
