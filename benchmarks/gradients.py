"""Per-sample gradient features against a loop of backward passes over one row each: how much faster, at which length?

    python benchmarks/gradients.py [repetitions]

A random Llama of 3.2 M parameters in its linear layers (hidden 256, 4 layers, 2,048 tokens) with LoRA of rank 8 on the
attention layers; float32, one thread, 2,048 tokens a batch as in a run, loss over the later half of each row. Ours is the
whole `less` scorer for one checkpoint: gradients, Adam's direction, sketch of 8,192. The loop is LESS's: the model's own loss
on one row, backward, gradients concatenated; it stops before the projection. The two take turns, so that a busy machine slows
both; times are process CPU seconds.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from curate.core import Checkpoint, Row
from curate.gradients import per_sample_gradients
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, attach_adapters
from curate.scorers.less import Less
from curate.settings import Lora
from curate.store import atomic_write, canonical

LENGTHS = (16, 32, 64, 128, 512)
TOKENS = 2048


def random_model() -> LanguageModel:
    """A small Llama with adapters whose B is not zero, as after a warm-up."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8)
    adapted, names = attach_adapters(LlamaForCausalLM(config).eval(), Lora(r=8, alpha=16, targets="attention"), seed=0)
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


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    model = random_model()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        context = ScoringContext(model=model, checkpoints=(checkpoint(model, Path(folder)),))
        print(f"{'tokens':>6} {'loop ms/row':>20} {'less ms/row':>20} {'gradients only':>20} {'loop / less':>20}")
        for length in LENGTHS:
            supervised = np.arange(length) >= length // 2
            rows = [Row(generator.integers(3, 2048, length).astype(np.int32), supervised) for _ in range(TOKENS // length)]
            batch = model.batch(rows)
            ways: list[Callable[[], object]] = [
                lambda rows=rows: loop(model, rows),  # type: ignore[misc]
                lambda batch=batch: Less().score(batch, context),  # type: ignore[misc]
                lambda batch=batch: per_sample_gradients(model, batch, lambda name, gradients: None),  # type: ignore[misc]
            ]
            for way in ways:
                way()
            taken = np.array([[seconds(way) for way in ways] for _ in range(repetitions)]) / len(rows) * 1e3
            shown = [f"{np.median(column):.2f} ({column.min():.2f}-{column.max():.2f})" for column in taken.T]
            ratio = taken[:, 0] / taken[:, 1]
            print(f"{length:>6} {shown[0]:>20} {shown[1]:>20} {shown[2]:>20} {f'{np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f})':>20}", flush=True)


if __name__ == "__main__":
    main()
