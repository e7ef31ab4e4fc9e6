"""The two sides of benchmarks/bergson_peer.py: curate's hooks and bergson's collector on one model, timed batch by batch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

EPSILON = 1e-8  # bergson's
Features = Callable[[], Tensor]  # (B, D) of the rows it was made for


def write_inputs(folder: Path, rows: int, tokens: int) -> None:
    """The model, its second moments and the rows, for both sides to read."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    second = {name: 10 ** (-7 + 3 * torch.rand_like(weight)) for name, weight in model.named_parameters() if name.endswith("proj.weight")}
    save_file(second, folder / "second.safetensors")
    save_file({"rows": torch.randint(3, 2048, (rows, tokens))}, folder / "rows.safetensors")


class Side:
    """What both sides do alike: the rows, the floor, and the timing of one batch. Weights are frozen."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.model = model.requires_grad_(False)
        self.rows, self.second = load_file(folder / "rows.safetensors")["rows"], load_file(folder / "second.safetensors")
        self.ways: dict[str, Features] = {}

    def prepare(self, way: str, rows: int, tokens: int, width: int, seed: int) -> None:
        """Build everything that more than one batch uses, and run once; a width of 0 leaves the gradients as they are."""
        ids = self.rows[:rows, :tokens].contiguous()
        self.ways[way] = self.floor(ids) if way == "floor" else self.features(way, ids, width, seed)
        self.ways[way]()

    def features(self, way: str, ids: Tensor, width: int, seed: int) -> Features:
        raise NotImplementedError

    def seconds(self, way: str) -> float:
        """Process CPU seconds of one batch."""
        start = time.process_time()
        self.ways[way]()
        return time.process_time() - start

    def squared_norms(self, way: str) -> list[float]:
        """(B,) of the rows' features, and behind them how many numbers a row has."""
        found = self.ways[way]()
        return [*found.double().square().sum(1).tolist(), float(found.shape[1])]

    def floor(self, ids: Tensor) -> Features:
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100).flatten()
        embedding = self.model.get_input_embeddings()

        def run() -> Tensor:
            embedding.weight.requires_grad_(False)  # bergson's ways turn it on
            hook = embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
            logits: Tensor = self.model(ids, use_cache=False).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").backward()
            hook.remove()
            return logits

        return run


class Ours(Side):
    """curate's hooks on every linear layer but the head."""

    def __init__(self, folder: Path) -> None:
        from curate.model import LanguageModel

        super().__init__(folder, LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval())
        self.language_model = LanguageModel(self.model, SimpleNamespace(pad_token_id=0), "cpu", dict(self.model.named_parameters()))

    def features(self, way: str, ids: Tensor, width: int, seed: int) -> Features:
        from curate.gradients import trained_layers, watched
        from curate.interfaces import Batch, ScoringContext
        from curate.model import row_means, token_losses

        batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.ones_like(ids, dtype=torch.bool))
        layers = trained_layers(self.language_model)
        if way == "factored" and width:
            scorer = plain_gradients()(projection="factored", normalise="none", width=len(layers) * width**2, seed=seed)
            return lambda: scorer.score(batch, ScoringContext(model=self.language_model))
        project = projection(way, self.second, width, seed)

        def run() -> Tensor:
            found: dict[str, Tensor] = {}
            with watched(self.language_model, layers, lambda layer: found.update({layer.name: project(layer).flatten(1)})):
                losses, row = token_losses(self.model, batch)
                row_means(losses, row, len(ids)).sum().backward()
            return torch.cat([found[name] for name in layers], 1)

        return run


def plain_gradients() -> Any:
    """curate's gradient scorer for the model as it is, without a warm-up."""
    from curate.gradient_scorer import GradientScorer

    class Plain(GradientScorer):
        name: str = "plain"

        def shares(self, context: Any) -> Any:
            return [(None, 1.0)]

        def step(self, layer: Any, number: int, context: Any) -> Tensor:
            found: Tensor = layer.dense.flatten(1)
            return found

    return Plain


def projection(way: str, second: Mapping[str, Tensor], width: int, seed: int) -> Callable[[Any], Tensor]:
    """What becomes of one layer's `.inputs` (B, T, I) and `.deltas` (B, T, O): (B, width, width), or (B, O, I) for a width of 0.

    The one place to put another implementation.
    """
    generator = torch.Generator().manual_seed(seed)

    def signs(size: int) -> Tensor:
        return torch.randint(0, 2, (width, size), generator=generator).mul(2).sub(1).float() / width**0.5 if width else torch.eye(size)

    matrices = {name: (signs(moment.shape[0]), signs(moment.shape[1]).T.contiguous()) for name, moment in second.items()}
    divisors = {name: moment.sqrt() + EPSILON for name, moment in second.items()}

    def factored(layer: Any) -> Tensor:
        left, right = matrices[layer.name]
        return torch.bmm((layer.deltas @ left.T).transpose(1, 2), layer.inputs @ right)

    def adam(layer: Any) -> Tensor:
        (left, right), divisor = matrices[layer.name], divisors[layer.name]
        step, projected = torch.empty_like(divisor), torch.empty(len(layer.inputs), len(left), divisor.shape[1])
        for row, (delta, given) in enumerate(zip(layer.deltas, layer.inputs, strict=True)):  # one row's gradient stays in the cache
            torch.mm(delta.T, given, out=step)
            torch.mm(left, step.div_(divisor), out=projected[row])
        return projected @ right

    return {"factored": factored, "adam": adam}[way]


class Bergson(Side):
    """bergson's collector, as its `collect_gradients` drives it."""

    def __init__(self, folder: Path) -> None:
        from bergson.config import IndexConfig  # type: ignore[import-not-found]
        from bergson.utils.worker_utils import setup_model_and_peft  # type: ignore[import-not-found]

        self.config: Any = IndexConfig(run_path=str(folder / "run"), model=str(folder / "model"), precision="fp32", loss_reduction="mean")
        model, _ = setup_model_and_peft(self.config)
        super().__init__(folder, model)

    def features(self, way: str, ids: Tensor, width: int, seed: int) -> Features:
        from bergson import GradientCollector, GradientProcessor  # type: ignore[import-not-found]
        from bergson.collector.collector import fwd_bwd_factory  # type: ignore[import-not-found]
        from bergson.gradients import AdamNormalizer  # type: ignore[import-not-found]
        from datasets import Dataset

        embedding = self.model.get_input_embeddings().weight.requires_grad_(True)
        moments = {name.removeprefix("model.").removesuffix(".weight"): AdamNormalizer(moment) for name, moment in self.second.items()}
        processor = GradientProcessor(moments if way == "adam" else {}, projection_dim=width or None, projection_seed=seed)
        data = Dataset.from_dict({"input_ids": ids.tolist()})
        collector = GradientCollector(model=self.model.base_model, cfg=self.config, processor=processor, data=data, skip_index=True)
        forward_backward = fwd_bwd_factory(self.config)
        collected = torch.ones_like(ids, dtype=torch.bool)

        def run() -> Tensor:
            embedding.requires_grad_(True)  # as bergson has it; the floor takes it away
            with collector.with_batch(collected):
                forward_backward(self.model, ids, ids, {})
            found = torch.cat([collector.mod_grads[name] for name in collector.target_info], dim=1)
            collector.mod_grads.clear()
            return found

        return run
