"""Several adapters in one pass, or one variant after the other: which is faster, and from when on?

    python benchmarks/mixed_adapters.py [cpu|cuda]

Random Llamas of some widths with 8 random adapters on all linear layers, which are resident all the time; questions of about 16 tokens with 4 answers
each, behind a shared stretch of 64. A ratio above 1 says that mixed rows were faster. The best of five runs each, in turns so that a busy machine slows
both, after one that is not counted; process CPU seconds on one thread, or seconds on a GPU.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import torch
import transformers

from curate.inference.attention import ours
from curate.inference.mixed import score_mixed
from curate.inference.scoring import ScoringPlan, ScoringRun, plan_scoring
from curate.inference.variants import Variants
from curate.model import LanguageModel

VARIANTS, VOCABULARY = 8, 1000


def made(width: int, layers: int, device: str) -> LanguageModel:
    torch.manual_seed(0)
    heads = max(2, width // 64)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval().to(device)
    return LanguageModel(model, SimpleNamespace(pad_token_id=0, eos_token_id=1), device, {})


def adapters(width: int, layers: int, folder: Path) -> dict[str, Path]:
    found = {}
    for number in range(VARIANTS):
        config = peft.LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        peft.get_peft_model(made(width, layers, "cpu").model, config).save_pretrained(str(folder / str(number)))
        found[str(number)] = folder / str(number)
    return found


def planned(questions: int) -> ScoringPlan:
    generator = np.random.default_rng(questions)
    shared = generator.integers(2, VOCABULARY, 64).tolist()
    contexts = [shared + generator.integers(2, VOCABULARY, generator.integers(8, 24)).tolist() for _ in range(questions)]
    return plan_scoring(contexts, [[generator.integers(2, VOCABULARY, 2).tolist() for _ in range(4)] for _ in contexts])


def one_by_one(variants: Variants, plan: ScoringPlan) -> dict[str, list[float]]:
    found = {}
    for name in variants.names:
        with variants.using(name) as model, torch.inference_mode(), ours(model.model):
            found[name] = [scored.loglikelihood for several in ScoringRun(model, plan).results() for scored in several]
    return found


def together(variants: Variants, plan: ScoringPlan) -> dict[str, list[float]]:
    found = score_mixed(variants, variants.names, plan)
    return {name: [scored.loglikelihood for several in found[name] for scored in several] for name in variants.names}


def seconds(device: str, *runs: Callable[[], object]) -> list[float]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = [float("inf")] * len(runs)
    for _ in range(5):
        for number, run in enumerate(runs):
            start = clock()
            run()  # its results are on the CPU when it returns
            best[number] = min(best[number], clock() - start)
    return best


def main() -> None:
    warnings.simplefilter("ignore")
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    sizes = ((64, 3), (512, 4)) if device == "cpu" else ((512, 4), (2048, 16))
    torch.set_num_threads(1)
    print(f"{VARIANTS} adapters on {device}")
    print(f"{'width':>6} {'layers':>6} {'questions':>9} {'tokens each':>11} {'one by one':>11} {'mixed':>8} {'ratio':>6} {'apart by':>9}")
    for width, layers in sizes:
        with tempfile.TemporaryDirectory() as folder:
            variants = Variants(made(width, layers, device), adapters(width, layers, Path(folder)), resident=VARIANTS)
            for questions in (1, 8, 64):
                plan = planned(questions)
                alone, mixed = one_by_one(variants, plan), together(variants, plan)
                apart = max(abs(a - b) for name in alone for a, b in zip(alone[name], mixed[name], strict=True))
                first, second = seconds(device, partial(one_by_one, variants, plan), partial(together, variants, plan))
                row = f"{width:>6} {layers:>6} {questions:>9} {plan.plan.tokens:>11} {first:>10.3f}s {second:>7.3f}s {first / second:>6.2f} {apart:>9.1e}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
