"""A user's own Trainer run with pickles in the place of its files: what curate reads of it is refused in one line, and none of them is opened."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from campaign.catalogue import CODES, TINY, curate
from campaign.catalogue_security import FORMATS
from campaign.confined import MIB, Limits, confined
from campaign.hostile import safe_recipe

READ = ("optimizer.pt", "scheduler.pt")
PASSED_OVER = ("rng_state.pth", "training_args.bin")
LIMITS = Limits(clock=300, processor=60, memory=3072 * MIB)
SCORE = (
    *("run", "safe.yaml", "features={hidden: {name: less, width: 32}}", "arms={near: {vectors: hidden, selector: round_robin}}", "warmup={trainer: trained}"),
    *("--until", "score", "--quiet", "--workers", "1", "--device", "cpu"),
)
Trial = tuple[str, Callable[[], list[str]]]


def trained(place: Path) -> None:
    """One step of the Trainer on the tiny model, in a child, which leaves the folder `trained`; SystemExit where it does not."""
    ended = confined(partial(_train, place / "trained"), place, LIMITS)
    if ended.code:
        raise SystemExit(f"the Trainer does not train: {ended.error[-500:]}")


def _train(folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    torch.manual_seed(0)
    rows = [{"input_ids": (ids := torch.randint(3, 1000, (12,))), "labels": ids} for _ in range(2)]
    settings: dict[str, Any] = {"max_steps": 1, "save_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    given = transformers.TrainingArguments(str(folder), **settings)
    transformers.Trainer(model=transformers.AutoModelForCausalLM.from_pretrained(TINY), args=given, train_dataset=rows).train()
    state = folder / "checkpoint-1" / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_bytes()), "log_history": []}))  # so that scheduler.pt is asked for the learning rate
    return {}


def trainer_trials(folder: Path) -> Iterator[Trial]:
    """The run as it is, and a pickle in the place of every file of it that a library would unpickle, in every format."""
    trained(folder)
    yield "trainer", partial(_whole, folder)
    for name in (*READ, *PASSED_OVER):
        for form in FORMATS:
            yield f"{form}:trainer/{name}", partial(_planted, folder, name, form)


def _whole(folder: Path) -> list[str]:
    return _scored(folder, lambda checkpoint, canary: None, 0)


def _planted(folder: Path, name: str, form: str) -> list[str]:
    def plant(checkpoint: Path, canary: Path) -> None:
        (checkpoint / name).unlink()
        (checkpoint / name).write_bytes(FORMATS[form](canary))

    return _scored(folder, plant, None if name in READ else 0)


def _scored(folder: Path, plant: Callable[[Path, Path], None], code: int | None) -> list[str]:
    """What is wrong with how curate takes a planted copy of the run: it ends with this code, or in None with one line and the code of an error."""
    with tempfile.TemporaryDirectory() as scratch:
        place, canary = Path(scratch).resolve() / "place", Path(scratch).resolve() / "canary"
        shutil.copytree(folder / "trained", place / "trained", copy_function=os.link)
        safe_recipe(place, TINY)
        plant(place / "trained" / "checkpoint-1", canary)
        ended = confined(lambda: {"code": curate(*SCORE)}, place, LIMITS)
        found = ended.returned.get("code")
        wrong = ["it ran the pickle"] if canary.exists() else []
        expected = found == code if code is not None else found in CODES - {0} and ended.error.startswith("error: ") and ended.error.count("\n") == 1
        return wrong + ([] if expected and "Traceback" not in ended.error else [f"it exits with {found}: {ended.error[-300:]!r}"])
