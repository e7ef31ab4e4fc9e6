"""A run can read the checkpoints of the user's own Hugging Face Trainer instead of training a warm-up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.core import Artifact
from curate.pipelines.warm import checkpoints_of

RECIPE = """
name: own
pool: {{synthetic: pool, rows: 60, group: kind}}
target: {{rare: {{synthetic: target, rows: 6, group: kind}}}}
model: {{path: {model}, max_length: 96}}
warmup: {{trainer: run}}
features: {{gradient: less, error: {{name: el2n, at: every}}}}
arms:
  rr: {{vectors: gradient, selector: round_robin}}
  hard: {{scores: error, selector: top_k}}
budgets: [10]
baselines: [random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""

Command = Callable[..., int]


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Trainer's run of two checkpoints, and a recipe that names it."""
    import peft
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("trainer")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(tiny), dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    ids = torch.randint(3, 500, (16, 12))
    rows: Any = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in ids]
    steps = {"max_steps": 4, "save_steps": 2, "logging_steps": 1}
    settings = TrainingArguments(output_dir=str(folder / "run"), per_device_train_batch_size=4, learning_rate=1e-3, report_to=[], use_cpu=True, **steps)
    Trainer(model=model, args=settings, train_dataset=rows).train()
    (folder / "own.yaml").write_text(RECIPE.format(model=tiny))
    return folder


def test_a_recipe_names_the_run_and_scorers_read_its_checkpoints(command_line: Command, trained: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1, "--quiet"]
    assert command_line("run", trained / "own.yaml", *where, "--until", "select") == 0
    (warmup,) = (tmp_path / "store").glob("warmup-*")
    found = checkpoints_of(Artifact(warmup.name, warmup, json.loads((warmup / "manifest.json").read_bytes())))
    assert [checkpoint.step for checkpoint in found] == [2, 4]
    assert found[0].learning_rate > found[1].learning_rate > 0
    assert len(list((tmp_path / "store").glob("features-*"))) == 2


def test_a_run_that_is_not_there_is_one_line(command_line: Command, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("run", trained / "own.yaml", "warmup.trainer=nowhere", "--store", tmp_path / "s", "--runs", tmp_path / "r", "--quiet") == 4
    said = capsys.readouterr().err.strip()
    assert "warmup.trainer 'nowhere' is not a folder" in said and len(said.splitlines()) == 1


def test_fields_that_a_finished_run_would_ignore_are_refused(command_line: Command, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("validate", trained / "own.yaml", "warmup.epochs=3") == 2
    assert "warmup.trainer reads a finished run, so epochs would do nothing" in capsys.readouterr().err
