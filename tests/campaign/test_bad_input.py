"""The driver of bad input: a case passes only by its code and its words, in time and memory, and damage that nobody names is a failure."""

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from campaign import bad_input, mutations
from campaign.catalogue import Case, Shown, Skipped
from campaign.catalogue_config import RECIPE, cases, with_model
from campaign.confined import MIB, Limits, confined
from campaign.drawing import rng_of

WRONG = with_model(RECIPE).replace("scores: surprise, selector", "scores: surprise, selctor")
SAID = "arms.hard.selctor is not a field; did you mean selector?"


def case(**fields: Any) -> Case:
    return Case(**{"id": "C01", "recipe": WRONG, "arguments": ("validate", "bad.yaml"), "code": 2, "said": (SAID,), "lines": 2, "light": True} | fields)


def test_a_case_that_is_answered_as_it_should_be_passes() -> None:
    verdict = bad_input.tried(case(light=False))  # the tests have imported torch
    assert verdict.wrong == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"code": 3}, "it exits with 2, not 3"),
        ({"said": ("did you mean bandit?",)}, "it does not say 'did you mean bandit?'"),
        ({"lines": 1}, "it says 2 lines, not 1"),
        ({"look": lambda place: ["no"] if (place / "bad.yaml").is_file() else []}, "no"),
        ({"again": (("validate", "bad.yaml"),)}, "validate bad.yaml before it exits with 2"),
        ({"patches": {"curate.cli_options.recipe_file": lambda: 1 / 0}}, "it did not come back"),
    ],
    ids=["code", "words", "lines", "look", "before", "crash"],
)
def test_what_is_not_as_planned_is_named(fields: dict[str, Any], wrong: str) -> None:
    assert any(wrong in line for line in bad_input.tried(case(light=False, **fields)).wrong)


def test_a_light_case_must_not_import_torch() -> None:
    import torch

    assert torch.__version__ and "it imports torch" in bad_input.tried(case()).wrong  # it is imported here already


def test_a_child_that_hangs_or_takes_memory_is_ended(tmp_path: Path) -> None:
    asleep = confined(lambda: time.sleep(60), tmp_path, Limits(clock=0.5))
    assert asleep.hung and asleep.returned == {}
    hungry = confined(lambda: {"n": len(bytearray(512 * MIB))}, tmp_path, Limits(memory=256 * MIB))
    assert hungry.code == 1 and "MemoryError" in hungry.error
    fed = confined(lambda: {"n": sum(np.ones(8 * MIB))}, tmp_path, Limits())
    assert fed.returned == {"n": 8 * MIB} and 60 * MIB < fed.memory < 200 * MIB


def test_skips_and_tests_are_not_counted_as_passed() -> None:
    found = bad_input.settled([Skipped("X01", "no card"), Shown("X02", "tests/test_nothing.py::test_it")], tests=False, say=lambda line: None)
    counted = bad_input.counts(found, 1.0)
    assert (counted["planned"], counted["skipped"], counted["passed"]) == (2, 2, 0) and counted["skips"]["X01"] == "no card"


def test_a_test_that_is_not_there_fails_its_case() -> None:
    assert "did not run" in bad_input._of_test("tests/a.py::test_it", {}, "")[0]
    assert bad_input._of_test("tests/a.py::test_it", {"tests/a.py::test_it": ""}, "") == []
    assert bad_input._of_test("tests/a.py::test_it[x]", {"tests/a.py::test_it": "no"}, "") == ["tests/a.py::test_it[x] fails or was skipped: no"]


def test_what_a_test_says_that_fails_or_was_skipped_is_told() -> None:
    case = '<testcase classname="tests.test_a" name="{}">{}</testcase>'
    parts = [case.format("one[x]", ""), case.format("one[y]", '<failure message="assert 1&#10; == 2"/>'), case.format("two", "<system-out/>")]
    report = ElementTree.fromstring(f"<testsuite>{''.join(parts)}{case.format('three', '<skipped/>')}</testsuite>")
    told = {"tests/test_a.py::one": "assert 1 == 2", "tests/test_a.py::two": "", "tests/test_a.py::three": "skipped"}
    assert dict(bad_input._outcomes(report)) == told


