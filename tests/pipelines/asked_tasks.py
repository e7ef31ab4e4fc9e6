"""Task files in a folder, adapters of the tiny model, and what that model says to a prompt without any cache: the oracle of `curate evaluate`."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from curate.harness.results import Evaluated
from curate.pipelines.evaluate_models import Wanted, evaluate_models
from curate.settings import ModelSpec

COLOURS = ("red", "blue", "dark green", "white")
ROWS = [{"question": f"What is {i} plus {i % 7}?", "options": [COLOURS[(i + j) % 4] for j in range(3)], "label": i % 3, "answer": str(i)} for i in range(10)]
EXAMPLES = [{"question": f"Is {i} a number?", "options": ["yes", "no", "perhaps"], "label": 0, "answer": "yes"} for i in range(3)]
CHOICE = """task: choice
data: {test: rows.jsonl, train: examples.jsonl}
test_split: test
fewshot_split: train
fewshot_config: {sampler: first_n}
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: options
doc_to_target: label
metadata: {version: 3}
"""
FREE = """task: free
data: {test: rows.jsonl, train: examples.jsonl}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {until: ["o"], max_gen_toks: 6}
"""
WHOLE = """task: whole
data: {test: rows.jsonl}
output_type: loglikelihood_rolling
doc_to_target: question
"""
PROMPT = "Question: Is 0 a number?\nAnswer: yes\n\nQuestion: Is 1 a number?\nAnswer: yes\n\nQuestion: {question}\nAnswer:"
INVOCATION = "\nAnswer:"


def tasks_in(folder: Path, **texts: str) -> dict[str, str]:
    """The data and a task file for each text, by name."""
    for name, rows in (("rows", ROWS), ("examples", EXAMPLES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return {name: str(folder / f"{name}.yaml") for name in texts}


def tokenizer_of(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(model))


def plain(model: Path, adapter: Path | None = None) -> Any:
    """The model as transformers and PEFT load it."""
    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (loaded if adapter is None else peft.PeftModel.from_pretrained(loaded, str(adapter))).eval()


def adapter_in(folder: Path, model: Path, seed: int = 1, **config: Any) -> Path:
    """A LoRA adapter with random matrices, large enough to change what the tiny model says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
        peft.get_peft_model(plain(model), peft.LoraConfig(**settings | config)).save_pretrained(str(folder))
    return folder


def nats(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """log p(continuation | context) from one forward pass in float64 arithmetic after the logits."""
    before, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(logs[place - 1, whole[place]] for place in range(len(before), len(whole))))


def greedy(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What is said, token by token, without any cache."""
    ids = list(tokenizer(prompt)["input_ids"])
    said: list[int] = []
    with torch.no_grad():
        for _ in range(tokens):
            best = int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax())
            if best == tokenizer.eos_token_id:
                break
            said.append(best)
    return str(tokenizer.decode(said, skip_special_tokens=True))


def evaluated(model: Path, tasks: Sequence[str], folder: Path, **fields: Any) -> Evaluated:
    """One call with its store in the folder."""
    spec = ModelSpec(path=str(model), **fields.pop("spec", {}))
    return evaluate_models(Wanted(model=spec, tasks=list(tasks), store=folder / "store", device="cpu", **fields))


def scores(found: Evaluated) -> list[dict[str, Any]]:
    """What was found without what it cost."""
    return [one.model_dump(include={"variant", "task", "items", "metrics", "empty"}) for one in found.examined]


def tokens(found: Evaluated) -> dict[tuple[str, str], int]:
    """How many were computed, by task and variant."""
    return {(one.task, one.variant): one.forward_tokens for one in found.examined}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
