"""Does coverage beat random pruning of CIFAR-10? Random, hardest and CCS at 70, 80 and 90 % pruning, with the paper's schedule.

    python benchmarks/cifar_pruning.py TRAIN.parquet --out DIR [--iterations 40000] [--seeds 3] [--seconds 1500]

ResNet-18 with a 3 x 3 stem, SGD with Nesterov momentum 0.9, weight decay 5e-4, learning rate 0.1 falling as a cosine to 0, batches of 256, crops
and flips (Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates", 2023). The importance is the area under the margin
(curate.dynamics) over one training on all rows, of the same schedule. Every tenth image is held out; accuracy is on those. Selections are the
package's own: `random`, `top_k` of the lowest margins, and `coverage` with the hardest rows cut off.

Every finished training is a line of DIR/runs.jsonl, and is not repeated by the next call: stop and go on as machines come and go. With --seconds no
training is begun that would not be finished by then. The table has the mean and a 95 % interval over seeds, and each arm's difference to
random with the same seeds.
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from curate.core import Budget, Features
from curate.dynamics import Dynamics
from curate.interfaces import Context, Selector
from curate.selectors.coverage import Coverage
from curate.selectors.random import Random
from curate.selectors.top_k import TopK

RATES = (0.7, 0.8, 0.9)
BATCH, PEAK, DECAY, HELD_OUT = 256, 0.1, 5e-4, 10
ARMS: dict[str, Selector] = {
    "random": Random(),
    "hardest": TopK(largest=False),
    "ccs, 10 % cut": Coverage(hard="low", hardest_cut=0.1),
    "ccs, 30 % cut": Coverage(hard="low", hardest_cut=0.3),
}


class Images:
    """Standardised images (N, 3, 32, 32) and classes (N,) on a device, cut into a part to train on and a part to test on."""

    def __init__(self, path: Path, device: str) -> None:
        import pyarrow.parquet as pq
        from PIL import Image

        table = pq.read_table(path)
        column = next(name for name in ("img", "image", "jpeg") if name in table.column_names)
        found = [value["bytes"] if isinstance(value, dict) else value for value in table[column].to_pylist()]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found])
        labels = np.unique(table["label"].to_pylist(), return_inverse=True)[1]
        test = np.arange(len(labels)) % HELD_OUT == 0
        x = torch.from_numpy(np.moveaxis(pixels, 3, 1).copy()).to(device).float()
        x = (x - x[~test].mean((0, 2, 3), keepdim=True)) / x[~test].std((0, 2, 3), keepdim=True)
        y = torch.from_numpy(labels).to(device)
        self.train, self.test = (x[~test], y[~test]), (x[test], y[test])
        self.device = device


class Block(nn.Module):
    """Two 3 x 3 convolutions and a way round them."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        same = stride == 1 and width == out
        self.around = nn.Identity() if same else nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(inside)) + self.around(x))


