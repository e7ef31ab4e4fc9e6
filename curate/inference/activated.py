"""Activated LoRA: what comes before an adapter's invocation tokens is the base's, so that all variants share it exactly.

Such an adapter (PEFT's `alora_invocation_tokens`) acts on the last occurrence of these tokens and on all after it; tokens before have the keys and
values of the base. They are computed once for all variants, and each variant computes its own tails behind them. A tail holds only tokens that the adapter
acts on, so there the adapter is a plain one. The occurrence is sought in the context, as PEFT's `generate` seeks it in the prompt: what is scored does not
change how it is scored. Requests without it are the base's, and computed once as well.

    forward tokens = |tree of all heads| + sum over variants |trees of its tails|

Greenewald et al., "Activated LoRA: Fine-tuned LLMs for Intrinsics", arXiv:2504.12397.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curate.errors import ModelError
from curate.inference.activated_plan import ActivatedPlan, Head, Tails, Tokens, plan_activated
from curate.inference.attention import attention, grouped, merge, ours
from curate.inference.decoding import Prompts
from curate.inference.generation import gathered
from curate.inference.passes import Pass, attend_path, forward
from curate.inference.plan import DEFAULT, Layout, PackedRow, Plan, Stage
from curate.inference.scoring import Scored, ScoringRun, longest_request, packed_tensors
from curate.inference.stores import Memory, Plain
from curate.inference.variants import Variants
from curate.model import micro_batches


@dataclass(frozen=True)
class Activated:
    """Per variant what every continuation of every context has; `base_tokens` of the `forward_tokens` were computed once for all variants."""

    results: dict[str | None, list[list[Scored]]]
    forward_tokens: int
    base_tokens: int
    asked_tokens: int  # what a run without any sharing computes


def score_activated(
    variants: Variants, names: Sequence[str | None], contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]], layout: Layout = DEFAULT
) -> Activated:
    """log p(continuation | context) by every variant; None is the base. Each adapter is an activated one, with invocation tokens of its own.

    Bytes: the base's stored stretches, and keys and values of one batch of heads twice. With fewer resident adapters than names, some are read from
    the disk again for every batch.
    """
    asked = list(dict.fromkeys(names))
    plain = next((name for name in asked if name is not None and not variants.invocation(name)), None)
    if plain is not None:
        raise ModelError(f"{plain} is no activated adapter: it changes the prefix too, which cannot be shared; score it with `using` or score_mixed")
    requests = list(zip(contexts, continuations, strict=True))
    variants.check_sharing(longest_request(requests))
    made = plan_activated(requests, [variants.invocation(name) for name in asked], layout)
    with torch.inference_mode(), ours(variants.base.model), variants.together([None]):
        run = _Run(variants, asked, made, layout.batch)
        run.stage(made.wanted.plan.top, [])
    tails = [made.tails[variants.invocation(name)].tokens for name in run.tails]
    base = made.wanted.plan.tokens
    each = sum(len(context) + len(k) for context, ks in requests for k in ks)
    return Activated({name: run.of(name, len(requests)) for name in asked}, base + sum(tails), base, each * len(asked))


class _Run(ScoringRun):
    """The base on heads and on its own requests; wherever heads end, every variant on the tails behind them."""

    def __init__(self, variants: Variants, names: Sequence[str | None], made: ActivatedPlan, batch: int) -> None:
        super().__init__(variants.base, made.wanted)
        self.variants, self.made, self.batch = variants, made, batch
        kinds = {name: made.tails.get(variants.invocation(name)) for name in names}
        self.tails: dict[str | None, tuple[ScoringRun, Tails]] = {
            name: (ScoringRun(variants.base, tails.wanted), tails) for name, tails in kinds.items() if tails is not None
        }
        self._order = list(self.tails)

    def stage(self, stage: Stage, path: list[Memory]) -> None:
        if stage is self.wanted.plan.top and any(() in tails.plans for _, tails in self.tails.values()):  # contexts that begin with an invocation
            self._follow([], [()], None)
        super().stage(stage, path)

    def of(self, name: str | None, requests: int) -> list[list[Scored]]:
        """All results of a variant, by request."""
        found = dict(zip(self.made.numbers, self.scored(), strict=False))  # behind the requests come the heads
        if name in self.tails:
            run, tails = self.tails[name]
            found |= dict(zip(tails.numbers, run.scored(), strict=True))
        return [found[number] for number in range(requests)]

    def _stretch(self, stage: Stage, path: Sequence[Memory]) -> tuple[Memory, Tensor]:
        memory, hidden = super()._stretch(stage, path)
        for place, head in self.made.heads.get(stage, ()):
            self._follow([*path, _beginning(memory, place + 1)], [head], None)
        return memory, hidden

    def _rows(self, rows: Sequence[PackedRow], path: Sequence[Memory]) -> None:
        ending = [(number, row.ancestry(place), head) for number, row in enumerate(rows) for place, head in self.made.heads.get(row, ())]
        ids, positions, mask = packed_tensors(rows, self.model)
        step = Pass(path, mask, keep=bool(ending))
        self.read_rows(forward(self.model, ids, positions, step), rows)
        if ending:
            prompts = gathered(step, [(number, chain, 0) for number, chain, _ in ending], self.model.device)
            self._follow(path, [head for _, _, head in ending], prompts)

    def _follow(self, path: Sequence[Memory], heads: Sequence[Head], prompts: Prompts | None) -> None:
        """Every variant on what comes behind these heads, whose keys and values are the path's and, behind it, one of the prompts each."""
        for name in self._order:
            run, tails = self.tails[name]
            mine = [number for number, head in enumerate(heads) if head in tails.plans]
            if mine:
                with self.variants.together([name]) as model:
                    run.model = model
                    self._compute(run, [tails.plans[heads[number]] for number in mine], mine, path, prompts)
        self._order.reverse()  # so that adapters that are in the model are used before others push them out

    def _compute(self, run: ScoringRun, plans: Sequence[Plan], mine: Sequence[int], path: Sequence[Memory], prompts: Prompts | None) -> None:
        """One variant's tails: those of one row each many to a pass, larger ones behind one head after the other."""
        rows: list[PackedRow] = []
        owners: list[int] = []
        for plan, number in zip(plans, mine, strict=True):
            row = _only_row(plan)
            if prompts is None or row is None:
                run.stage(plan.top, [*path] if prompts is None else [*path, _memory(prompts, number)])
            else:
                rows.append(row)
                owners.append(number)
        if prompts is None or not rows:
            return
        for batch in micro_batches(np.array([len(row) for row in rows], np.int64), self.batch):
            chosen = [rows[place] for place in batch]
            ids, positions, mask = packed_tensors(chosen, run.model)
            own = prompts.pick(torch.tensor([owners[place] for place in batch], device=run.model.device))
            run.read_rows(forward(run.model, ids, positions, _Behind(path, mask, prompts=own)), chosen)


