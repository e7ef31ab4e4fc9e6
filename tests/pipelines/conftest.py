"""A small experiment on generated data and the tiny model, run through the command line's own entry point."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

RECIPE = """
name: small
pool: {{synthetic: pool, rows: 300, group: kind}}
target: {{rare: {{synthetic: target, rows: 12, group: kind}}}}
model: {{path: {model}, max_length: 96, lora: {{r: 4, alpha: 8, targets: attention}}}}
warmup: {{fraction: 10%, epochs: 2, learning_rate: 1.0e-3, lora: {{r: 2, alpha: 4, targets: attention}}}}
features:
  gradient: {{name: less, width: 256}}
  surprise: loss
arms:
  rr: {{vectors: gradient, selector: round_robin}}
  hard: {{scores: surprise, selector: top_k}}
budgets: [20, "400 tokens"]
seeds: [0, 1]
train: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 8}}
evaluate:
  - {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
  - {{task: exact_match, data: {{synthetic: test, rows: 10}}, shots: 1}}
"""

Command = Callable[..., int]


@pytest.fixture(scope="session")
def recipe(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE.format(model=tiny))
    return path


@pytest.fixture
def curate(command_line: Command) -> Command:
    """The command line, with the one arithmetic thread that tasks have anyway."""
    torch.set_num_threads(1)
    return command_line
