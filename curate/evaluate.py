"""Grades a model on the items of a task: one request plan, every shared prefix computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from curate.core import Evaluation, Row
from curate.data.conversation import Conversation, Rejection
from curate.errors import DataError, NumericError
from curate.inference.engine import Engine
from curate.inference.growing import Watched, most_likely
from curate.inference.scoring import ScoringPlan, plan_scoring
from curate.interfaces import Answer, Item, Task
from curate.model import LanguageModel

Turns = tuple[tuple[str, str], ...]


class Encodes(Protocol):
    """What grading needs of an encoder: conversations to tokens with the answers marked."""

    def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]: ...


@dataclass(frozen=True)
class Plan:
    """Items with the answers to weigh for each, and the tokens of contexts and answers."""

    items: tuple[Item, ...]
    offered: list[list[str]]
    contexts: list[list[int]]
    continuations: list[list[list[int]]]
    scoring: ScoringPlan | None  # where answers are weighed: how, made once and run by every variant


@dataclass(frozen=True)
class Graded:
    """An evaluation with what the model said to every item, as plain records."""

    evaluation: Evaluation
    records: list[dict[str, Any]]
    forward_tokens: int
    asked_tokens: int
    peak_bytes: int  # of stored keys and values
    unshared: str  # why requests were run one by one, if they were
    lossy: str = ""  # what is to be known of scores that went through a press


def plan(task: Task, items: Sequence[Item], shots: Turns, encoder: Encodes) -> Plan:
    """Everything to be asked, in tokens: the same for every model with this tokenizer. DataError if an item does not fit."""
    task.check(items)
    references = sorted({item.reference for item in items})
    offered = [[item.reference] if task.generates else list(task.choices(item, references)) for item in items]
    pairs = [(item, text) for item, texts in zip(items, offered, strict=True) for text in texts]
    requests = iter(_requests(encoder, [item for item, _ in pairs], [text for _, text in pairs], shots))
    contexts, continuations = [], []
    for item, texts in zip(items, offered, strict=True):
        mine = [next(requests) for _ in texts]
        if any(context != mine[0][0] for context, _ in mine):
            raise DataError(f"evaluation item {item.id}: the prompt's tokens depend on the answer; end prompts with a separator")
        contexts.append(mine[0][0])
        continuations.append([answer for _, answer in mine])
    return Plan(tuple(items), offered, contexts, continuations, None if task.generates else plan_scoring(contexts, continuations))


def grade(model: LanguageModel, task: Task, asked: Plan, *, label: str) -> Graded:
    """Ask every item and grade the answers; NumericError where the model's logits are no finite numbers, for a NaN would be graded as a wrong answer."""
    engine = Engine(model)
    answers, sound = _generate(engine, model, task, asked) if asked.scoring is None else _weigh(engine, asked, asked.scoring)
    _require_sound(label, asked.items, sound)
    scores = np.array(task.grades(asked.items, answers), np.float64)
    evaluation = Evaluation(label, task.metric, np.array([item.id for item in asked.items]), scores)
    records = [record(item, answer, float(score)) for item, answer, score in zip(asked.items, answers, scores, strict=True)]
    return Graded(evaluation, records, engine.forward_tokens, engine.asked_tokens, engine.peak_bytes, engine.unshared)


def record(item: Item, answer: Answer, score: float) -> dict[str, Any]:
    """One item as a line of items.jsonl."""
    return {
        "id": item.id,
        "prompt": item.messages[-1][1],
        "reference": item.reference,
        "loglikelihoods": dict(zip(answer.choices, answer.loglikelihoods, strict=True)),
        "generation": answer.generation,
        "score": score,
        "tokens": list(answer.tokens),
    }


def split_answer(row: Row) -> tuple[list[int], list[int]]:
    """(context, answer): the last run of supervised tokens is the answer, what precedes it the context."""
    marked = np.flatnonzero(row.supervised)
    gaps = np.flatnonzero(np.diff(marked) > 1)
    start = int(marked[gaps[-1] + 1] if len(gaps) else marked[0])
    return row.input_ids[:start].tolist(), row.input_ids[start : int(marked[-1]) + 1].tolist()


def _requests(encoder: Encodes, items: Sequence[Item], texts: Sequence[str], shots: Turns) -> list[tuple[list[int], list[int]]]:
    """(context, answer) tokens of each item with each text."""
    rows = encoder.encode([Conversation((*shots, *item.messages, ("assistant", text))) for item, text in zip(items, texts, strict=True)])
    for item, row in zip(items, rows, strict=True):
        if isinstance(row, Rejection):
            reason = f"{row.reason}: {row.detail}"
            raise DataError(f"evaluation item {item.id} cannot be asked ({reason}); use fewer shots, raise model.max_length, or drop the item")
    return [split_answer(row) for row in rows if isinstance(row, Row)]


def _weigh(engine: Engine, asked: Plan, scoring: ScoringPlan) -> tuple[list[Answer], list[bool]]:
    """(what the model gives every answer that is offered, whether these are numbers)."""
    said = [
        Answer(choices=texts, loglikelihoods=[scored.loglikelihood for scored in found], tokens=[len(k) for k in answers])
        for texts, found, answers in zip(asked.offered, engine.score(scoring), asked.continuations, strict=True)
    ]
    return said, [not np.isnan(one.loglikelihoods).any() for one in said]


def _require_sound(label: str, items: Sequence[Item], sound: Sequence[bool]) -> None:
    broken = [item.id for item, one in zip(items, sound, strict=True) if not one]
    if broken:
        raise NumericError(
            f"evaluation {label}: the model's logits are no finite numbers for {len(broken)} of {len(items)} items (the first is {broken[0]}); "
            "lower the learning rate it was trained with, or use dtype: float32"
        )


def _generate(engine: Engine, model: LanguageModel, task: Task, asked: Plan) -> tuple[list[Answer], list[bool]]:
    """Greedy answers, stopped at the token that ends the reference's turn or the model's own end of text."""
    special = set(model.tokenizer.all_special_ids)
    ends = {model.tokenizer.eos_token_id} | {token for answers in asked.continuations[:1] for token in answers[0] if token in special}
    limit = int(getattr(task, "max_tokens", 32))
    choose = Watched(most_likely)
    tokens = engine.generate(asked.contexts, max_tokens=limit, stop=[token for token in ends if token is not None], choose=choose)
    answers = [Answer(generation=model.tokenizer.decode(said, skip_special_tokens=True), tokens=[len(said)]) for said in tokens]
    return answers, choose.sound(tokens)
