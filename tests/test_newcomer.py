"""The newcomer's path: the very commands of docs/tutorial.md, one after the other, in an empty folder, with a Hub on loopback and the tiny model."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub.stub import Hub, serving

TOKEN = "hf_" + "Newcomer" * 4


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


class Terminal:
    """A folder, and a shell in it that knows the Hub."""

    def __init__(self, folder: Path, root: Path, hub: Hub) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
        named = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "cache"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(root)}
        self.environment = {**kept, **named, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def python(self, *arguments: str) -> str:
        """What it prints; it has to end well."""
        ended = subprocess.run([sys.executable, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        return ended.stdout

    def curate(self, line: str) -> str:
        """A line of the page."""
        program, *words = shlex.split(line)
        assert program == "curate", line
        return self.python("-m", "curate", *words)


def taken(folder: Path, arm: str) -> list[dict[str, Any]]:
    """The rows that an arm of the run took, as the store has them."""
    from pyarrow import parquet

    results = json.loads((folder / "runs" / "desks" / "results.json").read_bytes())
    key = next(row["key"] for row in results["selections"] if row["arm"] == arm)
    return list(parquet.read_table(folder / "store" / key / "selection.parquet").to_pylist())


@pytest.mark.slow
def test_the_commands_of_the_tutorial_lead_from_a_jsonl_to_a_dataset_on_the_hub_and_back(root: Path, tmp_path: Path) -> None:
    said: dict[str, str] = {}
    printed: list[str] = []
    with serving({TOKEN: True}) as hub:
        terminal = Terminal(tmp_path, root, hub)
        for language, text in blocks((root / "docs" / "tutorial.md").read_text(encoding="utf-8")):
            if language == "python":
                printed.append(terminal.python("-c", text))
                continue
            for line in text.splitlines():
                known = line.replace(" ROW", f" {taken(tmp_path, 'hidden')[0]['id']}") if " ROW" in line else line
                said[line] = terminal.curate(known)
        repository = hub.repositories["your-name/desks"]
    assert "pool.jsonl: 300 rows, read as prompt_completion" in said["curate init my --pool pool.jsonl --target desks.jsonl --model model --budget 20"]
    assert "valid; 3 arms" in said["curate validate my/recipe.yaml"]
    results = json.loads((tmp_path / "runs" / "desks" / "results.json").read_bytes())
    assert {cell["arm"] for cell in results["cells"]} >= {"words", "hidden", "transport", "random", "full", "zero_shot"}
    assert (tmp_path / "runs" / "desks" / "report.html").is_file()
    assert "rank 1 of 20" in said["curate explain desks ROW"]
    assert "all 20 rows were found again" in said["curate verify subset --data my"].replace("20 rows", "20 rows")
    assert repository.private and "20 rows pushed to your-name/desks" in said["curate export desks hidden --push your-name/desks"]
    assert printed[-1].startswith("20 ['prompt', 'completion', 'kind', 'skill', 'id', 'rank'")
    kept = taken(tmp_path, "hidden")
    stored = {row["prompt"] for row in map(json.loads, (tmp_path / "pool.jsonl").read_text().splitlines())}
    assert len(kept) == 20 and len(stored) == 300
    grown = json.loads((tmp_path / "runs" / "desks-2" / "results.json").read_bytes())
    assert {entry["arm"] for entry in grown["churn"]} >= {"words", "hidden", "transport"}
