"""Per-sample gradient features against a loop of backward passes over one row each: how much faster, at which length?

    python benchmarks/gradients.py [repetitions]

A random Llama of 3.2 M parameters in its linear layers (hidden 256, 4 layers, 2,048 tokens); float32, one thread, 2,048 tokens a
batch as in a run, loss over the later half of each row. Adapters: LoRA of rank 8 on the attention layers; ours is the whole
`less` scorer for one checkpoint with Adam's direction, sketched to 8,192 numbers, or compared exactly with 100 target rows.
All weights: the plain gradients of every linear layer, both factors projected to 16 numbers a layer. The loop is LESS's:
the model's own loss on one row, backward, gradients concatenated; it stops before the projection. The floor is a forward pass and
the gradients of the layers' inputs, weights frozen. All take turns, so that a busy machine slows all; times are process CPU seconds.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from curate.core import Checkpoint, Row
from curate.exact_similarity import ExactSimilarity
from curate.gradient_scorer import GradientScorer
from curate.gradients import LayerGradient
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, attach_adapters, token_losses
from curate.scorers.less import Less
from curate.settings import Lora
from curate.store import atomic_write, canonical

LENGTHS = (16, 32, 64, 128, 512)
TOKENS = 2048
CONFIG = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8)


def random_model() -> LanguageModel:
    """A small Llama with adapters whose B is not zero, as after a warm-up."""
    torch.manual_seed(0)
    adapted, names = attach_adapters(LlamaForCausalLM(CONFIG).eval(), Lora(r=8, alpha=16, targets="attention"), seed=0)
    for parameter in names.values():
        torch.nn.init.normal_(parameter, std=0.02)
    return LanguageModel(adapted, SimpleNamespace(pad_token_id=0), "cpu", names)


def checkpoint(model: LanguageModel, folder: Path) -> Checkpoint:
    """The model's weights with moments of a plausible size."""
    weights = {name: parameter.detach() for name, parameter in model.names.items()}
    moments = {f"first.{name}": torch.randn_like(tensor) * 1e-3 for name, tensor in weights.items()}
    moments |= {f"second.{name}": torch.rand_like(tensor) * 1e-5 for name, tensor in weights.items()}
    atomic_write(folder / "weights.safetensors", save(weights))
    atomic_write(folder / "moments.safetensors", save(moments))
    atomic_write(folder / "state.json", canonical({"step": 100, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}))
    return Checkpoint(folder, 100, 1e-3)


def loop(model: LanguageModel, rows: list[Row]) -> None:
    """One backward pass per row, its gradients concatenated."""
    for row in rows:
        model.model.zero_grad(set_to_none=True)
        batch = model.batch([row])
        labels = batch.input_ids.masked_fill(~batch.supervised, -100)
        model.model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=labels).loss.backward()
        torch.cat([parameter.grad.flatten() for parameter in model.names.values() if parameter.grad is not None])
    model.model.zero_grad(set_to_none=True)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def floor(model: LanguageModel, rows: list[Row]) -> None:
    """Forward and backward with every weight frozen: only the embedding's output wants a gradient."""
    wanted = [parameter for parameter in model.model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    hook = model.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    losses, _ = token_losses(model.model, model.batch(rows))
    losses.mean().backward()
    hook.remove()
    for parameter in wanted:
        parameter.requires_grad_(True)


class Plain(GradientScorer):
    """The model's own gradients, without a warm-up."""

    name: str = "plain"

    def shares(self, context: ScoringContext) -> list[tuple[Checkpoint | None, float]]:
        return [(None, 1.0)]

    def step(self, layer: LayerGradient, number: int, context: ScoringContext) -> torch.Tensor:
        found: torch.Tensor = layer.dense.flatten(1)
        return found


def compare(names: list[str], ways: Callable[[list[Row]], list[tuple[Callable[[], object], int]]], repetitions: int) -> None:
    """A table: CPU milliseconds a row, and the loop, which comes first, over each of the others."""
    ours = names[1:]
    print(f"{'tokens':>6} " + " ".join(f"{name + ' ms/row':>20}" for name in names) + " " + " ".join(f"{'loop / ' + name:>20}" for name in ours))
    generator = np.random.default_rng(0)
    for length in LENGTHS:
        supervised = np.arange(length) >= length // 2
        rows = [Row(generator.integers(3, 2048, length).astype(np.int32), supervised) for _ in range(TOKENS // length)]
        timed = ways(rows)
        for way, _ in timed:
            way()
        taken = np.array([[seconds(way) / count for way, count in timed] for _ in range(repetitions)]) * 1e3
        columns = [*taken.T, *(taken[:, 0] / taken[:, i] for i in range(1, len(names)))]
        print(f"{length:>6} " + " ".join(f"{f'{np.median(c):.2f} ({c.min():.2f}-{c.max():.2f})':>20}" for c in columns), flush=True)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    model = random_model()
    with tempfile.TemporaryDirectory() as folder:
        context = ScoringContext(model=model, checkpoints=(checkpoint(model, Path(folder)),))

        def adapters(rows: list[Row]) -> list[tuple[Callable[[], object], int]]:
            exact, batch, given = ExactSimilarity(of=Less()), model.batch(rows), replace(context, target=rows[:1] * 100)
            prepared = replace(given, state=exact.prepare([], given))
            ours = [lambda: Less(width=8192).score(batch, context), lambda: exact.score(batch, prepared), lambda: floor(model, rows)]
            return [(lambda: loop(model, rows), len(rows)), *((way, len(rows)) for way in ours)]

        print("adapters, Adam's direction")
        compare(["loop", "less", "exact", "floor"], adapters, repetitions)

    torch.manual_seed(0)
    whole = LlamaForCausalLM(CONFIG).eval()
    plain = LanguageModel(whole, SimpleNamespace(pad_token_id=0), "cpu", dict(whole.named_parameters()))

    def weights(rows: list[Row]) -> list[tuple[Callable[[], object], int]]:
        scorer = Plain(projection="factored", normalise="none", width=28 * 16**2)
        batch, given = plain.batch(rows), ScoringContext(model=plain)
        ours = [lambda: scorer.score(batch, given), lambda: floor(plain, rows)]
        return [(lambda: loop(plain, rows), len(rows)), *((way, len(rows)) for way in ours)]

    print("all weights, plain gradients")
    compare(["loop", "factored", "floor"], weights, repetitions)


if __name__ == "__main__":
    main()
