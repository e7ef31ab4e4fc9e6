"""How one task runs in the process that got it: with one arithmetic thread, on its own GPU, and with errors that say what to do."""

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from curate.attention_kernels import kernels_of_any_shape
from curate.beat import watched
from curate.errors import ModelError
from curate.freed import give_back

T = TypeVar("T")
R = TypeVar("R")
MOST_SAID = 4096  # characters of what a task prints that are kept, the last ones


def one_thread(function: Callable[[T], R], item: T) -> R:
    """Run a task with one arithmetic thread: another number of threads adds floats in another order."""
    import torch

    _take_own_gpu()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with kernels_of_any_shape():
            return function(item)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"the memory of the device or machine does not suffice ({str(error).partition('. ')[0] or type(error).__name__}); lower train.micro_batch_tokens, "
            "warmup.micro_batch_tokens or model.max_length, or use --workers 1, and run the same command again: finished shards are kept"
        ) from error
    finally:
        torch.set_num_threads(before)
        give_back()


def _take_own_gpu() -> None:
    """In a worker process, `cuda` is the GPU that its number stands for, so that workers do not crowd on the first."""
    import torch

    number = worker_number() if torch.cuda.device_count() > 1 else None
    if number is not None:
        torch.cuda.set_device(number % torch.cuda.device_count())


def worker_number() -> int | None:
    """Which worker process this is, from 0; None where it is none."""
    from distributed import get_worker

    try:
        return int(get_worker().name)
    except ValueError:
        return None


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch's allocator on a CPU has no error of its own for it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def name_of(item: object, otherwise: object) -> str:
    """By what a task is known to people: its own name, or else this."""
    return str(getattr(item, "name", "") or otherwise)


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What a task returned, how long it took, and what it printed or warned of meanwhile."""

    result: R
    seconds: float
    said: str


def reported(function: Callable[[T], R], item: T, deadline: float, stacks: Path) -> Outcome[R]:
    """`one_thread` in a worker process, which ends itself where the task shows no sign of life for `deadline` seconds, and says in `stacks` where."""
    began, said = time.monotonic(), io.StringIO()
    with watched(deadline, stacks), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        result = one_thread(function, item)
    return Outcome(result, time.monotonic() - began, said.getvalue()[-MOST_SAID:])
