"""Does coverage beat random pruning of CIFAR-10? Random, hardest and CCS at 70, 80 and 90 % pruning, with the paper's schedule.

    python benchmarks/cifar_pruning.py TRAIN.parquet --out DIR [--iterations 40000] [--seeds 3] [--seconds 1500] [--part 0/1] [--together 3]

ResNet-18 with a 3 x 3 stem, SGD with Nesterov momentum 0.9, weight decay 5e-4, learning rate 0.1 falling as a cosine to 0, batches of 256, crops
and flips (Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates", 2023). The importance is the area under the margin
(curate.dynamics) over one training on all rows, of the same schedule. Every tenth image is held out; accuracy is on those. Selections are the
package's own: `random`, `top_k` of the lowest margins, and `coverage` with the hardest rows cut off.

Every finished training is a line of DIR/runs.jsonl, and is not repeated by the next call: stop and go on as machines come and go. With --seconds no
training is begun that would not be finished by then. With --part I/N, N processes share the work, one on each GPU say (CUDA_VISIBLE_DEVICES);
the first makes the margins, for which the others wait once they have done their random arms. The table has the mean and a 95 % interval over
seeds, and each arm's difference to random with the same seeds.
"""

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
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
Training = tuple[str, float, int]  # the arm, the pruned share and the seed
EVERYTHING: Training = ("all rows", 0.0, 0)  # gives the margins
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


class Trainer:
    """A network with its optimizer. On CUDA one step is compiled and recorded once; all steps of all trainings replay it.

    Make trainers one after the other; then each may work in a thread of its own, inside `torch.cuda.stream(trainer.stream)`.
    """

    _seeding = Lock()

    def __init__(self, images: Images, *, compiled: bool = True, recorded: bool = True) -> None:
        device, cuda = images.device, images.device != "cpu"
        self.images, self.classes = images, int(images.train[1].max()) + 1
        self.net = resnet18(self.classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = torch.compile(self.net) if compiled and cuda else self.net
        self._rate = torch.tensor(PEAK, device=device)
        self._optimizer = torch.optim.SGD(self.net.parameters(), self._rate, 0.9, weight_decay=DECAY, nesterov=True, fused=True)
        self._precision = torch.autocast(device, torch.bfloat16, enabled=cuda)
        self.generator = torch.Generator(device)
        self._rows, self._logits = torch.arange(BATCH, device=device), torch.empty(0)
        self.stream = torch.cuda.Stream() if cuda else None
        self._run = self._recorded() if recorded and cuda else self._step

    def _recorded(self) -> Callable[[], None]:
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._step()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        return graph.replay

    def _step(self) -> None:
        x, y = self.images.train
        with self._precision:
            self._logits = self._forward(augmented(x[self._rows], self.generator)).float()
            loss = functional.cross_entropy(self._logits, y[self._rows])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def fresh(self, seed: int) -> None:
        """New weights, no momentum, and the random numbers of this seed."""
        with self._seeding:
            torch.manual_seed(seed)
            self.net.load_state_dict(resnet18(self.classes).state_dict())
        self.net.train()
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()
        self.generator.manual_seed(seed)

    def step(self, rows: Tensor, rate: float) -> Tensor:
        """One step on these rows, at this learning rate. The logits before it: overwritten by the next step."""
        self._rows.copy_(rows)
        self._rate.fill_(rate)
        self._run()
        return self._logits.detach()

    def accuracy(self) -> float:
        """On the held-out images."""
        self.net.eval()
        with torch.no_grad(), self._precision:
            logits = torch.cat([self.net(part.contiguous(memory_format=torch.channels_last)) for part in self.images.test[0].split(1000)])
        return float((logits.argmax(1) == self.images.test[1]).double().mean())


def train(trainer: Trainer, rows: Tensor, iterations: int, seed: int, dynamics: Dynamics | None = None) -> float:
    """Accuracy on the held-out images after training on these rows; margins of every batch go to `dynamics`."""
    trainer.fresh(seed)
    queue = torch.empty(0, dtype=torch.int64, device=rows.device)
    seen: list[tuple[Tensor, Tensor]] = []
    for done in range(iterations):
        if len(queue) < BATCH:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=trainer.generator, device=rows.device)]])
        batch, queue = queue[:BATCH], queue[BATCH:]
        logits = trainer.step(batch, PEAK * (1 + math.cos(math.pi * done / iterations)) / 2)
        if dynamics is not None:
            seen.append((batch, logits.clone()))
            if len(seen) == 100 or done == iterations - 1:
                items = torch.cat([items for items, _ in seen])
                dynamics.update(items, torch.cat([values for _, values in seen]), trainer.images.train[1][items])
                seen.clear()
    return trainer.accuracy()


