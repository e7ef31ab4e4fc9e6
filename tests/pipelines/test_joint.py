"""Several processes train the same model as one does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curate.cluster import InProcess
from curate.core import Artifact
from curate.data.source import Source
from curate.errors import NumericError
from curate.model import ModelHandle, read_weights, resolve
from curate.pipelines.finetune import TrainTask, finetune
from curate.pipelines.prepare import prepare
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.settings import Lora, ModelSpec, Train
from curate.store import Store

SETTINGS = Train(learning_rate=1e-3, epochs=1, batch_size=4, micro_batch_tokens=64, checkpoint_every=2)


@pytest.fixture(scope="module")
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, dropout=0.1)), tiny)


@pytest.fixture(scope="module")
def pool(handle: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("pool")
    session = Session(Store(folder), InProcess(), folder, "cpu", lambda stage, label: None)
    return prepare(session, "pool", [Source(synthetic="pool", rows=40, seed=0)], handle, Hygiene())


@pytest.fixture
def task(handle: ModelHandle, pool: Artifact) -> TrainTask:
    rows = np.arange(12)
    return TrainTask(handle, pool.path, rows, np.linspace(1, 2, 12).astype(np.float32), SETTINGS, 0, None, None, "cpu", label="less-rr 5% seed 0")


def test_two_processes_train_the_same_model_as_one(task: TrainTask, tmp_path: Path) -> None:
    alone = finetune(Store(tmp_path / "alone"), task, [], {})
    joint = finetune(Store(tmp_path / "joint"), replace(task, processes=2), [], {})
    assert joint.key != alone.key  # sums over processes round otherwise
    assert joint.manifest["summary"]["steps"] == alone.manifest["summary"]["steps"] == 3
    assert joint.manifest["summary"]["last_loss"] == pytest.approx(alone.manifest["summary"]["last_loss"], rel=1e-5)
    ours, theirs = read_weights(joint.path), read_weights(alone.path)
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert sorted(file.name for file in joint.path.iterdir()) == sorted(file.name for file in alone.path.iterdir())


def test_a_divergence_of_joint_training_is_one_line(task: TrainTask, tmp_path: Path) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0.0})
    with pytest.raises(NumericError, match="lower the learning rate"):
        finetune(Store(tmp_path), replace(task, settings=wild, processes=2), [], {})
