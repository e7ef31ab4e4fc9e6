"""A soak of quiet rounds passes, and whatever leaks or ends with other bytes is caught."""

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from campaign import soak
from campaign.soak import Place, Sample, growing, slope_per_hour, soaked

KEPT: list[Any] = []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.temporary.mkdir()
    found.old.mkdir()
    return found


OVER = threading.Event()


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What leaked is let go of after each test; nothing here makes cycles to collect, and collecting takes long beside heavy libraries."""
    monkeypatch.setattr("campaign.soak.gc.collect", lambda: 0)
    OVER.clear()
    yield
    OVER.set()
    KEPT.clear()


def quiet(drawn: random.Random) -> list[str]:
    return []


def run(place: Place, leak: Callable[[Place], Any]) -> list[str]:
    def leaking(drawn: random.Random) -> list[str]:
        KEPT.append(leak(place))
        return []

    found = soaked(place, {"leaking": leaking}, 0, 0, lambda line: None)
    failures: list[str] = found["failures"]
    return failures


def test_quiet_rounds_pass_and_are_all_counted(place: Place) -> None:
    found = soaked(place, {"one": quiet, "two": quiet}, 0.1, 1, lambda line: None)
    assert found["failures"] == [] and found["rounds"] == sum(found["played"].values()) == len(found["samples"]) >= 2 * soak.WARM


LEAKS: dict[str, tuple[Callable[[Place], Any], str]] = {
    "memory": (lambda place: bytearray(b"1" * 2**22), "memory grows"),
    "descriptors": (lambda place: open(place.scratch.parent / "open", "w"), "files open grow"),  # noqa: SIM115
    "threads": (lambda place: threading.Thread(target=OVER.wait, daemon=True).start(), "threads grow"),
    "temporary files": (lambda place: Path(tempfile.mkstemp(dir=place.temporary)[1]), "temporaries grow"),
    "the store": (lambda place: (place.old / str(len(KEPT))).write_text("x"), "store files grow"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_what_leaks_a_little_in_every_round_is_caught(place: Place, leak: str) -> None:
    act, said = LEAKS[leak]
    assert any(said in line for line in run(place, act)), leak


def test_a_round_that_ends_with_other_bytes_is_a_failure_and_says_which(place: Place) -> None:
    found = soaked(place, {"one": quiet, "bad": lambda drawn: ["weights has other bytes"]}, 0, 0, lambda line: None)
    assert found["failures"] and all("bad: weights has other bytes" in line for line in found["failures"])


def samples(memory: Callable[[int], float]) -> list[Sample]:
    return [Sample(number, "x", 60.0 * number, memory(number), 10, 1, 0, 5, 100) for number in range(60)]


def test_the_slope_is_that_of_a_straight_line_and_noise_alone_is_no_growth() -> None:
    assert slope_per_hour(samples(lambda number: 100 + number / 60)) == pytest.approx((1 / (100 + 59 / 120), 0), abs=1e-9)
    noise = random.Random(0)
    assert growing(samples(lambda number: 100 + noise.gauss(0, 3))) == []
    assert any("memory grows" in line for line in growing(samples(lambda number: 100 + number / 20 + noise.gauss(0, 0.1))))


@pytest.mark.campaign
def test_the_program_soaks_the_real_experiment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "WARM", 2)
    assert soak.main(["--minutes", "0.1", "--folder", str(tmp_path), "--rows", "120"]) == 0
