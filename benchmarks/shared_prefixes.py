"""Few-shot multiple choice: forward tokens and time of the shared engine beside plain batches of transformers and lm-eval's hf backend, in one process.

    python benchmarks/shared_prefixes.py MODEL TASK.yaml [--limit 200] [--shots 5] [--batch 16] [--device cpu] [--repeat 3] [--adapters N]

The questions and tokens are those of the task file (curate.harness, equal to lm-eval's); every way scores the same (context, continuation) pairs and
the largest difference in log-likelihood is printed. lm-eval's part runs where `lm_eval` can be imported. MODEL may be `random-1b`: a Llama of 1.2
billion random numbers with the tokenizer given by --tokenizer. With --adapters, N random LoRA adapters are evaluated as variants besides.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.harness.questions import build_questions
from curate.harness.reading import read_task
from curate.harness.tokens import Encoded, HarnessTokens
from curate.inference.engine import Engine
from curate.model import LanguageModel, ModelHandle, fresh, load_tokenizer, resolve
from curate.settings import ModelSpec


@dataclass
class Way:
    """One way to score the pairs, its forward tokens, and its fastest time by the clock and by the processor, which other work disturbs less."""

    name: str
    nats: np.ndarray[Any, Any]
    tokens: int
    seconds: float
    processor: float


def measured(name: str, run: Callable[[], tuple[np.ndarray[Any, Any], int]], repeat: int, device: str) -> Way:
    clock = processor = float("inf")
    for _ in range(repeat):
        began, worked = time.perf_counter(), time.process_time()
        nats, tokens = run()
        if device != "cpu":
            torch.cuda.synchronize()
        clock, processor = min(clock, time.perf_counter() - began), min(processor, time.process_time() - worked)
    return Way(name, nats, tokens, clock, processor)


def shared(model: LanguageModel, pairs: list[Encoded]) -> tuple[np.ndarray[Any, Any], int]:
    """Plan and run, as for the first variant; later variants reuse the plan."""
    engine = Engine(model)
    found = engine.loglikelihoods([pair.context for pair in pairs], [[pair.continuation] for pair in pairs])
    return np.array([values[0] for values in found]), engine.forward_tokens


def plain(model: LanguageModel, pairs: list[Encoded], batch: int) -> tuple[np.ndarray[Any, Any], int]:
    """Right-padded batches, the longest first."""
    found, tokens = np.zeros(len(pairs)), 0
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i].context) - len(pairs[i].continuation))
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            part = [pairs[i] for i in order[start : start + batch]]
            rows = [torch.tensor([*pair.context, *pair.continuation][:-1]) for pair in part]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad).to(model.device)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True).to(model.device)
            logits = torch.log_softmax(model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float(), -1)
            tokens += ids.numel()
            for row, (i, pair) in enumerate(zip(order[start : start + batch], part, strict=True)):
                place = torch.arange(len(pair.context) - 1, len(pair.context) + len(pair.continuation) - 1)
                found[i] = float(logits[row, place, torch.tensor(pair.continuation)].double().sum())
    return found, tokens


def harness(model: LanguageModel, texts: list[tuple[str, str]], batch: int) -> tuple[np.ndarray[Any, Any], int]:
    """lm-eval's own HFLM on the same texts."""
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    counted = 0

    def count(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        nonlocal counted
        counted += (arguments[0] if arguments else given["input_ids"]).numel()

    hook = model.model.register_forward_pre_hook(count, with_kwargs=True)
    peer = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch, device=model.device, max_length=2048)
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(texts)]
    found = np.array([nats for nats, _ in peer.loglikelihood(requests, disable_tqdm=True)])
    hook.remove()
    return found, counted


def random_1b(tokenizer: Any, device: str, dtype: str) -> LanguageModel:
    """A Llama in the shape of a 1B model, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(shape).to(getattr(torch, dtype))
    return LanguageModel(model.eval(), tokenizer, device, {})


def loaded(given: argparse.Namespace) -> tuple[LanguageModel, int]:
    if given.model == "random-1b":
        handle = resolve(ModelSpec(path=str(Path(given.tokenizer).absolute())), Path.cwd())
        return random_1b(load_tokenizer(handle), given.device, given.dtype), 2048
    found: ModelHandle = resolve(ModelSpec(path=str(Path(given.model).absolute()), dtype=given.dtype), Path.cwd())
    return fresh(found, given.device), found.max_length


def adapters(model: LanguageModel, count: int) -> Any:
    """The model with random LoRA adapters of rank 16 on all linear layers."""
    import peft

    config = peft.LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    made: Any = peft.get_peft_model(model.model, config, adapter_name="0")
    for number in range(1, count):
        made.add_adapter(str(number), config)
    return made.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("--data")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--adapters", type=int, default=0)
    given = parser.parse_args()
    model, longest = loaded(given)
    task = read_task(given.task)
    task = type(task)(task.file.model_copy(update={"num_fewshot": given.shots}), task.folder, task.documents)
    questions = build_questions(task, given.data, limit=given.limit)
    texts = [pair for question in questions.questions for pair in question.requests]
    pairs = HarnessTokens(model.tokenizer, longest).pairs(texts)
    model.model(input_ids=torch.tensor([pairs[0].context], device=given.device))  # warms up
    ways = [measured("shared", lambda: shared(model, pairs), given.repeat, given.device)]
    ways.append(measured(f"plain, {given.batch} rows", lambda: plain(model, pairs, given.batch), given.repeat, given.device))
    try:
        ways.append(measured(f"lm-eval hf, {given.batch} rows", lambda: harness(model, texts, given.batch), given.repeat, given.device))
    except ImportError:
        print("lm_eval is not installed here; its column is left out")
    mean = [float(np.mean([len(part) for part in parts])) for parts in ([pair.context for pair in pairs], [pair.continuation for pair in pairs])]
    print(f"{len(questions)} questions, {len(pairs)} requests of {mean[0]:.0f} + {mean[1]:.1f} tokens")
    print(f"{'':<24}{'tokens':>12}{'seconds':>10}{'questions/s':>13}{'tokens/shared':>15}{'time/shared':>13}{'CPU s':>9}{'CPU/shared':>12}{'max |d nats|':>14}")
    for way in ways:
        apart = float(np.abs(way.nats - ways[0].nats).max())
        ratios = f"{way.tokens / ways[0].tokens:>15.1f}{way.seconds / ways[0].seconds:>13.2f}"
        worked = f"{way.processor:>9.2f}{way.processor / ways[0].processor:>12.2f}"
        print(f"{way.name:<24}{way.tokens:>12,}{way.seconds:>10.2f}{len(questions) / way.seconds:>13.1f}{ratios}{worked}{apart:>14.1e}")
    if given.adapters:
        variants(model, pairs, given)


def variants(model: LanguageModel, pairs: list[Encoded], given: argparse.Namespace) -> None:
    """The plan made once and run by every adapter, the base resident."""
    made = adapters(model, given.adapters)
    variant = LanguageModel(made, model.tokenizer, given.device, {})
    engine = Engine(variant)
    wanted = engine.plan([pair.context for pair in pairs], [[pair.continuation] for pair in pairs])
    if given.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for number in range(given.adapters):
        made.set_adapter(str(number))
        engine.score(wanted)
    seconds = time.perf_counter() - began
    questions = len(pairs) // 4 * given.adapters
    print(f"{given.adapters} adapters: {seconds:.1f} s, {questions / seconds:.0f} questions of four choices a second")
    print(f"{engine.peak_bytes / 2**20:.1f} MiB of stored keys and values at most")
    if given.device != "cpu":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory at most")


if __name__ == "__main__":
    main()
