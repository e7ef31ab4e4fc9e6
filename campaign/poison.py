"""A scorer that misbehaves on rows that are named from outside: registered for a campaign only, by an entry point in a scratch folder.

The variable CURATE_CAMPAIGN_POISON is a JSON object from a row's number to what happens there, CURATE_CAMPAIGN_SLOW the seconds that a batch takes, and
CURATE_CAMPAIGN_MARKS a folder with a file for every deed done. None is part of the recipe, so that all runs have the same keys.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from zlib import crc32

from curate.data.text import text_of
from curate.interfaces import Batch, Output, Reads, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor

POISON, SLOW, MARKS = "CURATE_CAMPAIGN_POISON", "CURATE_CAMPAIGN_SLOW", "CURATE_CAMPAIGN_MARKS"
NAME = "campaign_poison"
KILLS = ("kill", "segfault", "exit")
HANGS = ("sleep", "regex")
DEEDS = (*KILLS, *HANGS, "memory")
_ROW = re.compile(r"campaign row (\d+)")
_PIECE = 16 * 2**20  # bytes
_MOST_PIECES = 256  # then nobody stops it


class CampaignPoison(Scorer):
    """A number from a row's text, and a deed on some rows: (B,), without meaning."""

    name: Literal["campaign_poison"] = "campaign_poison"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "text"
    sample_rows: ClassVar[int | None] = None

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        time.sleep(float(os.environ.get(SLOW, "0")))
        poison = json.loads(os.environ.get(POISON, "{}"))
        texts = [text_of(content) or "" for content in batch.content]
        return torch.tensor([_value(text, poison) for text in texts], dtype=torch.float32)


def _value(text: str, poison: Mapping[str, str]) -> float:
    found = _ROW.search(text)
    deed = poison.get(found[1], "") if found else ""
    if deed == "nan":
        return float("nan")
    if found and deed:
        _do(deed, found[1])
    return crc32(text.encode()) / 2**32


def _do(deed: str, row: str) -> None:
    """One deed; those that end in `-once` are done one time only."""
    mark = Path(os.environ[MARKS]) / f"{row}-{deed}"
    if deed.endswith("-once"):
        if mark.exists():
            return
        deed = deed.removesuffix("-once")
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\n")
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif deed == "exit":
        sys.exit(1)
    elif deed == "sleep":
        time.sleep(3600)
    elif deed == "regex":
        re.match("(a+)+$", "a" * 60 + "b")
    elif deed == "memory":
        _eat()
    else:
        raise ValueError(f"there is no deed {deed!r}")


def _eat() -> None:
    """Take memory until whoever watches kills this process, as a kernel would."""
    taken = []
    for _ in range(_MOST_PIECES):
        taken.append(b"x" * _PIECE)
        time.sleep(0.02)
    raise ValueError("nobody minds that memory is eaten")


def registered(folder: Path) -> Path:
    """A folder for PYTHONPATH by which curate finds this scorer."""
    about = folder / "curate_campaign-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: curate-campaign\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[curate.scorers]\n{NAME} = campaign.poison:CampaignPoison\n")
    return folder
