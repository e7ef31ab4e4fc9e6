"""A real warm-up of the tiny model, which every scorer test reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.core import Checkpoint, Row, Written
from curate.interfaces import ScoringContext
from curate.model import fresh, resolve
from curate.settings import Lora, ModelSpec, Warmup
from curate.store import Workspace
from curate.train import TrainingSet, plan_steps, save_checkpoint, train


def random_rows(count: int, seed: int) -> list[Row]:
    """Rows of random tokens, of many lengths, whose later half carries loss."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(generator.integers(3, 25))
        supervised = np.arange(length) >= max(1, length // 2)
        ids = generator.integers(3, 1000, length).astype(np.int32)
        said, answered = (" ".join(f"w{token % 50}" for token in ids[mask]) for mask in (~supervised, supervised))
        rows.append(Row(ids, supervised, Written((("user", said), ("assistant", answered)), {"fail_rate": float(ids[0]) / 1000})))
    return rows


@pytest.fixture(scope="session")
def some_rows() -> list[Row]:
    return random_rows(9, seed=1)


@pytest.fixture(scope="session")
def warmed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoringContext:
    """The model with adapters, and two checkpoints of a warm-up with different mean learning rates."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("warmup")
    model = fresh(resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, alpha=8, targets="attention")), tiny))
    settings = Warmup(learning_rate=5e-3, epochs=2, batch_size=4)
    rows = random_rows(12, seed=2)
    data = TrainingSet(np.array([f"w{i}" for i in range(12)]), rows, np.array([len(r.input_ids) for r in rows]), np.ones(12, np.float32))

    def after_step(step: int, optimizer: torch.optim.AdamW) -> None:
        if step % 3 == 0:
            save_checkpoint(model, Workspace(folder), f"checkpoint-{step}", {"step": step, "learning_rate": 1e-3 * step}, settings, optimizer)

    train(model, data, plan_steps(data, settings, 0), settings, 0, Workspace(folder), save_every=100, after_step=after_step)
    checkpoints = tuple(Checkpoint(folder / f"checkpoint-{step}", step, 1e-3 * step) for step in (3, 6))
    return ScoringContext(model=model, checkpoints=checkpoints)


@pytest.fixture(scope="session")
def base(tiny: Path) -> ScoringContext:
    """The model as it comes."""
    return ScoringContext(model=fresh(resolve(ModelSpec(path=str(tiny)), tiny)))
