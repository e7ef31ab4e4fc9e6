"""Several adapters in one pass: rows of different variants side by side, each with its own adapter, each behind its own variant's prefix.

Every linear layer multiplies all rows by the base's weights at once and adds to each row what its adapter gives (PEFT's `adapter_names`). Nothing is
shared between variants: an adapter changes the keys and values of all tokens, those of a common prefix too, so that the base's would be wrong.
It pays where the passes of one variant are so small that reading the base's weights, or starting its layers, takes longer than the multiplying. Where they
are not, it costs: rows are copied to each adapter and back. So variants share passes of few tokens alone (benchmarks/mixed_adapters.py has numbers).
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.inference.attention import ours, running
from curate.inference.passes import Pass, forward, store_rows
from curate.inference.plan import Stage
from curate.inference.prefill import CHUNK
from curate.inference.scoring import Scored, ScoringPlan, ScoringRun, packed_tensors
from curate.inference.stores import Memory
from curate.inference.variants import Variants
from curate.model import LanguageModel, decoder_of

TOKENS = 2048  # of a joint pass: with more, the base's weights are well used by the rows of one variant
Results = dict[str | None, list[list[Scored]]]


def score_mixed(variants: Variants, names: Sequence[str | None], plan: ScoringPlan | Mapping[str | None, ScoringPlan], *, tokens: int = TOKENS) -> Results:
    """What every variant gives on the plan, or on its own plan; None is the base. Passes have at most `tokens` padded tokens, unless one variant's has more.

    Variants are taken in groups of as many as are resident; bytes: the stored prefixes of a whole group.
    """
    plans = {name: plan[name] if isinstance(plan, Mapping) else plan for name in names}
    for name in plans:
        if variants.invocation(name) or not variants.mixes(name):
            raise ModelError(f"{name} is an {'activated' if variants.mixes(name) else 'DoRA'} adapter, whose rows cannot be mixed with others; score it alone")
    variants.check_sharing(max((wanted.longest for wanted in plans.values()), default=0))
    asked = list(plans)
    results: Results = {}
    with torch.inference_mode(), ours(variants.base.model):
        for start in range(0, len(asked), variants.resident):
            results |= _group(variants, {name: plans[name] for name in asked[start : start + variants.resident]}, tokens)
    return results


@dataclass(frozen=True, eq=False)
class _Step:
    """A pass that one variant needs next."""

    ids: Tensor  # (B, T)
    positions: Tensor
    own: Pass


_Steps = Generator[_Step, Tensor, None]


def _group(variants: Variants, plans: Mapping[str | None, ScoringPlan], tokens: int) -> Results:
    with variants.together(list(plans)) as model:
        runs = {name: ScoringRun(model, wanted) for name, wanted in plans.items()}
        if len(runs) == 1:
            return {name: run.results() for name, run in runs.items()}
        going = {name: _steps(run, run.wanted.plan.top, []) for name, run in runs.items()}
        waiting = {name: step for name, steps in going.items() if (step := next(steps, None)) is not None}
        while waiting:
            chosen = _fitting(waiting, tokens)
            variants.activate(next((name for name in chosen if name is not None), None))  # PEFT heeds names of rows only where an adapter is active
            steps = [waiting.pop(name) for name in chosen]
            if len(steps) == 1:
                found = [forward(model, steps[0].ids, steps[0].positions, steps[0].own)]
            else:
                found = _forward(model, [variants.key(name) for name in chosen], steps)
            for name, hidden in zip(chosen, found, strict=True):
                variants.activate(name)  # whose head reads the states
                step = _following(going[name], hidden)
                if step is not None:
                    waiting[name] = step
        return {name: run.scored() for name, run in runs.items()}


def _steps(run: ScoringRun, stage: Stage, path: Sequence[Memory]) -> _Steps:
    """The passes of a stage behind the stretches on the path, each sent the hidden states of the one before."""
    device = run.model.device
    states = []
    for first in range(0, len(stage.stretch), CHUNK):
        ids = torch.from_numpy(stage.stretch[first : first + CHUNK]).long().unsqueeze(0).to(device)
        positions = torch.arange(stage.start + first, stage.start + first + ids.shape[1], device=device).unsqueeze(0)
        own = Pass(path, keep=True)
        states.append((yield _Step(ids, positions, own))[0])
        path = [*path, *store_rows(own, [ids.shape[1]])]
    if states:
        run.read(torch.cat(states), run.wanted.lookups.get(stage))
    for batch in stage.batches:
        ids, positions, mask = packed_tensors(batch, run.model)
        run.read_rows((yield _Step(ids, positions, Pass(path, mask))), batch)
    for inner in stage.stages:
        yield from _steps(run, inner, path)


def _following(steps: _Steps, hidden: Tensor) -> _Step | None:
    try:
        return steps.send(hidden)
    except StopIteration:
        return None


def _fitting(waiting: Mapping[str | None, _Step], tokens: int) -> list[str | None]:
    """The variant with the widest pass, and those whose rows fit beside its own, the widest first."""
    ordered = sorted(waiting, key=lambda name: -waiting[name].ids.shape[1])
    width, rows = waiting[ordered[0]].ids.shape[1], 0
    chosen: list[str | None] = []
    for name in ordered:
        more = waiting[name].ids.shape[0]
        if not chosen or (rows + more) * width <= tokens:
            chosen.append(name)
            rows += more
    return chosen


@dataclass(frozen=True, eq=False)
class _Together:
    """Passes side by side: each with so many rows, right-padded to one width, and with attention of its own."""

    parts: Sequence[_Step]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        outputs, first = [], 0
        for part in self.parts:
            rows, width = part.ids.shape
            mine = [states[first : first + rows, :, :width] for states in (query, key, value)]
            output = part.own.attend(layer, mine[0], mine[1], mine[2], scale)
            outputs.append(nn.functional.pad(output, (0, 0, 0, query.shape[2] - width)))
            first += rows
        return torch.cat(outputs)


def _forward(model: LanguageModel, keys: Sequence[str], steps: Sequence[_Step]) -> list[Tensor]:
    """The hidden states (B, T, H) of every step, computed at once, each by the adapter of this key.

    PEFT takes an adapter per row where its own model is called, and nowhere else. So the whole model is: its decoder's states are caught on their way to
    the head, which computes the last position alone.
    """
    width = max(step.ids.shape[1] for step in steps)
    ids = torch.cat([nn.functional.pad(step.ids, (0, width - step.ids.shape[1]), value=model.pad) for step in steps])
    positions = torch.cat([nn.functional.pad(step.positions, (0, width - step.positions.shape[1])) for step in steps])
    names = [key for key, step in zip(keys, steps, strict=True) for _ in range(len(step.ids))]
    caught: list[Tensor] = []
    hook = decoder_of(model.model).register_forward_hook(lambda _module, _given, output: caught.append(output.last_hidden_state))
    try:
        with running(_Together(steps)):
            model.model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1, adapter_names=names)
    finally:
        hook.remove()
    parts = caught[0].split([len(step.ids) for step in steps])
    return [states[:, : step.ids.shape[1]] for states, step in zip(parts, steps, strict=True)]
