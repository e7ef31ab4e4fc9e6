"""What the tests of `curate status` look at."""

import os
from pathlib import Path

from rich.console import Console

from curate.pipelines.status import status
from curate.report.standing import Standing, print_standing

BEGAN = 1_700_000_000.0  # when the run of these tests was started


def seen(directory: Path) -> Standing:
    return status(directory, directory.parents[1] / "store")


def told(standing: Standing) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    print_standing(standing, console)
    return console.export_text()