def finished(folder: Path, settings: dict[str, Any]) -> dict[Training, dict[str, Any]]:
    """The lines of earlier trainings with these settings, by arm, rate and seed."""
    path = folder / "runs.jsonl"
    entries = map(json.loads, path.read_text().splitlines() if path.is_file() else [])
    return {(entry["arm"], entry["rate"], entry["seed"]): entry for entry in entries if entry["settings"] == settings}


class Todo:
    """The trainings that one process has still to do, handed to its threads one at a time."""

    def __init__(self, folder: Path, settings: dict[str, Any], seeds: int, end: float, part: int, parts: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.scores = folder, settings, folder / f"margins-{settings['iterations']}.npy"
        every = [EVERYTHING, *((arm, rate, seed) for seed in range(seeds) for arm in ARMS for rate in RATES)]
        old = finished(folder, settings)
        self._left = [job for job in every[part::parts] if job not in old or (job == EVERYTHING and not self.scores.is_file())]
        self._end, self._longest, self._lock = end, 0.0, Lock()

    def take(self) -> Training | None:
        """The next one; those that need the margins wait for them. None if nothing is left, or could not be done in time."""
        while True:
            with self._lock:
                if not self._left or time.monotonic() + self._longest > self._end:
                    return None
                ready = next((job for job in self._left if job[0] in (EVERYTHING[0], "random") or self.scores.is_file()), None)
                if ready is not None:
                    self._left.remove(ready)
                    return ready
            time.sleep(2)

    def done(self, job: Training, seconds: float, **found: Any) -> None:
        line = json.dumps({"arm": job[0], "rate": job[1], "seed": job[2], **found, "seconds": round(seconds, 1), "settings": self.settings})
        with self._lock, open(self.folder / "runs.jsonl", "a") as file:
            file.write(line + "\n")
            self._longest = max(self._longest, seconds)
        print(line, flush=True)


def work(trainer: Trainer, todo: Todo) -> None:
    """One training after the other."""
    images, iterations = trainer.images, todo.settings["iterations"]
    while (job := todo.take()) is not None:
        (arm, rate, seed), began, dynamics = job, time.monotonic(), None
        kept = np.arange(len(images.train[1]))
        if job == EVERYTHING:
            dynamics = Dynamics(len(kept))
        else:
            pool = Features.from_arrays(scores=np.load(todo.scores) if arm != "random" else np.zeros(len(kept)))
            kept = ARMS[arm].select(pool, Budget(amount=round(1 - rate, 6), unit="fraction"), context=Context(seed=seed)).indices
        with torch.cuda.stream(trainer.stream):
            accuracy = train(trainer, torch.from_numpy(kept).to(images.device), iterations, 0 if dynamics else seed + 1, dynamics)
        if dynamics:
            written = todo.scores.with_suffix(".new.npy")
            np.save(written, dynamics.margin().numpy())
            written.replace(todo.scores)
        todo.done(job, time.monotonic() - began, rows=len(kept), accuracy=accuracy)


def table(found: dict[Training, dict[str, Any]], seeds: int) -> None:
    """Mean accuracy of each arm with its interval, and the difference to random over the same seeds."""
    print(f"{'pruned':>7}  {'arm':<15}{'runs':>5}{'accuracy':>20}{'against random':>22}")
    for rate in RATES:
        for arm in ARMS:
            shared = [seed for seed in range(seeds) if (arm, rate, seed) in found and ("random", rate, seed) in found]
            if not shared:
                continue
            own = np.array([found[arm, rate, seed]["accuracy"] for seed in shared]) * 100
            apart = own - np.array([found["random", rate, seed]["accuracy"] for seed in shared]) * 100
            print(f"{rate:>7.0%}  {arm:<15}{len(shared):>5}{interval(own):>20}{'' if arm == 'random' else interval(apart):>22}")


def interval(values: NDArray[np.float64]) -> str:
    """Mean and half the width of a 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.2f} +- {half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("cifar-pruning"))
    parser.add_argument("--iterations", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--part", default="0/1", help="I/N: of N processes that share DIR this is number I, from 0")
    parser.add_argument("--together", type=int, default=3, help="trainings at once on a GPU")
    given = parser.parse_args()
    if given.path is None:
        print("CIFAR-10 does not ship; give its training images as a parquet file with label and jpeg, img or image")
        return
    end = time.monotonic() + given.seconds
    cuda = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = True
    images = Images(given.path, "cuda" if cuda else "cpu")
    settings = {"iterations": given.iterations, "batch": BATCH, "rows": len(images.train[1])}
    todo = Todo(given.out, settings, given.seeds, end, *map(int, given.part.split("/")))
    trainers = [Trainer(images) for _ in range(given.together if cuda else 1)]
    with ThreadPoolExecutor(len(trainers)) as threads:
        for result in [threads.submit(work, trainer, todo) for trainer in trainers]:
            result.result()
    table(finished(given.out, settings), given.seeds)


if __name__ == "__main__":
    main()
