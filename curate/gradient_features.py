"""Gradients to features: sketched vectors, factored vectors, and exact inner products with the target's directions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from curate.gradient_scorer import GradientScorer
from curate.gradients import LayerGradient, trained_layers
from curate.interfaces import Batch, ScoringContext
from curate.model import LanguageModel
from curate.passes import Reader, Wanted, model_of, show
from curate.projection import CountSketch, factor


class DirectionReader(Reader):
    """Follows each row's direction layer by layer: its norm under every set of weights, and whether there is a gradient at all."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"gradients"})

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext) -> None:
        shares = scorer.shares(context)
        self.scorer, self.context = scorer, context
        self.weights = [checkpoint for checkpoint, _ in shares]
        self.shares = [share for _, share in shares]
        self.objective = scorer.objective
        self.modules = scorer.modules
        self.model: LanguageModel = model_of(scorer, context)
        rows, device = len(batch.input_ids), self.model.device
        self.squares = torch.zeros(len(shares), rows, dtype=torch.float64, device=device)
        self.moved = torch.zeros(len(shares), rows, dtype=torch.bool, device=device)

    def directed(self, layer: LayerGradient, number: int) -> Tensor:
        """(B, P) the rows' directions in this layer, of unit length each where modules are normalised."""
        self.mark(number, layer)
        flat = self.step(layer, number)
        if self.scorer.normalise == "none":
            return flat
        norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
        if self.scorer.normalise != "module":
            self.squares[number] += norms.square()
            return flat
        self.squares[number] += norms > 0
        unit: Tensor = flat / norms.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
        return unit

    def step(self, layer: LayerGradient, number: int) -> Tensor:
        """(B, P) the rows' directions in this layer, of whatever length."""
        return self.scorer.step(layer, number, self.context)

    def mark(self, number: int, layer: LayerGradient) -> None:
        """Remember which rows have a gradient in this layer; on a CPU only as long as some row has none yet."""
        if layer.deltas.is_cuda or not bool(self.moved[number].all()):
            self.moved[number] |= layer.deltas.flatten(1).any(1) & layer.inputs.flatten(1).any(1)

    def lengths(self, number: int) -> Tensor:
        """(B, 1) what to divide by; NaN for a row without a gradient, which says nothing although Adam would still move."""
        length = torch.ones_like(self.squares[number]) if self.scorer.normalise == "none" else self.squares[number].sqrt()
        return length.where(self.moved[number], torch.nan).float().unsqueeze(1)


class SketchReader(DirectionReader):
    """(B, width) one CountSketch for all sets of weights."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext) -> None:
        super().__init__(scorer, batch, context)
        self.first = offsets({name: self.model.names[name].numel() for name in trained_layers(self.model, scorer.modules)})
        self.parts = torch.zeros(len(self.shares), len(batch.input_ids), scorer.numbers, device=self.model.device)

    def step(self, layer: LayerGradient, number: int) -> Tensor:
        return self.scorer.sketched(layer, number, self.context)

    def take(self, layer: LayerGradient, number: int) -> None:
        scale = self.scorer.balance(layer.name, number, self.context)
        sketch = CountSketch(self.scorer.numbers, self.scorer.seed, number)
        sketch.add(self.parts[number], self.directed(layer, number), self.first[layer.name], scale)

    def result(self) -> Tensor:
        scaled = [share**0.5 * part / self.lengths(number) for number, (share, part) in enumerate(zip(self.shares, self.parts, strict=True))]
        return torch.stack(scaled).sum(0)


class FactoredReader(DirectionReader):
    """(B, C L p p) for L layers, with p p the largest square for which L p p is at most the width."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext) -> None:
        super().__init__(scorer, batch, context)
        self.names = sorted(trained_layers(self.model, scorer.modules))
        self.side = max(1, int((scorer.numbers / len(self.names)) ** 0.5))
        self.parts: list[dict[str, Tensor]] = [{} for _ in self.shares]

    @property
    def squeezes(self) -> bool:
        return self.scorer.normalise == "none"  # norms need the inputs themselves

    def squeeze(self, name: str, inputs: Tensor) -> Tensor:
        right = factor(self.side, inputs.shape[2], f"{self.scorer.seed}/{name}/in", str(inputs.device))
        return inputs.float() @ right.T

    def take(self, layer: LayerGradient, number: int) -> None:
        left = factor(self.side, layer.deltas.shape[2], f"{self.scorer.seed}/{layer.name}/out", str(layer.deltas.device))
        inputs = layer.inputs if layer.squeezed else self.squeeze(layer.name, layer.inputs)
        part = torch.bmm((layer.deltas.float() @ left.T).transpose(1, 2), inputs).flatten(1)
        self.mark(number, layer)
        if self.scorer.normalise == "row":
            self.squares[number] += layer.squared_norms
        if self.scorer.normalise == "module":
            norms = layer.squared_norms.sqrt()
            self.squares[number] += norms > 0
            part = part / norms.clamp(min=1e-30).float().unsqueeze(1)
        self.parts[number][layer.name] = part

    def result(self) -> Tensor:
        joined = [torch.cat([part[name] for name in self.names], 1) for part in self.parts]
        return torch.cat([share**0.5 * part / self.lengths(number) for number, (share, part) in enumerate(zip(self.shares, joined, strict=True))], 1)


