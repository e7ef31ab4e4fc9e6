"""The drivers of clusters: what did not land is no success, other bytes are seen, and where a machine has no SLURM, namespaces or sshd that is said."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from campaign import namespaces, slurm_one_node, ssh_loopback
from campaign.elsewhere import Report, artifacts, curate, differing, found, left_over, workers_of, write_profile, write_recipe
from curate.clusters.profile import read_profile


def test_a_check_that_did_not_land_or_failed_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("driver", 2)
    report.check("one", True)
    assert report.finish(None) == 1 and "2 planned, 1 landed, 1 not landed, 1 passed, 0 failed" in capsys.readouterr().out
    report.check("two", False, "why")
    assert report.finish(tmp_path / "r.json") == 1 and json.loads((tmp_path / "r.json").read_text())["failures"] == ["two"]
    whole = Report("driver", 1)
    whole.check("one", True)
    assert whole.finish(None) == 0


def test_a_store_with_other_fewer_or_no_files_is_seen(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name / "store" / "scores-1").mkdir(parents=True)
        (tmp_path / name / "store" / "scores-1" / "part").write_text(text)
    ours = artifacts(tmp_path / "a")
    assert differing(ours, artifacts(tmp_path / "b")) == []
    assert differing(ours, artifacts(tmp_path / "c")) == ["scores-1/part"]
    (tmp_path / "b" / "store" / "more").write_text("")
    assert differing(ours, artifacts(tmp_path / "b")) == ["more"]
    assert differing({}, {}) != []


def test_keys_and_sentinels_that_stay_are_seen_and_so_is_who_worked(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "small"
    (run / ".tls-00").mkdir(parents=True)
    (run / "logs").mkdir()
    lines = [{"worker": "tls://a:1", "ended": "done"}, {"worker": "tls://b:1", "ended": "worker died"}]
    (run / "logs" / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert left_over(tmp_path) == ["runs/small/.tls-00"] and workers_of(tmp_path) == {"tls://a:1"}


def test_profiles_that_drivers_write_are_read_as_they_were_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_profile(write_profile(tmp_path, "p", kind="slurm", walltime="01:00:00")).model_dump()["walltime"] == "01:00:00"


def test_a_command_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    write_recipe(tmp_path, 0, 20)
    ended = curate(tmp_path, "--profile", "nowhere")
    assert ended.code == 2 and "there is no profile 'nowhere'" in ended.said


@pytest.mark.parametrize("main", [slurm_one_node.main, namespaces.main, ssh_loopback.main])
def test_who_is_not_root_is_told_and_nothing_fails(
    main: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    assert main([]) == 0 and capsys.readouterr().out.startswith("skipped: needs root")
    assert found("no-such-program", "sh") == ["no-such-program"]
