"""What the arms need of a feature decides what is computed: exact similarities, vectors of a settled width, or text without a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.features import map_tensors
from curate.storage import stored_rows

RECIPE = """
name: features
pool: {{synthetic: pool, rows: 120, group: kind}}
target: {{rare: {{synthetic: target, rows: 8, group: kind}}}}
model: {{path: {model}, max_length: 96}}
warmup: {{fraction: 20%, epochs: 2, learning_rate: 1.0e-3, lora: {{r: 2, alpha: 4, targets: attention}}}}
features: {{f: {feature}}}
arms: {{a: {arm}}}
budgets: [10]
seeds: [0]
baselines: [random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""
ROUND_ROBIN = "{vectors: f, selector: round_robin}"
FACILITY = "{vectors: f, selector: facility_location}"

Run = Callable[..., int]


@pytest.fixture
def run(command_line: Callable[..., int], tiny: Path, tmp_path: Path) -> Run:
    torch.set_num_threads(1)

    def go(feature: str, arm: str, until: str = "select") -> int:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE.format(model=tiny, feature=feature, arm=arm))
        where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1]
        return command_line("run", recipe, *where, "--until", until)

    return go


def manifests(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((folder / "store").glob(f"{stage}-*/manifest.json"))]


def results(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "runs" / "features" / "results.json").read_bytes())
    return document


def test_an_arm_that_only_compares_with_the_target_gets_exact_similarities_and_no_vectors(run: Run, tmp_path: Path) -> None:
    assert run("less", ROUND_ROBIN) == 0
    (feature,) = manifests(tmp_path, "features")
    assert feature["fields"]["scorer"]["name"] == "exact_similarity" and feature["summary"]["width"] == 8
    assert not manifests(tmp_path, "pilot")
    assert results(tmp_path)["features"][0]["output"] == "similarity, exact"


def test_the_rows_it_takes_are_those_of_a_wide_sketch(run: Run, tmp_path: Path) -> None:
    taken = []
    for feature in ("less", "{name: less, similarity: sketch, width: 65536}"):
        assert run(feature, "{vectors: f, selector: {name: round_robin, metric: inner}}") == 0
        key = next(row["key"] for row in results(tmp_path)["selections"] if row["arm"] == "a")
        import pyarrow.parquet as pq

        taken.append(set(pq.read_table(tmp_path / "store" / key / "selection.parquet")["id"].to_pylist()))
    assert len(taken[0] & taken[1]) >= 8


def test_where_the_target_does_not_fit_vectors_are_compared_and_the_report_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.pipelines.features.EXACT_BYTES", 1000)
    assert run("{name: less, width: 64}", ROUND_ROBIN) == 0
    assert any("similarities are those of sketched vectors" in line for line in results(tmp_path)["warnings"])
    assert {feature["fields"]["scorer"]["name"] for feature in manifests(tmp_path, "features")} == {"less"}


def test_an_arm_that_needs_vectors_gets_a_width_from_a_pilot_and_the_report_says_how_faithful_it_is(run: Run, tmp_path: Path) -> None:
    assert run("{name: less, store: int8}", FACILITY) == 0
    (pilot,) = manifests(tmp_path, "pilot")
    found = json.loads(next((tmp_path / "store").glob("pilot-*/pilot.json")).read_bytes())
    assert found["width"] in {1024 * 2**power for power in range(6)}
    (pool,) = [feature for feature in manifests(tmp_path, "features") if feature["fields"]["role"] == "pool"]
    assert pool["summary"]["width"] == found["width"] == pilot["summary"]["width"]
    (row,) = results(tmp_path)["features"]
    assert row["fidelity"]["spearman"] == pytest.approx(found["spearman"]) and row["stored"] == "int8"
    assert 0 < row["storage_error"]["row_error"] < 0.1
    assert row["bytes"] < 120 * (found["width"] + 4) * 1.1
    shard = map_tensors(next((tmp_path / "store").glob(f"{pool['key']}/*.safetensors")))
    assert shard["values"].dtype == np.int8 and stored_rows(shard).shape == (120, found["width"])


def test_a_width_that_is_too_small_is_said_with_the_width_that_would_do(run: Run, tmp_path: Path) -> None:
    assert run("{name: less, width: 16}", FACILITY) == 0
    (line,) = [line for line in results(tmp_path)["warnings"] if "would do" in line]
    assert "at width 16 the sketch ranks the pilot's 120 rows" in line
    found = json.loads(next((tmp_path / "store").glob("pilot-*/pilot.json")).read_bytes())
    enough = found["width_that_would"]
    assert f"width {enough} would do" in line and enough > 1024
    assert enough > 32768 or (found["by_width"][str(enough)]["spearman"] >= 0.95 and found["by_width"][str(enough)]["overlap"] >= 0.9)


def test_words_are_scored_without_loading_the_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("curate.model.cached", refuse)
    assert run("bm25", "{similarity: f, selector: round_robin}") == 0
    assert manifests(tmp_path, "features")[0]["summary"]["width"] == 8


def test_an_arm_names_the_slot_that_its_feature_fills(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bm25", ROUND_ROBIN) == 2
    assert "scorer bm25 of 'f' yields similarity, not vectors; write similarity: f" in capsys.readouterr().err


def test_disk_is_estimated_before_and_refused_when_it_does_not_suffice(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("{name: less, width: 2048, store: float16}", FACILITY, until="score") == 0
    assert "feature f: 120 rows of 2,048 numbers in float16, 0 MiB on disk" in capsys.readouterr().err
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    assert run("{name: less, width: 1024}", FACILITY, until="score") == 7
    assert "use store: float16 or int8, a smaller width, or another --store" in capsys.readouterr().err


def test_factored_vectors_have_a_pilot_of_their_own_width(run: Run, tmp_path: Path) -> None:
    assert run("{name: less, direction: sgd, projection: factored}", FACILITY) == 0
    (row,) = results(tmp_path)["features"]
    assert 0 < row["width"] <= 2 * 8192 and -1 <= row["fidelity"]["spearman"] <= 1


def test_an_arm_that_compares_cosines_of_vectors_meant_for_inner_products_is_told(run: Run, tmp_path: Path) -> None:
    assert run("{name: trak, width: 32}", ROUND_ROBIN) == 0
    assert any("trak is the inner product of its vectors, but a compares their cosines" in line for line in results(tmp_path)["warnings"])
    assert run("{name: trak, width: 32}", "{vectors: f, selector: {name: round_robin, metric: inner}}") == 0
    assert not any("inner product" in line for line in results(tmp_path)["warnings"])


def test_every_checkpoint_of_trak_counts_on_disk(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("{name: trak, width: 64}", "{vectors: f, selector: {name: round_robin, metric: inner}}", until="score") == 0
    assert "120 rows of 128 numbers" in capsys.readouterr().err
    assert manifests(tmp_path, "features")[0]["summary"]["width"] == 128
