"""On a trained model and real tasks, shared prefixes give the numbers and the answers of the uncached model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.harness.questions import build_questions
from curate.harness.reading import LocalTask, read_task
from curate.harness.tokens import HarnessTokens
from curate.inference.engine import Engine
from curate.inference.growing import most_likely
from curate.inference.own_attention import Answering, score
from curate.inference.stops import Stops
from curate.model import LanguageModel, fresh, resolve
from curate.settings import ModelSpec

pytestmark = pytest.mark.real
TASKS = Path(__file__).parents[2] / "benchmarks" / "lm_eval_tasks"


@pytest.fixture(scope="module")
def model(shared: Path) -> LanguageModel:
    return fresh(resolve(ModelSpec(path=str(shared / "models/prose-28m")), shared))


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files beside the data that they name."""
    made = tmp_path_factory.mktemp("tasks")
    for file in TASKS.glob("*.yaml"):
        shutil.copy(file, made)
    for data in (shared / "data/targets").glob("*.parquet"):
        (made / data.name).symlink_to(data)
    return made


def task(folder: Path, name: str) -> LocalTask:
    read = read_task(folder / f"{name}.yaml")
    return LocalTask(read.file.model_copy(update={"num_fewshot": 2}), read.folder, read.documents)


@pytest.mark.parametrize("name", ["mmlu_first", "arc", "boolq"])
def test_log_likelihoods_of_real_tasks_equal_unshared_ones(model: LanguageModel, folder: Path, name: str) -> None:
    questions = build_questions(task(folder, name), limit=3)
    pairs = HarnessTokens(model.tokenizer, 2048).pairs([pair for question in questions.questions for pair in question.requests])
    engine = Engine(model)
    found = engine.score(engine.plan([pair.context for pair in pairs], [[pair.continuation] for pair in pairs]))
    assert engine.forward_tokens < engine.asked_tokens / 1.8
    for pair, (scored,) in zip(pairs, found, strict=True):
        with torch.inference_mode():
            alone = score(model, pair.context, pair.continuation)
        assert scored.tokens == pytest.approx(alone.tokens, abs=2e-5)
        assert scored.greedy == alone.greedy


@pytest.mark.parametrize("name", ["svamp", "gsm8k"])
def test_greedy_answers_to_real_tasks_equal_unshared_ones(model: LanguageModel, folder: Path, name: str) -> None:
    questions = build_questions(read_task(folder / f"{name}.yaml"), limit=3)
    tokens = HarnessTokens(model.tokenizer, 2048)
    prompts = [tokens.prompt(question.context, 16).context for question in questions.questions]
    stops = Stops.at([model.tokenizer.eos_token_id])
    found = Engine(model).generate(prompts, max_tokens=16, stops=stops)
    with torch.inference_mode():
        alone = [Answering(model, 16, stops, most_likely).answers(prompt, np.array([0]))[0] for prompt in prompts]
    assert found == alone