@dataclass
class _Behind(Pass):
    """A pass in which each row also attends to a prompt of its own, between the path and the new tokens."""

    prompts: Prompts | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self.prompts is None:
            return super().attend(layer, query, key, value, scale)
        rows, own, tokens, _ = query.shape
        heads = key.shape[1]
        output, normaliser = attention(grouped(query, heads), self.prompts.keys[layer], self.prompts.values[layer], scale, self.prompts.bias)
        prompt = output.reshape(rows, own, tokens, -1), normaliser.reshape(rows, own, tokens)
        return merge([*attend_path(self.path, layer, query, heads, scale), prompt, self._among(query, key, value, scale)])[0]


def _only_row(plan: Plan) -> PackedRow | None:
    """The row that is all of a plan, if one is."""
    rows = [row for batch in plan.top.batches for row in batch]
    return rows[0] if len(rows) == 1 and not plan.top.stages else None


def _beginning(memory: Memory, tokens: int) -> Memory:
    """The first tokens of a stretch, in place."""
    whole = [store for store in memory.layers if isinstance(store, Plain)]
    return Memory([Plain(store.keys[:, :tokens], store.values[:, :tokens]) for store in whole], tokens)


def _memory(prompts: Prompts, number: int) -> Memory:
    """One of the prompts, in place."""
    tokens = int(prompts.lengths[number])
    pairs = zip(prompts.keys, prompts.values, strict=True)
    return Memory([Plain(keys[number, :, :tokens], values[number, :, :tokens]) for keys, values in pairs], tokens)
