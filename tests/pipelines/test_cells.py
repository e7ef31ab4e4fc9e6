"""A cell that diverges stops alone, says why, and leaves nothing that could be taken for a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.cluster import InProcess
from curate.core import Artifact, Budget
from curate.data.examples import opened
from curate.data.source import Source
from curate.errors import DataError
from curate.model import ModelHandle, resolve
from curate.pipelines.cells import CellTask, run_cell
from curate.pipelines.finetune import TrainTask, matched, split
from curate.pipelines.likelihood_of_target import likelihood_of
from curate.pipelines.prepare import prepare
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.settings import Lora, ModelSpec, Train
from curate.store import Store
from curate.train import TrainingSet

SETTINGS = Train(learning_rate=1e-3, epochs=1, batch_size=4, checkpoint_every=1)


@pytest.fixture(scope="module")
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=2)), tiny)


@pytest.fixture(scope="module")
def pool(handle: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pool")
    session = Session(Store(folder), InProcess(), folder, "cpu", lambda stage, label: None)
    return prepare(session, "pool", [Source(synthetic="pool", rows=30, seed=0)], handle, Hygiene())


def cell(handle: ModelHandle, pool: Artifact, store: Path, settings: Train) -> CellTask:
    training = TrainTask(handle, pool.path, np.arange(8), np.ones(8, np.float32), settings, 0, None, None, "cpu")
    return CellTask("rr", "", "8", 0, training, (pool.key,), (likelihood_of("", pool),), replace(handle, lora=None), store, "cpu")


def test_a_model_that_diverges_is_an_outcome_with_a_reason_and_its_neighbour_is_trained(handle: ModelHandle, pool: Artifact, tmp_path: Path) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0.0})
    failed, fine = (run_cell(cell(handle, pool, tmp_path, settings)) for settings in (wild, SETTINGS))
    assert failed.checkpoint is None and not failed.evaluations
    assert "diverged at step" in failed.failed and "lower the learning rate" in failed.failed
    assert fine.checkpoint is not None and not fine.failed
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [fine.checkpoint.key]


def test_the_likelihood_of_the_target_is_the_mean_loss_of_each_of_its_rows(handle: ModelHandle, pool: Artifact, tmp_path: Path) -> None:
    from curate.model import cached

    plain = replace(handle, lora=None)
    model, examples = cached(plain, "cpu"), opened(pool.path)
    graded = likelihood_of("", pool).ask(model, plain)
    for number in (0, 7, len(examples) - 1):
        row = examples.rows[number]
        with torch.no_grad():
            logits = model.model(torch.from_numpy(row.input_ids.astype(np.int64))[None]).logits[0].double()
        nats = -logits.log_softmax(-1)[np.arange(len(row.input_ids) - 1), row.input_ids[1:].astype(np.int64)].numpy()
        assert graded.evaluation.scores[number] == pytest.approx(nats[row.supervised[1:]].mean(), rel=1e-4)
    assert list(graded.evaluation.ids) == list(examples.ids)


def test_validation_rows_are_never_trained_on_and_at_least_one_row_stays(pool: Artifact) -> None:
    examples = opened(pool.path)
    whole = TrainingSet(examples.ids, examples.rows, examples.lengths, np.ones(len(examples), np.float32))
    for share in (0.01, 0.3, 0.99):
        data, held_out = split(whole, SETTINGS.model_copy(update={"validation": share}), seed=1)
        assert held_out is not None and len(data) >= 1 and len(held_out.rows) >= 1
        assert sorted([*data.ids, *held_out.rows.ids]) == sorted(examples.ids)
    with pytest.raises(DataError, match="raise the budget, or leave train.validation out"):
        split(whole.only(np.array([0])), SETTINGS.model_copy(update={"validation": 0.1}), seed=1)


def test_what_arms_train_for_depends_on_the_budget_and_on_no_arm(pool: Artifact) -> None:
    examples = opened(pool.path)
    mean = examples.lengths.mean()
    assert matched(SETTINGS, Budget.parse(10), examples) == (round(10 * mean), None)
    assert matched(SETTINGS.model_copy(update={"match": "steps"}), Budget.parse(10), examples) == (None, 3)
    assert matched(SETTINGS.model_copy(update={"match": "epochs"}), Budget.parse(10), examples) == (None, None)
    assert matched(SETTINGS, Budget.parse("300 tokens"), examples) == (300, None)