def test_the_catalogue_names_every_case_once_and_every_part() -> None:
    names = [one.id for one in bad_input.catalogue(bad_input.PARTS)]
    assert len(names) == len(set(names)) and {name[0] for name in names} >= set("CDMN") and len(cases()) > 80


def test_damage_always_changes_the_bytes_and_is_drawn_by_seed_and_number() -> None:
    for raw in (b"", b"a", b"abc" * 100):
        drawn = [mutations.damaged(raw, [b"other"], rng_of(1, number)) for number in range(40)]
        assert raw not in drawn and drawn == [mutations.damaged(raw, [b"other"], rng_of(1, number)) for number in range(40)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> mutations.Experiment:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutations, "DATA", ("pool.jsonl", "pool.jsonl.gz"))
        patch.setattr("curate.pipelines.prepare.check_template", lambda tokenizer: None)
        place = tmp_path_factory.mktemp("experiment") / "whole"
        place.mkdir()
        return mutations.finished(place)


def judged(experiment: mutations.Experiment, kind: str, name: str, change: Callable[[bytes], bytes], place: Path) -> list[str]:
    mutations._copied(experiment.place, place, kind)
    raw = (place / name).read_bytes()
    os.unlink(place / name)
    (place / name).write_bytes(change(raw))
    return mutations._judged(experiment, kind, Path(name), place)


def test_damage_that_curate_names_passes(experiment: mutations.Experiment, tmp_path: Path) -> None:
    store = next((experiment.place / "store").glob("selection-*/*.parquet")).relative_to(experiment.place)
    for number, (kind, name) in enumerate([("data", "pool.jsonl.gz"), ("data", "pool.jsonl"), ("store", str(store))]):
        (tmp_path / str(number)).mkdir()
        assert judged(experiment, kind, name, lambda raw: raw[: len(raw) // 2], tmp_path / str(number)) == []


def test_rows_that_are_lost_or_changed_without_a_word_are_failures(experiment: mutations.Experiment, tmp_path: Path) -> None:
    told = {"code": 0, "rows": {"row-00": "x"}, "aside": [], "key": "other", "rows_in": 24}
    (tmp_path / "pool.jsonl").write_text("{}\n" * 24)
    assert mutations._rows(experiment, "pool.jsonl", tmp_path, told) == ["24 records make 24 rows, 1 used and 0 set aside"]
    assert mutations._rows(experiment, "pool.jsonl.gz", tmp_path, told) == ["a file with checksums was read with other rows"]
    same = {**told, "rows": experiment.rows["pool.jsonl"], "key": experiment.keys["pool.jsonl"]}
    assert mutations._rows(experiment, "pool.jsonl", tmp_path, same) == ["other bytes have the key of the whole file"]


def test_damage_that_verify_passes_over_is_a_failure(experiment: mutations.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = mutations.curate
    monkeypatch.setattr(mutations, "curate", lambda *arguments: 0 if arguments[0] == "verify" else ours(*arguments))
    name = str(next((experiment.place / "store").glob("selection-*/*.parquet")).relative_to(experiment.place))
    assert judged(experiment, "store", name, lambda raw: raw[:-9] + b"x" + raw[-8:], tmp_path) == ["verify does not find it"]


def test_records_are_counted_in_what_a_file_is_whatever_its_name(tmp_path: Path) -> None:
    lines = b'{"a": 1}\n\n{"a": 2}\n'
    for raw, count in ((lines, 2), (gzip.compress(lines), 2), (b"PAR1" + lines, None), (b"ARROW1" + lines, None)):
        (tmp_path / "pool.jsonl").write_bytes(raw)
        assert mutations._records(tmp_path / "pool.jsonl") == count
