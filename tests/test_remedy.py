"""The rows that kill are found, all of them and no others, by few runs."""

import itertools
import math
from pathlib import Path
from typing import cast

import pytest

from curate.cluster import InProcess
from curate.dispatch import OnDask
from curate.errors import ClusterError, DataError
from curate.remedy import Died, Remedy, culprits, remedied
from tests.fake_dask import FakeLauncher


@pytest.mark.parametrize("size", range(1, 9))
def test_exactly_the_rows_that_kill_are_found_whichever_they_are(size: int) -> None:
    for pattern in itertools.product((False, True), repeat=size):
        runs: list[tuple[int, int]] = []

        def dies(start: int, stop: int, pattern: tuple[bool, ...] = pattern, runs: list[tuple[int, int]] = runs) -> bool:
            runs.append((start, stop))
            return any(pattern[start:stop])

        if any(pattern):
            assert culprits(size, dies) == [row for row, bad in enumerate(pattern) if bad]
            assert len(runs) <= max(1, 2 * sum(pattern) * math.ceil(math.log2(size)) if size > 1 else 1)


def test_rows_that_kill_only_together_are_not_blamed() -> None:
    assert culprits(8, lambda start, stop: stop - start > 4) == []


class Pieces:
    """Tasks are words; a letter `x` kills, and `aside` letters are skipped."""

    def size(self, item: str) -> int:
        return len(item)

    def part(self, item: str, start: int, stop: int) -> str:
        return item[start:stop]

    def without(self, item: str, rows: dict[int, str]) -> str:
        return "".join(letter for number, letter in enumerate(item) if number not in rows) + repr(rows)

    def starts(self, item: str) -> None:
        return None


def _alone(function: object, item: str) -> str:
    if "x" in item:
        raise Died("killed_worker")
    return item


def test_a_task_is_done_without_the_rows_that_kill() -> None:
    assert remedied(str, "abxcx", Pieces(), _alone) == "abc{2: 'killed_worker', 4: 'killed_worker'}"  # type: ignore[arg-type]
    assert remedied(str, "abc", Pieces(), _alone) == "abc"  # type: ignore[arg-type]


class Flaky:
    """Runs of a word die as often as it says, by their order; every run of other words goes well."""

    def __init__(self, **deaths: int) -> None:
        self.left, self.runs = deaths, list[str]()

    def __call__(self, function: object, item: str) -> str:
        self.runs.append(item)
        if self.left.get(item, 0) > 0:
            self.left[item] -= 1
            raise Died("killed_worker")
        return item


def test_rows_whose_workers_are_lost_by_chance_are_not_set_aside() -> None:
    assert remedied(str, "abcd", Pieces(), Flaky(abcd=1, cd=1, d=2)) == "abcd"  # type: ignore[arg-type]
    assert remedied(str, "abcd", Pieces(), Flaky(abcd=3)) == "abcd"  # type: ignore[arg-type]
    assert remedied(str, "abcd", Pieces(), Flaky(abcd=1, cd=1, d=3)) == "abc{3: 'killed_worker'}"  # type: ignore[arg-type]


def test_rows_that_kill_together_only_are_one_sentence() -> None:
    flaky = Flaky(abcd=9)
    with pytest.raises(ClusterError, match="though no single row of it does"):
        remedied(str, "abcd", Pieces(), flaky)  # type: ignore[arg-type]
    assert flaky.runs == ["abcd", "ab", "cd", "abcd", "abcd", "abcd"]


def test_where_everything_kills_the_search_ends_early_and_no_row_is_blamed() -> None:
    runs: list[str] = []

    def everything(function: object, item: str) -> str:
        runs.append(item)
        raise Died("killed_worker")

    with pytest.raises(ClusterError, match="more than 16 rows of str end the worker.*row 239 of it"):
        remedied(str, "a" * 256, Pieces(), everything)  # type: ignore[arg-type]
    assert len(runs) < 100


def test_what_cannot_be_taken_apart_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match="kills every worker process.*killed_worker"):
        remedied(str, "x", None, _alone)


class Noted:
    """Notes of begun tasks lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def starts(self, item: str) -> Path:
        return self.folder / "word.starts"


def _shout(item: str) -> str:
    if not item:
        raise DataError("there is no word; write one")
    return item.upper()


def test_a_note_that_cannot_be_removed_neither_fails_a_task_nor_hides_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    remedy = cast("Remedy", Noted(tmp_path))
    assert list(InProcess().map(_shout, ["word"], remedy=remedy)) == ["WORD"]
    with pytest.raises(DataError, match="there is no word"):
        list(InProcess().map(_shout, [""], remedy=remedy))
    on_workers = OnDask(FakeLauncher(1, lambda client, future: future.end("finished")), folder=tmp_path)
    assert list(on_workers.map(_shout, ["word", "other"], remedy=remedy)) == ["WORD", "OTHER"]
