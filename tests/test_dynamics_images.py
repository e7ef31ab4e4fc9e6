"""Image classifiers feed the same running sums as language models, and their margins find planted wrong labels."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curate.dynamics import Dynamics

IMAGES, WRONG, BATCH = 1500, 150, 50


@dataclass(frozen=True)
class Trained:
    """What a training run said of its images, as running sums and as tables of all logits (epochs, N, V)."""

    labels: NDArray[np.int64]  # (N,) as trained on
    wrong: NDArray[np.bool_]  # (N,) whether the label was planted
    during: Dynamics  # each batch, before its step
    after: Dynamics  # all images after each epoch
    during_table: NDArray[np.float64]
    after_table: NDArray[np.float64]


def images(path: Path, column: str) -> tuple[Tensor, Tensor]:
    """Images (N, channels, height, width), standardised, and classes (N,), evenly spaced over a file that is sorted by class."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path)
    table = table.take(np.linspace(0, len(table) - 1, IMAGES).astype(np.int64))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)), np.float32) for data in table[column].to_pylist()])
    pixels = np.moveaxis(pixels.reshape(*pixels.shape[:3], -1), 3, 1)
    _, classes = np.unique(table["label"].to_pylist(), return_inverse=True)
    return torch.from_numpy((pixels - pixels.mean()) / pixels.std()), torch.from_numpy(classes)


def trained(x: Tensor, truth: Tensor, epochs: int) -> Trained:
    """A small CNN trained on images of which one in ten has another class's label."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    planted, classes = torch.randperm(IMAGES)[:WRONG], int(truth.max()) + 1
    labels = truth.clone()
    labels[planted] = (truth[planted] + torch.randint(1, classes, (WRONG,))) % classes
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * (x.shape[2] // 4) ** 2, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    during, after, tables = Dynamics(IMAGES), Dynamics(IMAGES), torch.zeros(2, epochs, IMAGES, classes)
    for epoch in range(epochs):
        for items in torch.randperm(IMAGES).split(BATCH):
            logits = net(x[items])
            during.update(items, logits, labels[items])
            tables[0, epoch, items] = logits.detach()
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels[items]).backward()
            optimizer.step()
        with torch.no_grad():
            tables[1, epoch] = net(x)
        after.update(torch.arange(IMAGES), tables[1, epoch], labels)
    wrong = np.isin(np.arange(IMAGES), planted.numpy())
    return Trained(labels.numpy(), wrong, during, after, *tables.double().numpy())


def auroc(scores: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """How often a planted label scores above a right one, a tie counting half."""
    above, tied = (compare(scores[wrong][:, None], scores[~wrong]) for compare in (np.greater, np.equal))
    return float(above.mean() + tied.mean() / 2)


@pytest.fixture(scope="module")
def mnist(shared: Path) -> Trained:
    return trained(*images(shared / "data" / "pools" / "mnist-train.parquet", "png"), epochs=4)


@pytest.fixture(scope="module")
def cifar10(shared: Path) -> Trained:
    return trained(*images(shared / "data" / "pools" / "cifar10-train.parquet", "jpeg"), epochs=6)


@pytest.mark.real
@pytest.mark.parametrize("pool", ["mnist", "cifar10"])
@pytest.mark.parametrize("when", ["during", "after"])
def test_running_sums_equal_the_stored_table(pool: str, when: str, request: pytest.FixtureRequest) -> None:
    run: Trained = request.getfixturevalue(pool)
    dynamics, table = getattr(run, when), getattr(run, f"{when}_table")
    onehot = np.eye(table.shape[2])[run.labels]
    p = np.exp(table - table.max(2, keepdims=True))
    p /= p.sum(2, keepdims=True)
    rival = np.where(onehot == 1, -np.inf, table).max(2)
    right = table.argmax(2) == run.labels
    events = (right[:-1] & ~right[1:]).sum(0)
    np.testing.assert_allclose(dynamics.el2n(), np.linalg.norm(p - onehot, axis=2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(dynamics.margin(), ((table * onehot).sum(2) - rival).mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(dynamics.forgetting(), np.where(right.any(0), events, len(table)))
    assert {0, 1, len(table)} <= set(dynamics.forgetting().tolist()), "the run must hold images of every kind, or this test shows nothing"


@pytest.mark.real
@pytest.mark.parametrize(("pool", "least"), [("mnist", 0.95), ("cifar10", 0.7)])
def test_planted_wrong_labels_have_low_margins(pool: str, least: float, request: pytest.FixtureRequest) -> None:
    run: Trained = request.getfixturevalue(pool)
    margins = run.during.margin().numpy()
    assert auroc(-margins, run.wrong) > least
    assert margins[run.wrong].mean() + 1 < margins[~run.wrong].mean()
    assert auroc(run.during.el2n().numpy(), run.wrong) > least
    shuffled = np.random.default_rng(0).permutation(run.wrong)
    assert abs(auroc(-margins, shuffled) - 0.5) < 0.1


@pytest.mark.real
def test_never_learned_is_the_hardest_end_of_forgetting(mnist: Trained) -> None:
    forgetting = mnist.during.forgetting().numpy()
    never = ~(mnist.during_table.argmax(2) == mnist.labels).any(0)
    assert forgetting[never].min() > forgetting[~never].max()
    as_easiest = np.where(never, 0, forgetting)  # a count of events alone, in which what was never learned was never forgotten
    assert auroc(forgetting, mnist.wrong) > 0.9 > 0.6 > auroc(as_easiest, mnist.wrong)
