"""What the arms need of a feature decides what is computed: exact similarities, vectors of a settled width, or text without a model."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.features import map_tensors
from curate.pipelines.state import load_state
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

    def go(feature: str, arm: str, *changes: str, until: str = "select") -> int:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE.format(model=tiny, feature=feature, arm=arm))
        where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1]
        return command_line("run", recipe, *changes, *where, "--until", until)

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
        assert run(feature, "{vectors: f, selector: round_robin}") == 0
        key = next(row["key"] for row in results(tmp_path)["selections"] if row["arm"] == "a")
        import pyarrow.parquet as pq

        taken.append(set(pq.read_table(tmp_path / "store" / key / "selection.parquet")["id"].to_pylist()))
    assert len(taken[0] & taken[1]) >= 8


def test_the_similarity_of_features_that_differ_in_their_projection_alone_is_computed_once(run: Run, tmp_path: Path) -> None:
    both = "{name: less, width: 32}, g: {name: less, width: 64, seed: 3, store: int8}"
    assert run(both, ROUND_ROBIN + ", b: {vectors: g, selector: round_robin}") == 0
    (feature,) = manifests(tmp_path, "features")
    assert len(manifests(tmp_path, "state")) == 1
    assert "width" not in feature["fields"]["scorer"]["of"] or feature["fields"]["scorer"]["of"]["width"] == "auto"
    chosen = {row["arm"]: row["key"] for row in results(tmp_path)["selections"]}
    assert chosen["a"] == chosen["b"]


def test_the_fisher_is_measured_once_for_pilot_vectors_and_similarities(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate import fisher

    fits, fit = [], fisher.fit
    monkeypatch.setattr(fisher, "fit", lambda *given: fits.append(1) or fit(*given))
    assert run("{name: influence, fisher_rows: 40}", FACILITY + ", b: {vectors: f, selector: round_robin}") == 0
    assert len(fits) == 1
    assert len(manifests(tmp_path, "pilot")) == 1 and len(manifests(tmp_path, "features")) == 3
    within, exact = sorted(manifests(tmp_path, "state"), key=lambda state: "of" in state["fields"]["scorer"])
    assert within["key"] in exact["inputs"]
    for feature in manifests(tmp_path, "features"):
        assert within["key"] in feature["inputs"]
    assert run("{name: influence, fisher_rows: 40, width: 64}", FACILITY) == 0  # another width, another pilot, the same Fisher
    assert len(fits) == 1 and len(manifests(tmp_path, "pilot")) == 2


def test_each_of_nine_checkpoints_is_read_once_by_a_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate import model, moments, tensor_file

    read = Counter[str]()

    def counting(path: Path, device: str = "cpu") -> Any:
        read[str(path.relative_to(tmp_path / "store")).partition("/")[2]] += 1
        return tensor_file.read_tensors(path, device)

    for reader in (model, moments):
        monkeypatch.setattr(reader, "read_tensors", counting)
    assert run("less", ROUND_ROBIN, "warmup.epochs=9", "warmup.fraction=5%", until="score") == 0
    of_checkpoints = {name: times for name, times in read.items() if name.startswith("checkpoint-")}
    assert len(of_checkpoints) == 18  # weights and moments
    assert set(of_checkpoints.values()) == {1}


def test_the_columns_of_a_similarity_are_read_without_the_rest_of_its_state(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("less", ROUND_ROBIN) == 0

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a whole state was loaded")

    load_state.cache_clear()
    monkeypatch.setattr("curate.pipelines.state.read_tensors", refuse)
    for finished in (*(tmp_path / "store").glob("selection-*"), tmp_path / "runs"):
        shutil.rmtree(finished)
    assert run("less", ROUND_ROBIN) == 0


def test_target_rows_that_cannot_be_compared_with_are_refused_before_the_pool_is_scored(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate import gradient_features

    block = gradient_features.target_block

    def half(*given: Any) -> Any:
        found, usable = block(*given)
        usable[::2] = False
        return found, usable

    monkeypatch.setattr(gradient_features, "target_block", half)
    assert run("less", ROUND_ROBIN) == 5
    assert "feature f: 4 of 8 target rows gave no finite, non-zero direction" in capsys.readouterr().err
    assert not list((tmp_path / "store").glob("features-*")) and not list((tmp_path / "store" / ".part").glob("features-*"))


def test_memory_counts_the_sample_of_a_fisher_and_the_message_says_so(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = "{name: influence, curvature: woodbury, fisher_rows: 500}"
    assert run(exact, ROUND_ROBIN, until="score") == 0
    said = next(line for line in capsys.readouterr().err.splitlines() if "directions of 8 target rows" in line)
    directions, sample = (float(number) for number in re.findall(r"([\d.]+) MiB", said))
    assert sample == pytest.approx(directions * 120 / 8, rel=0.3)  # the pool has 120 rows; one digit is shown
    assert "of memory, shared by all worker processes" in said
    monkeypatch.setattr("curate.pipelines.features.EXACT_BYTES", int(2 * directions * 2**20))
    assert run(exact, ROUND_ROBIN, until="score") == 2
    assert "and the sample of its Fisher" in capsys.readouterr().err


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
    cosines = "{vectors: f, selector: {name: round_robin, metric: cosine}}"
    assert run("{name: less, direction: sgd, normalise: none}", cosines) == 0
    assert any("a reads exact inner products, to which metric: cosine does not apply" in line for line in results(tmp_path)["warnings"])
    assert run("{name: trak, width: 32}", cosines) == 0
    assert any("trak is the inner product of its vectors, but a compares their cosines" in line for line in results(tmp_path)["warnings"])
    assert run("{name: trak, width: 32}", ROUND_ROBIN) == 0
    assert not any("inner product" in line for line in results(tmp_path)["warnings"])


def test_every_checkpoint_of_trak_counts_on_disk(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("{name: trak, width: 64}", "{vectors: f, selector: round_robin}", until="score") == 0
    assert "120 rows of 128 numbers" in capsys.readouterr().err
    assert manifests(tmp_path, "features")[0]["summary"]["width"] == 128
