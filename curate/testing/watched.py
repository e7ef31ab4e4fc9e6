"""A scorer under watch: each of its calls is checked for what it returns and for what it leaves behind."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from curate.core import Row
from curate.errors import CurateError
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.testing.component import Nonconforming, require

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

Role = Literal["pool", "target"]


class Weights:
    """A copy of a model's weights, of their gradients and of which want one; the weights that training changes only if `trained`."""

    def __init__(self, model: "LanguageModel", *, trained: bool) -> None:
        left_out = set() if trained else {id(parameter) for parameter in model.names.values()}
        self.model = model.model
        self.wanted = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        self.gradients = {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in self.model.named_parameters()}
        self.values = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters() if id(parameter) not in left_out}

    def check(self, scorer: str) -> None:
        """Nonconforming if the model is not in eval mode or is not as it was when it was copied."""
        require(not any(module.training for module in self.model.modules()), f"{scorer}: leaves the model in train mode")
        for name, parameter in self.model.named_parameters():
            require(parameter.requires_grad == self.wanted[name], f"{scorer}: leaves requires_grad of {name} changed")
            old, new = self.gradients[name], parameter.grad
            require(new is None if old is None else new is not None and new.equal(old), f"{scorer}: leaves another gradient in {name}")
            require(name not in self.values or parameter.equal(self.values[name]), f"{scorer}: changes the weight {name}")

    def restore(self) -> None:
        """Make the model what it was, in eval mode; only a copy that has the trained weights can."""
        self.model.eval()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.wanted[name]).grad = self.gradients[name]
            parameter.data.copy_(self.values[name])


@dataclass
class Watched:
    """A scorer whose every call is checked for what it returns and for what it leaves behind."""

    scorer: Scorer
    model: "LanguageModel"
    context: ScoringContext
    tolerance: float

    @property
    def roles(self) -> tuple[Role, ...]:
        """Whose rows are scored: of the target, vectors only."""
        return ("target", "pool") if self.scorer.output == "vectors" else ("pool",)

    def prepare(self, rows: Sequence[Row]) -> None:
        """Give later calls what the scorer prepares from these rows, unless the context holds it already."""
        if self.context.state is None:
            self.context = replace(self.context, state=self.scorer.prepare([self.model.batch(rows)], self.context))

    def elsewhere(self) -> "Watched":
        """The same scorer as another worker gets it: a copy, with its state read back from stored bytes."""
        import torch
        from safetensors.torch import load, save

        context = self.context
        if context.state is not None:
            arrays = {name: torch.as_tensor(value) for name, value in context.state.items()}
            stored = load(save({name: value.detach().cpu().contiguous() for name, value in arrays.items()}))
            context = replace(context, state={name: value.to(arrays[name].device) for name, value in stored.items()})
        return replace(self, scorer=copy.deepcopy(self.scorer), context=context)

    @contextlib.contextmanager
    def on(self, device: str) -> "Iterator[Watched]":
        """The same scorer with its model and state on another device for a while."""
        import torch

        home, state = self.model.device, self.context.state
        moved = {name: torch.as_tensor(value).to(device) for name, value in state.items()} if state is not None else None
        self.model.model.to(device)
        try:
            model = replace(self.model, device=device)
            yield replace(self, model=model, context=replace(self.context, model=model, device=device, state=moved))
        finally:
            self.model.model.to(home)

    def __call__(self, batch: Batch, role: Role = "pool", *, seed: int = 0, scorer: Scorer | None = None) -> "Tensor":
        """The numbers of this batch."""
        given, before = _copy(batch), Weights(self.model, trained=not self.scorer.warmup)  # a warm-up's weights come and go
        try:
            out = (scorer or self.scorer).score(batch, replace(self.context, role=role, seed=seed))
        except CurateError as error:
            raise Nonconforming(f"{self.scorer.name}: refuses ordinary rows (warmup = {self.scorer.warmup}): {error}") from error
        self._check_output(out, len(batch.input_ids))
        same = all(getattr(batch, part).equal(getattr(given, part)) for part in ("input_ids", "mask", "supervised"))
        require(same, f"{self.scorer.name}: changes the batch that it is given")
        before.check(self.scorer.name)
        return out

    def _check_output(self, out: Any, rows: int) -> None:
        import torch

        name, (wanted, dimensions) = self.scorer.name, {"vectors": ("(B, D)", 2), "scores": ("(B,)", 1), "similarity": ("(B, M)", 2)}[self.scorer.output]
        require(isinstance(out, torch.Tensor), f"{name}: must return a tensor, not {type(out).__name__}")
        fits = out.ndim == dimensions and len(out) == rows and out.numel() > 0
        require(fits, f"{name}: must return {wanted}, as its output is {self.scorer.output}, not {tuple(out.shape)} for {rows} rows")
        require(out.dtype == torch.float32, f"{name}: must return float32, not {str(out.dtype).removeprefix('torch.')}")
        require(not out.requires_grad, f"{name}: returns numbers that hold on to the graph they came from; score under torch.no_grad()")
        require(bool(torch.isfinite(out).all()), f"{name}: gives NaN or infinity for an ordinary row")

    def same(self, found: "Tensor", wanted: "Tensor") -> bool:
        """Whether each row is itself within the tolerance."""
        if found.shape != wanted.shape:
            return False
        size = wanted.reshape(len(wanted), -1).double().norm(dim=1)
        apart = (found.double() - wanted.double()).reshape(len(wanted), -1).norm(dim=1)
        return bool((apart <= self.tolerance * size.clamp(min=float(size.mean()) / 100)).all())


def _copy(batch: Batch) -> Batch:
    return replace(batch, input_ids=batch.input_ids.clone(), mask=batch.mask.clone(), supervised=batch.supervised.clone())
