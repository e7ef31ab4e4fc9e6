"""The driver of security: it sees a pickle that runs, a name that is taken, a file that is written elsewhere and a machine that is called."""

import json
import pickle
from pathlib import Path

import pytest

from campaign import security, security_trainer
from campaign.catalogue_security import FORMATS, NAMES, TEMPLATES
from campaign.hostile import Ran


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    """As much of a run as `report` reads."""
    folder = tmp_path / "ran"
    (folder / "runs" / "safe").mkdir(parents=True)
    (folder / "runs" / "safe" / "results.json").write_text("{}")
    return Ran(folder, tmp_path)


def test_the_catalogue_is_as_large_as_it_says() -> None:
    assert len(set(NAMES)) >= 60 and len(set(TEMPLATES)) == 40 and len(FORMATS) == 4


@pytest.mark.parametrize("form", FORMATS)
def test_the_pickles_run_when_they_are_loaded(tmp_path: Path, form: str) -> None:
    import io

    import joblib
    import numpy as np
    import torch

    loaders = {
        "pickle": pickle.loads,
        "torch": lambda raw: torch.load(io.BytesIO(raw), weights_only=False),
        "npy": lambda raw: np.load(io.BytesIO(raw), allow_pickle=True),
        "joblib": lambda raw: joblib.load(io.BytesIO(raw)),
    }
    loaders[form](FORMATS[form](tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


def test_a_pickle_that_is_refused_passes_and_one_that_runs_does_not(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "COMMANDS", (("report", "safe"),))
    monkeypatch.setattr(security, "AGAIN", ("list",))
    assert [name for name, _ in security.pickle_trials(ran)] == [f"{form}:runs/safe/results.json" for form in FORMATS]
    assert security._planted(ran, Path("runs/safe/results.json"), "pickle") == []
    monkeypatch.setattr("curate.report.results.Results.model_validate_json", lambda raw: pickle.loads(raw))
    assert "report ran the pickle" in security._planted(ran, Path("runs/safe/results.json"), "pickle")


def test_a_template_that_shows_nothing_of_python_passes_and_one_that_does_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    escape = "{{ ''.__class__ }}"
    assert security._rendered(escape) == [] == security._rendered("{{ messages[0].content }}")
    monkeypatch.setattr("jinja2.sandbox.SandboxedEnvironment.is_safe_attribute", lambda *arguments: True)
    assert security._rendered(escape) == [escape + " renders as \"<class 'str'>\""]


@pytest.mark.campaign
def test_a_pickle_in_a_trainers_run_that_is_refused_passes_and_one_that_runs_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    trials = dict(security_trainer.trainer_trials(tmp_path))
    assert len(trials) == 1 + 4 * len(FORMATS)
    assert trials["trainer"]() == trials["torch:trainer/optimizer.pt"]() == []
    monkeypatch.setattr("curate.torch_file.read_torch", lambda path: torch.load(path, weights_only=False))
    assert trials["torch:trainer/optimizer.pt"]()[0] == "it ran the pickle"


def test_a_name_that_is_taken_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert security._named("arms", "../up") == []
    monkeypatch.setattr("curate.recipe._NAME", __import__("re").compile(r"[^\0]+"))
    assert security._named("arms", "../up") == ["it exits with 0: ''"]


def test_calls_outside_are_seen(tmp_path: Path) -> None:
    fine = [
        f'12 openat(AT_FDCWD, "{tmp_path}/store/x.tmp", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3',
        '12 openat(AT_FDCWD, "store/y", O_WRONLY|O_CREAT, 0666) = 3',
        '12 openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3',
        '12 openat(AT_FDCWD, "/etc/ld.so.cache", O_RDWR) = -1 EACCES (Permission denied)',
        '12 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0',
    ]
    assert security.traced(fine, tmp_path) == []
    bad = ['12 openat(AT_FDCWD, "../up", O_WRONLY|O_CREAT, 0666) = 3', '12 creat("/tmp/outside", 0666) = 3']
    bad += ['12 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("8.8.8.8")}, 16) = -1 EINPROGRESS']
    assert set(security.traced(bad, tmp_path)) == {"it connects to 8.8.8.8", f"it writes {tmp_path.parent}/up", "it writes /tmp/outside"}


def test_a_token_in_a_file_is_found(tmp_path: Path) -> None:
    found = Ran(tmp_path, tmp_path, said=security.CANARY.encode())
    (tmp_path / "log.jsonl").write_text(json.dumps({"x": security.CANARY}))
    verdicts = {name: act() for name, act in security.run_trials(found) if name.startswith("run-")}
    assert verdicts["run-files"] == ["log.jsonl holds the token"] and verdicts["run-said"] and verdicts["run-ends"] and verdicts["run-cluster"]
