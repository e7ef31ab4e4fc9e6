"""Curvature for scorers: the Fisher of a sample of pool rows, fitted by gradient passes, stored, and inverted where it is needed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from curate.core import Checkpoint
from curate.errors import ConfigError
from curate.forward import run_pass
from curate.gradients import LayerGradient
from curate.interfaces import Batch, State
from curate.kfac import EigenvalueSums, FactorSums, KroneckerFisher
from curate.model import LanguageModel
from curate.passes import Reader, Wanted
from curate.woodbury import EmpiricalFisher

MOST_BYTES = 2**32  # of sampled gradients that are held at a time
Weights = Sequence[Checkpoint | None]
Modules = str | Sequence[str]


class _Feed(Reader):
    """Hands every layer's gradients to a function."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"gradients"})

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self.layers: list[LayerGradient] = []

    def take(self, layer: LayerGradient, number: int) -> None:
        self.layers.append(layer)

    def result(self) -> Tensor:
        return torch.empty(0)


def fit(model: LanguageModel, weights: Weights, batches: Iterable[Batch], kind: str, damping: float, modules: Modules) -> State:
    """The curvature of the batches' rows under every set of weights, its arrays named `number|...`; `kind` is kfac, ekfac or woodbury."""
    held = list(batches)
    state: dict[str, Tensor] = {}
    for number, checkpoint in enumerate(weights):
        if checkpoint is not None:
            model.use(checkpoint)
        fisher = _empirical(model, held, damping, modules) if kind == "woodbury" else _kronecker(model, held, damping, modules, kind)
        state |= {f"{number}|{name}": value for name, value in fisher.state().items()}
    return state


def kronecker(state: State | None, number: int, name: str) -> KroneckerFisher:
    """The stored Fisher of one layer under weights `number`."""
    held = _held(state)
    kinds = ("deltas", "inputs", "eigenvalues", "ridge")
    return KroneckerFisher.from_state({f"{kind}.{name}": held[f"{number}|{kind}.{name}"] for kind in kinds}, str(held[f"{number}|deltas.{name}"].device))


def empirical(state: State | None, number: int) -> EmpiricalFisher:
    """The stored Fisher of all layers under weights `number`."""
    prefix = f"{number}|"
    held = {name.removeprefix(prefix): value for name, value in _held(state).items() if name.startswith(prefix)}
    return EmpiricalFisher.from_state(held, str(held["root"].device))


def _held(state: State | None) -> State:
    if not state:
        raise ConfigError("a scorer with curvature needs the state that its `prepare` makes of a sample of the pool, and none was given")
    return state


def _passes(model: LanguageModel, batches: Sequence[Batch], modules: Modules) -> Iterator[tuple[Batch, list[LayerGradient]]]:
    for batch in batches:
        feed = _Feed(modules)
        run_pass(model, batch, [(feed, 0)])
        yield batch, feed.layers


def _kronecker(model: LanguageModel, batches: Sequence[Batch], damping: float, modules: Modules, kind: str) -> KroneckerFisher:
    sums = FactorSums()
    for batch, layers in _passes(model, batches, modules):
        for layer in layers:
            inputs, deltas = (layer.deltas, layer.inputs) if layer.transposed else (layer.inputs, layer.deltas)
            sums.add(layer.name, inputs, deltas, batch.mask)
    bases = sums.curvature(damping)
    if kind == "kfac":
        return bases
    corrected = EigenvalueSums(bases)
    for _, layers in _passes(model, batches, modules):
        for layer in layers:
            corrected.add(layer.name, layer.dense)
    return corrected.curvature(damping)


def _empirical(model: LanguageModel, batches: Sequence[Batch], damping: float, modules: Modules) -> EmpiricalFisher:
    parts: list[Mapping[str, Tensor]] = []
    rows = sum(len(batch.mask) for batch in batches)
    for _, layers in _passes(model, batches, modules):
        parts.append({layer.name: layer.dense.flatten(1) for layer in layers})
        width = sum(part.shape[1] for part in parts[0].values())
        if 4 * rows * width > MOST_BYTES:
            raise ConfigError(
                f"curvature: woodbury holds the gradients of {rows} rows, {4 * rows * width / 2**30:.1f} GiB of at most {MOST_BYTES / 2**30:.0f}; "
                "lower fisher_rows, name fewer modules, or use curvature: ekfac"
            )
    return EmpiricalFisher.build({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, damping)
