"""Scores of questions by lm-eval 0.4.13's definitions: a value for every question, its mean or perplexity over all, and the standard error.

    acc               1 if the likeliest choice is right (of equal ones the first counts)
    acc_norm          likewise by log-likelihood / characters of the choice; acc_bytes by UTF-8 bytes; the delimiter before a choice is not counted
    acc_mutual_info   likewise by log-likelihood minus that of the choice with an empty context
    exact_match       of choices: 1 if greedy decoding gives a right one; of text: 1 if the first answer equals a right one
    perplexity        exp(-mean log-likelihood); word_ and byte_perplexity exp(-sum / words or bytes), bits_per_byte -sum / bytes / ln 2
    pass@k            1 - C(n - c, k) / C(n, k), the chance that one of k of n answers is right where c are (Chen et al., arXiv:2107.03374)

Standard errors are s / sqrt(n) of a mean, as lm-eval's; of perplexities by the delta method (lm-eval: a bootstrap, or none where words or bytes
weigh). An empty answer is never right.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curate.errors import DataError
from curate.harness.filters import filtered, pipelines
from curate.harness.questions import Question
from curate.harness.task_file import LOWER_IS_BETTER, Metric, TaskFile

_WORDS = re.compile(r"\s+")


@dataclass(frozen=True)
class Outcome:
    """What a model said to the requests of one question: log-likelihoods (nats) and whether each was greedy, or the generated answers."""

    loglikelihoods: Sequence[float] = ()  # of each request; of a rolling text, of each window
    greedy: Sequence[bool] = ()
    responses: Sequence[str] = ()


class Value(NamedTuple):
    """A question's value of a metric; `weight` is what sums of values are divided by, words or bytes where not questions."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Summary:
    """A metric over all questions; the standard error is NaN for a single one."""

    value: float
    standard_error: float
    questions: int
    higher_is_better: bool


def values(task: TaskFile, question: Question, outcome: Outcome) -> dict[str, Value]:
    """The metrics of one question: by name, as `name,filter` where filter_list names filters, and pass@k as `pass@1`."""
    if task.output_type == "multiple_choice":
        return _of_choices(task, question, outcome)
    if task.output_type == "generate_until":
        return _of_answers(task, question, outcome)
    total = math.fsum(outcome.loglikelihoods)
    if task.output_type == "loglikelihood":
        if len(outcome.loglikelihoods) != 1 or len(outcome.greedy) != 1:
            raise DataError(f"question {question.id}: one request, but {len(outcome.loglikelihoods)} log-likelihoods and {len(outcome.greedy)} greedy flags")
        each = {"perplexity": Value(total), "acc": Value(float(outcome.greedy[0]))}
    else:
        text = question.requests[0][1]
        size = Value(total, len(text.encode()))
        each = {"word_perplexity": Value(total, len(_WORDS.split(text))), "byte_perplexity": size, "bits_per_byte": size}
    return {metric.metric: each[metric.metric] for metric in task.metrics}


def summarise(task: TaskFile, found: Sequence[Mapping[str, Value]]) -> dict[str, Summary]:
    """Every metric over all questions, in the order of the task file."""
    if not found:
        raise DataError("there is no question to summarise")
    by_name = {metric.metric: metric for metric in task.metrics}
    summaries = {}
    for name in found[0]:
        base = name.partition(",")[0]
        metric = by_name["pass@k"] if base.startswith("pass@") else next(one for one in task.metrics if one.metric == base)
        value, error = _aggregate(metric, np.array([one[name] for one in found], np.float64))
        summaries[name] = Summary(value, error, len(found), metric.metric not in LOWER_IS_BETTER or metric.how == "mean")
    return summaries


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n answers, drawn without replacement, hold one of the c right ones; no binomial is formed."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise DataError(f"pass@{k} of {n} answers, {c} of them right: k lies between 1 and the number of answers")
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))  # a factor is 0 where fewer than k answers are wrong


def equal(said: str, right: str, options: Metric) -> bool:
    """Whether two texts are the same once what the options name has been taken out of both, in lm-eval's order."""
    return _plain(said, options) == _plain(right, options)


def _plain(text: str, options: Metric) -> str:
    for pattern in options.regexes_to_ignore:
        text = re.sub(pattern, "", text)
    text = text.lower() if options.ignore_case else text
    removed = (string.punctuation if options.ignore_punctuation else "") + (string.digits if options.ignore_numbers else "")
    return text.translate(str.maketrans("", "", removed))


def _of_choices(task: TaskFile, question: Question, outcome: Outcome) -> dict[str, Value]:
    n = len(question.choices)
    if len(outcome.loglikelihoods) != len(question.requests) or len(outcome.greedy) < n:
        raise DataError(f"question {question.id}: {len(question.requests)} requests, but {len(outcome.loglikelihoods)} log-likelihoods")
    scores = np.asarray(outcome.loglikelihoods, np.float64)
    given, alone = scores[:n], scores[n:]
    sizes = {
        "acc": np.ones(n),
        "acc_norm": np.array([len(choice) for choice in question.choices], np.float64),
        "acc_bytes": np.array([len(choice.encode()) for choice in question.choices], np.float64),
    }
    found: dict[str, Value] = {}
    for metric in task.metrics:
        if metric.metric == "exact_match":
            right = any(outcome.greedy[int(target)] for target in question.targets)
        else:
            ranked = given - alone if metric.metric == "acc_mutual_info" else given / sizes[metric.metric]
            right = int(np.argmax(ranked)) in question.targets
        found[metric.metric] = Value(float(right))
    return found


def _of_answers(task: TaskFile, question: Question, outcome: Outcome) -> dict[str, Value]:
    if len(outcome.responses) != task.repeats:
        raise DataError(f"question {question.id}: {len(outcome.responses)} answers, but repeats is {task.repeats}")
    found = {}
    for pipeline in pipelines(task):
        suffix = f",{pipeline.name}" if task.filter_list else ""
        answers = filtered(pipeline, outcome.responses)
        for metric in task.metrics:
            right = [_right(answer, question, metric) for answer in answers]
            # Filters can make something of nothing, but only one that keeps all answers says which of them were empty.
            if len(answers) == len(outcome.responses):
                right = [one and bool(said) for one, said in zip(right, outcome.responses, strict=True)]
            if metric.metric == "exact_match":
                found[f"exact_match{suffix}"] = Value(float(right[0]))
                continue
            for k in metric.k:
                if k > len(right):
                    raise DataError(f"filter {pipeline.name!r} leaves {len(right)} answers, too few for pass@{k}; end it before take_first_k or majority_vote")
                found[f"pass@{k}{suffix}"] = Value(pass_at_k(len(right), sum(right), k))
    return found


def _right(answer: str, question: Question, metric: Metric) -> bool:
    return answer != "" and any(equal(answer, str(target), metric) for target in question.targets)


def _aggregate(metric: Metric, pairs: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> tuple[float, float]:
    """The metric over (n, 2) values and weights, and its standard error."""
    n = len(pairs)
    values, weights = pairs.T
    if not weights.sum():
        raise DataError(f"{metric.metric}: all texts are empty, so there is nothing to divide by")
    ratio = float(values.sum() / weights.sum())
    spread = float(((values - ratio * weights) ** 2).sum())
    error = math.sqrt(n * spread / (n - 1)) / float(weights.sum()) if n > 1 else math.nan
    if metric.how == "mean":
        return ratio, error
    if metric.how == "bits_per_byte":
        return -ratio / math.log(2), error / math.log(2)
    perplexity = math.exp(-ratio) if ratio > -700 else math.inf
    return perplexity, perplexity * error
