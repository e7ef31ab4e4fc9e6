"""One real run that everything hostile was prepared for: what it opened, said and wrote is looked at by the tests beside it."""

from pathlib import Path

import pytest

from tests.safety.hostile import Ran, watched_run


@pytest.fixture(scope="session")
def ran(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return watched_run(tiny, tmp_path_factory.mktemp("ran"), tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def templates_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a chat template starts a process; tests/data/test_preflight.py is about it."""
    monkeypatch.setattr("curate.pipelines.prepare.check_template", lambda tokenizer: None)