def resnet18(classes: int) -> nn.Sequential:
    """With a stem for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for width, out, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(width, out, stride), Block(out, out, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image cropped anew from a frame of four zeros, and flipped every other time."""
    count, device = len(x), x.device
    padded = functional.pad(x, (4, 4, 4, 4))
    shift = torch.randint(0, 9, (2, count, 1), generator=generator, device=device)
    line = torch.arange(32, device=device)
    down, across = shift[0] + line, shift[1] + line
    flip = torch.rand(count, 1, generator=generator, device=device) < 0.5
    across = torch.where(flip, across.flip(1), across)
    picked = padded[torch.arange(count, device=device)[:, None, None], :, down[:, :, None], across[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def train(images: Images, rows: Tensor, iterations: int, seed: int, dynamics: Dynamics | None = None) -> float:
    """Accuracy on the held-out images after training on these rows; margins of every batch go to `dynamics`."""
    device, (x, y) = images.device, images.train
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    net = resnet18(int(y.max()) + 1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), PEAK, 0.9, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    queue = torch.empty(0, dtype=torch.int64, device=device)
    for _ in range(iterations):
        if len(queue) < BATCH:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=generator, device=device)]])
        batch, queue = queue[:BATCH], queue[BATCH:]
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            logits = net(augmented(x[batch], generator)).float()
            loss = functional.cross_entropy(logits, y[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if dynamics is not None:
            dynamics.update(batch, logits, y[batch])
    net.eval()
    with torch.no_grad(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
        right = [(net(part.contiguous(memory_format=torch.channels_last)).argmax(1) == answer).sum() for part, answer in _parts(images.test)]
    return float(sum(int(count) for count in right)) / len(images.test[1])


def _parts(data: tuple[Tensor, Tensor]) -> Any:
    return zip(data[0].split(1000), data[1].split(1000), strict=True)


class Ledger:
    """Finished trainings, a line each."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.settings = folder / "runs.jsonl", settings
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.found = {self._key(entry): entry for entry in map(json.loads, lines) if entry["settings"] == settings}

    @staticmethod
    def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["arm"], entry["rate"], entry["seed"]

    def add(self, **entry: Any) -> None:
        self.found[self._key(entry)] = entry
        with open(self.path, "a") as file:
            file.write(json.dumps({**entry, "settings": self.settings}) + "\n")
        print(json.dumps(entry), flush=True)


def margins(images: Images, folder: Path, iterations: int, ledger: Ledger) -> NDArray[np.float64]:
    """(N,) the area under the margin of every row, from one training on all of them; kept in a file."""
    file = folder / f"margins-{iterations}.npy"
    if not file.is_file():
        dynamics, everything = Dynamics(len(images.train[1])), torch.arange(len(images.train[1]), device=images.device)
        began = time.monotonic()
        accuracy = train(images, everything, iterations, 0, dynamics)
        np.save(file, dynamics.margin().numpy())
        ledger.add(arm="all rows", rate=0.0, seed=0, accuracy=accuracy, seconds=time.monotonic() - began)
    return np.asarray(np.load(file), np.float64)


def table(ledger: Ledger, seeds: int) -> None:
    """Mean accuracy of each arm with its interval, and the difference to random over the same seeds."""
    print(f"{'pruned':>7}  {'arm':<15}{'runs':>5}{'accuracy':>20}{'against random':>22}")
    for rate in RATES:
        for arm in ARMS:
            shared = [seed for seed in range(seeds) if (arm, rate, seed) in ledger.found and ("random", rate, seed) in ledger.found]
            if not shared:
                continue
            own = np.array([ledger.found[arm, rate, seed]["accuracy"] for seed in shared]) * 100
            apart = own - np.array([ledger.found["random", rate, seed]["accuracy"] for seed in shared]) * 100
            against = "" if arm == "random" else interval(apart)
            print(f"{rate:>7.0%}  {arm:<15}{len(shared):>5}{interval(own):>20}{against:>22}")


def interval(values: NDArray[np.float64]) -> str:
    """Mean and half the width of a 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.2f} +- {half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("cifar-pruning"))
    parser.add_argument("--iterations", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    if given.path is None:
        print("CIFAR-10 does not ship; give its training images as a parquet file with label and jpeg, img or image")
        return
    end = time.monotonic() + given.seconds
    images = Images(given.path, "cuda" if torch.cuda.is_available() else "cpu")
    ledger = Ledger(given.out, {"iterations": given.iterations, "batch": BATCH, "rows": len(images.train[1])})
    scores = margins(images, given.out, given.iterations, ledger)
    pool = Features.from_arrays(scores=scores)
    longest = 0.0
    for seed in range(given.seeds):
        for rate in RATES:
            for arm, selector in ARMS.items():
                if (arm, rate, seed) in ledger.found or time.monotonic() + longest > end:
                    continue
                began = time.monotonic()
                kept = selector.select(pool, Budget(amount=round(1 - rate, 6), unit="fraction"), context=Context(seed=seed)).indices
                accuracy = train(images, torch.from_numpy(kept).to(images.device), given.iterations, seed + 1)
                longest = max(longest, time.monotonic() - began)
                ledger.add(arm=arm, rate=rate, seed=seed, rows=len(kept), accuracy=accuracy, seconds=round(time.monotonic() - began, 1))
    table(ledger, given.seeds)


if __name__ == "__main__":
    main()
