"""Training curves for TensorBoard and Weights & Biases, written by their own libraries while a model trains; off unless asked for."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from curate.errors import ConfigError

ReporterName = Literal["tensorboard", "wandb"]
Report = Callable[[int, Mapping[str, float]], None]


def reporters(names: Sequence[str]) -> tuple[ReporterName, ...]:
    """These names; ConfigError for one that is unknown, or whose library is not installed."""
    for name in names:
        if name not in _OPENED:
            raise ConfigError(f"--report-to {name} is unknown; there are {', '.join(_OPENED)}")
        if find_spec(name) is None:
            raise ConfigError(f"--report-to {name} needs the {name} library, which is not installed; pip install 'curate[{name}]'")
    return tuple(name for name in _OPENED if name in names)


@contextlib.contextmanager
def reporting(names: Sequence[ReporterName], folder: Path, label: str) -> Iterator[Report]:
    """A function that hears of every step's numbers; `label` names the model, and a resumed run goes on with its curves."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(_OPENED[name](folder, label)) for name in names]

        def report(step: int, numbers: Mapping[str, float]) -> None:
            for each in made:
                each(step, numbers)

        yield report


@contextlib.contextmanager
def _tensorboard(folder: Path, label: str) -> Iterator[Report]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard" / label))

    def report(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(f"train/{name}", value, step)

    try:
        yield report
    finally:
        writer.close()


@contextlib.contextmanager
def _wandb(folder: Path, label: str) -> Iterator[Report]:
    import wandb

    name = label.replace("/", " ")
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = wandb.init(project="curate", group=folder.name, name=name, id=_run_id(folder.name, name), resume="allow", dir=str(folder))

    def report(step: int, numbers: Mapping[str, float]) -> None:
        run.log({f"train/{name}": value for name, value in numbers.items()}, step=step)

    try:
        yield report
    finally:
        run.finish()


def _run_id(group: str, name: str) -> str:
    """The same run for the same model of the same experiment."""
    from hashlib import blake2b

    return blake2b(f"{group}/{name}".encode(), digest_size=8).hexdigest()


_OPENED: dict[ReporterName, Callable[[Path, str], contextlib.AbstractContextManager[Report]]] = {"tensorboard": _tensorboard, "wandb": _wandb}
