"""Scores against retrained models: the whole command, what it finds again after an interrupt, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from curate.core import Artifact, Examples, Row
from curate.data.examples import open_examples
from curate.errors import NumericError
from curate.features import map_tensors
from curate.model import LanguageModel, ModelHandle, apply_weights, fresh, read_weights, resolve
from curate.pipelines import finetune, retrain
from curate.settings import Lora, ModelSpec, Train
from curate.store import locked, read_json

RECIPE = """
name: small
pool: {{synthetic: pool, rows: 60, group: kind}}
target: {{rare: {{synthetic: target, rows: 6, group: kind}}}}
model: {{path: {model}, max_length: 96, lora: {{r: 2, alpha: 4, targets: attention}}}}
warmup: {{fraction: 20%, epochs: 1, learning_rate: 1.0e-3}}
features: {{gradient: {{name: less}}, sketch: {{name: less, width: 64, similarity: sketch, normalise: none}}, surprise: loss, words: bm25}}
budgets: [20]
train: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 8}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""

Command = Callable[..., int]


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(model=tiny))
    return path


@pytest.fixture
def validate(curate: Command, small: Path, tmp_path: Path) -> Command:
    """`curate validate-scores` on the small recipe, in folders of the test's own."""

    def run(feature: str, *more: object) -> int:
        where = ("--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1, "--quiet")
        return curate("validate-scores", small, "--feature", feature, *where, *more)

    return run


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every model's training set, as they are trained; Ctrl-C comes with the fourth."""
    seen: list[int] = []
    train = finetune.run_training

    def counted(task: finetune.TrainTask, *rest: Any) -> dict[str, Any]:
        seen.append(len(task.rows))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return train(task, *rest)

    monkeypatch.setattr(finetune, "run_training", counted)
    return seen


def files(store: Path) -> dict[Path, int]:
    """When each file of a finished artifact was written."""
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and ".part" not in path.parts}


def examples(store: Path) -> tuple[Examples, Examples]:
    """The pool's examples and the target's."""
    target, pool = sorted((open_examples(path) for path in store.glob("examples-*")), key=len)
    return pool, target


def by_hand(store: Path, evidence: list[str], feature: Any) -> float:
    """The score from the artifacts and scipy alone."""
    pool, target = examples(store)
    losses = [read_json(store / key / "losses.json") for key in evidence]
    checkpoints = [read_json(store / key / "manifest.json")["inputs"][1] for key in evidence]
    subsets = [read_json(store / read_json(store / key / "manifest.json")["inputs"][1] / "ids.json") for key in checkpoints]
    sums = np.array([sum(feature[list(pool.ids).index(row)] for row in subset) for subset in subsets])
    if sums.ndim == 1:
        return float(spearmanr(sums, [-np.mean(list(found.values())) for found in losses]).statistic)
    return float(np.mean([spearmanr(sums[:, j], [-found[row] for found in losses]).statistic for j, row in enumerate(target.ids)]))


def numbers(store: Path, scorer: str, role: str = "pool") -> Any:
    """The stored numbers of the pool's rows, or of the target's."""
    for path in store.glob("features-*"):
        fields = read_json(path / "manifest.json")["fields"]
        if fields["scorer"]["name"] == scorer and fields["role"] == role:
            return np.asarray(map_tensors(path / "shard-000000.safetensors")["values"], np.float64)
    raise AssertionError(f"no features of {scorer}")


def losses_by_hand(tiny: Path, checkpoint: Path, target: Examples) -> dict[str, float]:
    """Each row alone, its loss written out."""
    model = fresh(resolve(ModelSpec(path=str(tiny), max_length=96, lora=Lora(r=2, alpha=4, targets="attention")), Path()))
    apply_weights(model.names, read_weights(checkpoint))
    losses = {}
    for name, row in zip(target.ids, target.rows, strict=True):
        ids = torch.from_numpy(row.input_ids.astype(np.int64))
        with torch.no_grad():
            said = model.model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        losses[str(name)] = float(-said[torch.arange(len(ids) - 1), ids[1:]][torch.from_numpy(row.supervised[1:].copy())].mean())
    return losses


