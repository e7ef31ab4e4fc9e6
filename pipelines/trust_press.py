"""Whether a press is to be trusted: lossy answers against exact ones on the first questions of a task, over all variants."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

import numpy as np

from curate.harness.exam import Exam, Reply, choices_of
from curate.harness.metrics import Value
from curate.harness.results import Trust
from curate.inference.fidelity import Fidelity, Gate, doubts_of, of_answers, of_choices
from curate.pipelines.ask_variants import Said, finite


def trust(exam: Exam, exact: Sequence[Said], lossy: Sequence[Said]) -> Trust:
    """The exact run of every variant on the exam, which has the first questions alone, against the lossy run of each on at least these."""
    found = fidelity(exam, exact, lossy)
    doubts = doubts_of(found, Gate())
    measured = {name: finite(value) for name, value in asdict(found).items() if name not in ("items", "agreement")}
    tokens = sum(said.record.forward_tokens for said in exact)
    return Trust(task=exam.name, items=found.items, agreement=float(found.agreement), passed=not doubts, doubts=doubts, forward_tokens=tokens, **measured)


class Answers(Protocol):
    """What a variant said to an exam, graded."""

    @property
    def replies(self) -> Sequence[Reply]: ...

    @property
    def graded(self) -> Sequence[dict[str, Value]]: ...


def fidelity(exam: Exam, exact: Sequence[Answers], lossy: Sequence[Answers]) -> Fidelity:
    """How far lossy answers of every variant are from exact ones on the exam's questions, which are the first of the lossy run."""
    n = len(exam.asked)
    scores = [[np.array([_score(graded) for graded in said.graded[:n]]) for said in several] for several in (exact, lossy)]
    if exam.generates:
        answers = [[["\0".join(reply.responses) for reply in said.replies[:n]] for said in several] for several in (exact, lossy)]
        return of_answers(answers[0], answers[1], scores[0], scores[1])
    pairs = [[zip(exam.asked, said.replies[:n], strict=True) for said in several] for several in (exact, lossy)]
    nats = [[[choices_of(asked.question, reply) for asked, reply in pair] for pair in several] for several in pairs]
    return of_choices(nats[0], nats[1], scores[0], scores[1])


def _score(graded: dict[str, Value]) -> float:
    """What variants are ranked by: the task's accuracy, or else its first metric."""
    return graded.get("acc", next(iter(graded.values()))).value
