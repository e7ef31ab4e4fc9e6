"""What a process remembers of the artifacts that it compared does not grow with its age."""

from pathlib import Path

import pytest

from curate import intact
from curate.core import Artifact
from curate.intact import SetAside, require_whole
from curate.store import Store, Workspace


def stored(root: Path, count: int) -> list[Artifact]:
    """So many artifacts of one file each."""

    def make(workspace: Workspace) -> dict[str, int]:
        workspace.commit("rows", b"rows", {})
        return {"rows": 1}

    return [Store(root).build("features", make, fields={"number": number}) for number in range(count)]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose bytes are compared, in turn; three are remembered."""
    seen: list[Path] = []
    differences = intact.differences

    def counting(path: Path, *given: object, **options: object) -> list[str]:
        seen.append(path)
        return differences(path, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(intact, "differences", counting)
    monkeypatch.setattr(intact, "_whole", {})
    monkeypatch.setattr(intact, "_MOST_WHOLE", 3)
    return seen


def test_an_artifact_in_use_is_compared_once_however_many_come_and_go(tmp_path: Path, compared: list[Path]) -> None:
    used, *others = stored(tmp_path, 8)
    compared.clear()
    for other in others:
        require_whole(used)
        require_whole(other)
    assert compared.count(used.path) == 1 and len(compared) == 8
    assert len(intact._whole) == 3


def test_one_that_was_forgotten_is_compared_again(tmp_path: Path, compared: list[Path]) -> None:
    first, *others = stored(tmp_path, 4)
    for artifact in (first, *others):
        require_whole(artifact)
    (first.path / "rows").write_bytes(b"lost")
    with pytest.raises(SetAside, match="rows differs from its recorded hash"):
        require_whole(first)