@pytest.mark.slow
def test_an_interrupted_validation_goes_on_trains_nothing_twice_and_reports_what_the_artifacts_say(
    validate: Command, trainings: list[int], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, written = tmp_path / "store", tmp_path / "runs" / "small" / "validation-gradient.json"
    assert validate("gradient", "--subsets", 6) == 130
    assert capsys.readouterr().err.startswith("interrupted: everything finished so far is kept")
    kept = files(store)
    assert len(list(store.glob("losses-*"))) == 3 and not written.exists()

    assert validate("gradient", "--subsets", 6, "--json") == 0
    assert trainings == [30] * 7  # the fourth twice, for it was cut off
    before = files(store)
    assert {path: before[path] for path in kept} == kept
    found = json.loads(capsys.readouterr().out)
    assert (found["subsets"], found["subset_rows"], found["pool_rows"], found["target_rows"]) == (6, 30, 60, 6)
    pool, target = examples(store)
    tokens = by_hand(store, found["evidence"], np.tile(pool.supervised[:, None], 6))
    ours = by_hand(store, found["evidence"], numbers(store, "exact_similarity"))
    assert found["score"]["lds"] == pytest.approx(ours) and found["baselines"]["supervised tokens"]["lds"] == pytest.approx(tokens)
    assert found["above_tokens"]["lds"] == pytest.approx(ours - tokens)
    assert found["score"]["low"] <= ours <= found["score"]["high"]
    assert found["baselines"]["random scores"]["low"] <= 0 <= found["baselines"]["random scores"]["high"]
    checkpoint = store / read_json(store / found["evidence"][2] / "manifest.json")["inputs"][1]
    assert read_json(store / found["evidence"][2] / "losses.json") == pytest.approx(losses_by_hand(tiny, checkpoint, target), rel=1e-5)

    said = written.read_bytes()
    assert json.loads(said) == found
    assert validate("gradient", "--subsets", 6) == 0
    assert files(store) == before and written.read_bytes() == said
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{ours:.2f} [{found['score']['low']:.2f}, {found['score']['high']:.2f}] 6 6" in printed and f"{found['verdict']}." in printed

    for feature in ("surprise", "sketch", "words"):
        assert validate(feature, "--subsets", 5, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        scorer = {"surprise": "loss", "sketch": "less", "words": "bm25"}[feature]
        wanted = numbers(store, scorer) if feature != "sketch" else numbers(store, scorer) @ numbers(store, scorer, "target").T
        assert found["score"]["lds"] == pytest.approx(by_hand(store, found["evidence"], wanted)) and len(found["evidence"]) == 5
    assert len(trainings) == 7  # the same models
    assert not list(store.glob("selection-*")) and not list(store.glob("evaluation-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gradent",), 2, "error: --feature: there is no feature 'gradent'; did you mean gradient? (features: gradient, sketch, surprise, words)"),
        (("surprise", "--subsets", 4), 2, "error: --subsets 4 is too few to rank; give 5 or more, better 20"),
        *((("surprise", "--fraction", text), 2, f"error: --fraction '{text}' is no share of the pool") for text in ("100%", "0%", "30", "half", "120%")),
        (("surprise", "--fraction", "1.6%"), 3, "error: --fraction 1.6% of the 60 pool rows is not one row; raise it"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    validate: Command, arguments: tuple[object, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate(*arguments) == code
    printed = capsys.readouterr().err
    assert printed.startswith(said) and len(printed.splitlines()) == 1
    assert not list((tmp_path / "store").glob("features-*")) and (code == 3) == (tmp_path / "runs").exists()


def test_a_locked_run_is_refused(validate: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "runs" / "small" / ".lock", wait=False):
        assert validate("surprise") == 6
    assert "in use by another curate process" in capsys.readouterr().err


def test_a_target_row_without_a_finite_loss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, nothing = np.array(["a", "b", "c"]), Path()
    rows = tuple(Row(np.arange(4, dtype=np.int32), np.ones(4, bool)) for _ in ids)
    held = Examples(ids, np.full(3, 4), np.full(3, 4), ids, rows)
    monkeypatch.setattr(retrain, "opened", lambda path: held)
    monkeypatch.setattr(retrain, "target_rows", lambda path: rows)
    monkeypatch.setattr(retrain, "score_rows", lambda jobs, some: [np.array([1.0, np.nan, 2.0], np.float32)])
    artifact = Artifact("examples-0", nothing, {})
    task = retrain.Retraining(7, 2, 0, ModelHandle(nothing, "", "float32", 8), artifact, artifact, Train(), nothing, "cpu")
    with pytest.raises(NumericError, match="target row b has no finite loss after training on subset 7; lower train.learning_rate"):
        retrain.target_losses(LanguageModel(None, None, "cpu", {}), task)
