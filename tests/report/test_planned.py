"""A plan beside the run that it foretold: only what was missing counts, each artifact once."""

import io

from rich.console import Console

from curate.pipelines.plan_table import print_plan
from curate.report.planned import Plan, Planned, predicted_against_actual
from curate.report.results import Stage

STAGES = [
    Stage(stage="features", label="hidden (pool)", key="f1", seconds=8.0),
    Stage(stage="selection", label="rr 5% seed 0", key="s1", seconds=3.0),
    Stage(stage="selection", label="rr 5% seed 1", key="s1", seconds=3.0, cached=True),  # an arm whose seeds share a selection
    Stage(stage="train", label="rr 5% seed 0", key="t1", seconds=20.0),
    Stage(stage="train", label="rr 5% seed 1", key="t2", seconds=22.0),
    Stage(stage="evaluate", label="rr 5% seed 0", key="e1", seconds=1.0),
    Stage(stage="evaluate", label="rr 5% seed 0", key="e2", seconds=2.0),
]
LABELS = ["rr 5% seed 0", "rr 5% seed 1"]
PLANNED = [
    Planned(stage="features", what="hidden (pool)", labels=["hidden (pool)"], count=1, seconds=4.0, low=3.0, high=5.0, memory=2**30, disk=2**20),
    Planned(stage="selection", what="rr", labels=LABELS, count=1, seconds=3.0, low=1.0, high=6.0, rough=True),
    Planned(stage="train", what="2 models at 5%", labels=LABELS, count=2, found=["t1"], seconds=20.0, low=15.0, high=25.0, at_once=2),
    Planned(stage="evaluate", what="2 models", labels=LABELS, count=4, seconds=6.0, low=2.0, high=7.0),
    Planned(stage="selection", what="judge", labels=["judge 5% seed 0"], count=1, unknown="it asks a language model for every row"),
    Planned(stage="examples", what="pool", labels=["pool"], count=1, found=["p"]),
]


def plan(price: float | None = None) -> Plan:
    return Plan(recipe="small", version="0", digest="", device="cpu", workers=2, price=price, planned=PLANNED, sentences=["rr pays"], warnings=["disk"])


def test_every_forecast_is_held_against_the_artifacts_that_were_missing() -> None:
    found = {(line.stage, line.what): line for line in predicted_against_actual(PLANNED, STAGES)}
    assert {name: line.actual for name, line in found.items()} == {
        ("features", "hidden (pool)"): 8.0,
        ("selection", "rr"): 3.0,
        ("train", "2 models at 5%"): 22.0,
        ("evaluate", "2 models"): 3.0,
    }
    assert found["features", "hidden (pool)"].ratio == 2.0
    assert not found["features", "hidden (pool)"].within and found["train", "2 models at 5%"].within


def test_what_was_there_and_what_the_run_did_not_reach_is_not_compared() -> None:
    assert predicted_against_actual(PLANNED, STAGES[:1]) == predicted_against_actual(PLANNED[:1], STAGES)
    assert predicted_against_actual(PLANNED[-2:], STAGES) == []


def test_a_second_is_paid_once_however_many_processes_share_it() -> None:
    assert plan().elapsed == 4.0 + 3.0 + 10.0 + 6.0
    assert plan(price=3600.0).money(10.0) == 10.0 and plan().money(10.0) is None


def test_the_table_says_what_is_cached_what_is_rough_and_what_is_unknown() -> None:
    out = io.StringIO()
    print_plan(plan(price=3600.0), Console(file=out, width=160))
    text = out.getvalue()
    rows = {" ".join(line.split()[:2]): line.split() for line in text.splitlines() if len(line.split()) > 2}
    assert rows["prepare pool"] == ["prepare", "pool", "yes"]
    assert rows["train 2"] == ["train", *"2 models at 5%".split(), *"1 of 2".split(), "10.0", "s", "12.5", "s", "0.0", "KiB", "0.0", "KiB", "10.00"]
    assert rows["select rr"][3:6] == ["~", "3.0", "s"] and rows["select judge"] == ["select", "judge", "no", "unknown"]
    assert rows["score hidden"][-5:] == ["1.0", "GiB", "1.0", "MiB", "4.00"]
    assert rows["total >"][:5] == ["total", ">", "23.0", "s", "30.5"]
    assert "rr pays" in text and "warning: disk" in text


def test_a_run_that_is_finished_is_said_to_be() -> None:
    out = io.StringIO()
    done = [line.model_copy(update={"found": ["a"] * line.count}) for line in PLANNED]
    print_plan(plan().model_copy(update={"planned": done}), Console(file=out, width=160))
    assert "everything is there" in out.getvalue() and ">" not in out.getvalue()


def test_a_plan_survives_its_file() -> None:
    assert Plan.model_validate_json(plan(price=2.5).model_dump_json()) == plan(price=2.5)
