"""How far per-sample gradient features are from the least that they could cost, on this device.

    python benchmarks/gradient_floor.py [--device cuda] [--shape 1b|small] [--repetitions 5]

A random Llama with LoRA of rank 8 on the attention layers; bfloat16 on a GPU, float32 and one thread on a CPU; loss over the
later half of each row. Taking turns: the floor (forward, and backward to the inputs of every layer, weights frozen), the
gradients alone, `less` with Adam's direction sketched to 8,192 numbers, `less` against 100 target rows without a sketch,
and LESS's loop of one row at a time, gradients concatenated and not projected. The floor by arithmetic is 4 operations a
weight of the linear layers and token, at the peak rate that is given (`--peak`, TFLOP/s; 989 is an H100's dense bfloat16).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from gradients import checkpoint, floor, loop
from transformers import LlamaConfig, LlamaForCausalLM

from curate.core import Row
from curate.exact_similarity import ExactSimilarity
from curate.gradients import per_sample_gradients
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, attach_adapters
from curate.passes import PassScorer
from curate.scorers.less import Less
from curate.settings import Lora

SHAPES = {
    "1b": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    "small": {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8},
}
TOKENS = {"cuda": 16384, "cpu": 2048}


def random_model(shape: str, device: str) -> LanguageModel:
    torch.manual_seed(0)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], attn_implementation="sdpa")).to(kind).eval()
    adapted, names = attach_adapters(model, Lora(r=8, alpha=16, targets="attention"), seed=0)
    adapted.to(device)
    for parameter in names.values():
        torch.nn.init.normal_(parameter, std=0.02)
    return LanguageModel(adapted, SimpleNamespace(pad_token_id=0), device, names)


def linear_weights(model: LanguageModel) -> int:
    return sum(p.numel() for name, p in model.model.named_parameters() if p.ndim == 2 and "lora" not in name and "embed" not in name)


def seconds(device: str, work: Callable[[], object]) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter() if device == "cuda" else time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() if device == "cuda" else time.process_time()) - start


def scored(scorer: PassScorer, context: ScoringContext, rows: list[Row]) -> Callable[[], object]:
    model = context.model
    if model is None:
        raise ValueError("a benchmark of gradients needs a model")
    return lambda: scorer.score(model.batch(rows), context)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peak", type=float, default=989.0)
    given = parser.parse_args()
    device = given.device
    torch.set_num_threads(1)
    model = random_model(given.shape or ("1b" if device == "cuda" else "small"), device)
    weights = linear_weights(model)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    print(f"{where}; {weights / 1e6:.1f} M weights in linear layers, {TOKENS[device]} tokens a batch")
    print(f"{'tokens':>6} {'rows/s of less':>15} {'floor/gradients':>16} {'floor/sketch':>13} {'floor/exact':>12} {'loop/sketch':>12} {'of peak':>8}")
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        kept = checkpoint(model, Path(folder))
        for length in (128, 512):
            made = [Row(generator.integers(3, 2000, length).astype(np.int32), np.arange(length) >= length // 2) for _ in range(TOKENS[device] // length)]
            context = ScoringContext(model=model, device=device, checkpoints=(kept,), target=made[:1] * 100)
            exact = ExactSimilarity(of=Less())
            few = made[: 8 if device == "cuda" else 4]
            ways: list[tuple[Callable[[], object], int]] = [
                (lambda rows=made: floor(model, rows), len(made)),  # type: ignore[misc]
                (lambda rows=made: per_sample_gradients(model, model.batch(rows), lambda name, gradients: None), len(made)),  # type: ignore[misc]
                (scored(Less(width=8192), context, made), len(made)),
                (scored(exact, replace(context, state=exact.prepare([], context)), made), len(made)),
                (lambda rows=few: loop(model, rows), len(few)),  # type: ignore[misc]
            ]
            for way, _ in ways:
                way()
            times = np.array([[seconds(device, way) / rows for way, rows in ways] for _ in range(given.repetitions)])
            bottom, plain, sketch, whole, single = np.median(times, axis=0)
            peak = 4 * weights * length / (given.peak * 1e12) / sketch if device == "cuda" else float("nan")
            ratios = f"{bottom / plain:>16.2f} {bottom / sketch:>13.2f} {bottom / whole:>12.2f} {single / sketch:>12.2f} {peak:>8.2f}"
            print(f"{length:>6} {1 / sketch:>15.1f} {ratios}", flush=True)


if __name__ == "__main__":
    main()
