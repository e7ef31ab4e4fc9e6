"""Generation: every prompt is prefilled once, whatever it shares with others and however many answers are drawn from it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.core import Integers
from curate.inference.decoding import Decoding, Prompts
from curate.inference.growing import Growing
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.plan import Layout, PackedRow, Plan, Stage, plan
from curate.inference.prefill import prefill
from curate.inference.scoring import Compress, packed_tensors
from curate.inference.stores import Memory
from curate.model import LanguageModel

Tokens = Sequence[int]


@dataclass(frozen=True, eq=False)
class GenerationPlan:
    """A plan of the distinct prompts, and which contexts ask each of them."""

    plan: Plan
    prompts: list[list[int]]
    asked: list[list[int]]  # contexts of each prompt
    rows: dict[Any, list[int]]  # prompts that end in a row
    most: int  # answers that are decoded together


def plan_generation(contexts: Sequence[Tokens], layout: Layout, most: int = 256) -> GenerationPlan:
    """Equal contexts are one prompt; each ends in a packed row, so that its last token is computed there."""
    numbers: dict[tuple[int, ...], int] = {}
    asked: list[list[int]] = []
    for i, context in enumerate(contexts):
        number = numbers.setdefault(tuple(int(token) for token in context), len(asked))
        if number == len(asked):
            asked.append([])
        asked[number].append(i)
    prompts = [list(prompt) for prompt in numbers]
    # A last token of its own, unlike any other, keeps a prompt that others begin with from ending inside a stored stretch.
    made = plan([[*prompt[:-1], -1 - i] for i, prompt in enumerate(prompts)], layout)
    rows: dict[Any, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        where, place = made.locate(i, len(prompt) - 1)
        _tokens(where)[place] = prompt[-1]
        rows[where].append(i)
    return GenerationPlan(made, prompts, asked, dict(rows), most)


def _tokens(where: Stage | PackedRow) -> Any:
    return where.stretch if isinstance(where, Stage) else where.tokens


@dataclass
class GenerationRun:
    """One model on a generation plan; run within `ours(model.model)` and inference mode."""

    model: LanguageModel
    wanted: GenerationPlan
    growing: Growing
    compress: Compress | None = None  # what becomes of a stretch that begins at position 0
    results: dict[int, list[int]] = field(default_factory=dict, init=False)  # by context

    def run(self) -> dict[int, list[int]]:
        self._stage(self.wanted.plan.top, [])
        return self.results

    def _stage(self, stage: Stage, path: list[Memory]) -> None:
        if len(stage.stretch):
            if self.compress is not None and not path:
                memory, hidden = self.compress(stage.stretch.tolist())
            else:
                memory, hidden = prefill(self.model, stage.stretch.tolist(), path)
            if stage in self.wanted.rows:  # a prompt too long for a row is a stretch of its own
                for prompt in self.wanted.rows[stage]:
                    self._decode([*path, memory], None, [prompt], hidden[-1:])
            path = [*path, memory]
        for batch in stage.batches:
            self._rows(batch, path)
        for inner in sorted(stage.stages, key=lambda inner: len(inner.stretch)):  # the most decoding per prefilled token first
            self._stage(inner, path)

    def _rows(self, rows: Sequence[PackedRow], path: list[Memory]) -> None:
        ids, positions, mask = packed_tensors(rows, self.model)
        step = Pass(path, mask, keep=True)
        hidden = forward(self.model, ids, positions, step)
        places: list[tuple[int, Integers, int]] = []  # (row, its tokens' places, prompt)
        for number, row in enumerate(rows):
            for prompt in self.wanted.rows.get(row, ()):
                where, place = self.wanted.plan.locate(prompt, len(self.wanted.prompts[prompt]) - 1)
                places.append((number, row.ancestry(place), prompt))
        groups = list(self._groups(places))
        lasts = [torch.stack([hidden[row, int(chain[-1])] for row, chain, _ in group]) for group in groups]
        waiting = [(gathered(step, group, self.model.device), [prompt for _, _, prompt in group]) for group in groups]
        del step, mask, hidden  # or the prefill's keys and masks would lie beside the prompts' own until all answers have grown
        for last in lasts:
            prompts, numbers = waiting.pop(0)
            self._decode(path, prompts, numbers, last)

    def _groups(self, places: Sequence[tuple[int, Integers, int]]) -> Iterator[list[tuple[int, Integers, int]]]:
        """Prompts that are decoded together: of like length, as many as their answers allow."""
        group: list[tuple[int, Integers, int]] = []
        answers = 0
        for entry in sorted(places, key=lambda entry: -len(entry[1])):
            count = len(self.wanted.asked[entry[2]])
            if group and answers + count > self.wanted.most:
                yield group
                group, answers = [], 0
            group.append(entry)
            answers += count
        if group:
            yield group

    def _decode(self, path: Sequence[Memory], prompts: Prompts | None, numbers: Sequence[int], last: Tensor) -> None:
        """Answers to these prompts, whose last tokens left these hidden states (P, H)."""
        pairs = [(p, context) for p, number in enumerate(numbers) for context in self.wanted.asked[number]]
        logits = logits_of(self.model, last)
        for first in range(0, len(pairs), self.wanted.most):
            wave = pairs[first : first + self.wanted.most]
            owners = torch.tensor([p for p, _ in wave], device=last.device)
            lengths = torch.tensor([len(self.wanted.prompts[numbers[p]]) for p, _ in wave], device=last.device)
            used, place = torch.unique(owners, return_inverse=True)
            mine = prompts.pick(used) if prompts is not None and len(used) < len(numbers) else prompts
            state = Decoding(path, mine, place if mine is not None else torch.zeros_like(place))
            asking = np.array([context for _, context in wave], np.int64)
            answers = self.growing.grow(state, logits[owners], lengths, asking)
            self.results |= dict(zip(asking.tolist(), answers, strict=True))


def gathered(step: Pass, group: Sequence[tuple[int, Integers, int]], device: str) -> Prompts:
    """The keys and values of each prompt's own tokens, out of the packed rows that they were computed in."""
    lengths = torch.tensor([len(chain) for _, chain, _ in group], device=device)
    width = max(len(chain) for _, chain, _ in group)
    places = np.zeros((len(group), width), np.int64)
    for i, (_, chain, _) in enumerate(group):
        places[i, : len(chain)] = chain
    rows = torch.tensor([[number] for number, _, _ in group], device=device)
    index = torch.from_numpy(places).to(device)
    keys = [made[0].transpose(1, 2)[rows, index].transpose(1, 2) for made in step.made]
    values = [made[1].transpose(1, 2)[rows, index].transpose(1, 2) for made in step.made]
    return Prompts(keys, values, lengths)