class ExactReader(DirectionReader):
    """(B, M) inner products with the target's directions, streamed layer by layer; nothing is projected."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext, block: Mapping[str, Tensor]) -> None:
        super().__init__(scorer, batch, context)
        self.block = block
        columns = next(len(rows) for key, rows in block.items() if key.startswith("0/"))
        self.dots = torch.zeros(len(self.shares), len(batch.input_ids), columns, device=self.model.device)

    def take(self, layer: LayerGradient, number: int) -> None:
        self.dots[number] += self.directed(layer, number) @ self.block[f"{number}/{layer.name}"].T

    def result(self) -> Tensor:
        return torch.stack([share * dots / self.lengths(number) for number, (share, dots) in enumerate(zip(self.shares, self.dots, strict=True))]).sum(0)


class BlockReader(DirectionReader):
    """The directions of a few rows, unit length where rows are normalised, by `number/layer`."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext) -> None:
        super().__init__(scorer, batch, context)
        self.kept: dict[str, Tensor] = {}

    def take(self, layer: LayerGradient, number: int) -> None:
        self.kept[f"{number}/{layer.name}"] = self.directed(layer, number).clone()

    def result(self) -> Tensor:
        """(B,) whether the row has a direction under every set of weights."""
        for key, rows in self.kept.items():
            self.kept[key] = rows / self.lengths(int(key.partition("/")[0]))
        finite = torch.stack([torch.isfinite(rows).all(1) for rows in self.kept.values()]).all(0)
        return finite.float()


def directions(scorer: GradientScorer, batches: Any, context: ScoringContext) -> tuple[dict[str, Tensor], Tensor]:
    """The directions of all rows of the batches by `number/layer`, each (M, P), and which rows have one (M,)."""
    parts: list[dict[str, Tensor]] = []
    usable: list[Tensor] = []
    for batch in batches:
        reader = BlockReader(scorer, batch, context)
        show(reader.model, batch, [reader])
        usable.append(reader.result() > 0)
        parts.append(reader.kept)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, torch.cat(usable)


def target_block(scorer: GradientScorer, context: ScoringContext, tokens: int) -> tuple[dict[str, Tensor], Tensor]:
    """`directions` of the target's rows, as targets, in their order."""
    from curate.model import micro_batches

    model = model_of(scorer, context)
    lengths = np.array([len(row.input_ids) for row in context.target], np.int64)
    order = list(micro_batches(lengths, tokens))
    batches = (model.batch([context.target[int(i)] for i in batch]) for batch in order)
    found, usable = directions(scorer, batches, replace(context, role="target"))
    back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(usable.device)
    return {key: rows[back] for key, rows in found.items()}, usable[back]


def offsets(sizes: Mapping[str, int]) -> dict[str, int]:
    """Where each weight starts in the concatenation of all, in the order of their names."""
    starts, position = {}, 0
    for name in sorted(sizes):
        starts[name] = position
        position += sizes[name]
    return starts
