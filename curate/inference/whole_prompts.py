"""Likelihoods behind prompts that a press compressed whole, one prompt after the other.

All of a prompt but its last token is prefilled and compressed; the last token and the answers, as one small prefix tree, attend to what is left of it. So
no token of an answer is read off an exact prefill, and answers of one token are put to the test as well.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from curate.inference.plan import Layout, go_on_from
from curate.inference.scoring import Compress, Scored, ScoringPlan, ScoringRun, Tokens, plan_scoring
from curate.inference.stores import Memory
from curate.model import LanguageModel


@dataclass
class WholePrompts:
    """One model and a press on requests; run within `ours(model.model)` and inference mode."""

    model: LanguageModel
    compress: Compress
    layout: Layout
    forward_tokens: int = field(default=0, init=False)
    peak_bytes: int = field(default=0, init=False)

    def results(self, wanted: ScoringPlan) -> list[list[Scored]]:
        """Per context and continuation; each distinct context is compressed once."""
        asked: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (context, _) in enumerate(wanted.requests):
            asked[tuple(context)].append(number)
        found: dict[int, list[Scored]] = {}
        for context, numbers in asked.items():
            part = plan_scoring([context[-1:]] * len(numbers), [wanted.requests[number][1] for number in numbers], self.layout)
            found |= dict(zip(numbers, self._behind(context[:-1], part), strict=True))
        return [found[number] for number in range(len(wanted.requests))]

    def _behind(self, head: Tokens, part: ScoringPlan) -> list[list[Scored]]:
        run, path = ScoringRun(self.model, part), list[Memory]()
        if head:
            path = [self.compress(head)[0]]
            go_on_from(part.plan, len(head))
        run.stage(part.plan.top, path)
        self.forward_tokens += len(head) + part.plan.tokens
        self.peak_bytes = max(self.peak_bytes, run.peak_bytes, *(memory.nbytes for memory in path))
        return run.scored()
