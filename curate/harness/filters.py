"""What is read out of generated answers: chains of small functions, as lm-eval's filter_list names them."""

import re
from collections import Counter
from collections.abc import Sequence

from curate.harness.task_file import Filter, Step, TaskFile

TAKE_FIRST = Filter(name="none", filter=[Step(function="take_first")])


def pipelines(task: TaskFile) -> list[Filter]:
    """Those of filter_list; by default the first answer as it is."""
    return task.filter_list or [TAKE_FIRST]


def filtered(pipeline: Filter, responses: Sequence[str]) -> list[str]:
    """The answers to one question after every function of the chain but a last take_first: what is read is the first of these."""
    answers = list(responses)
    for step in pipeline.filter:
        answers = answers if step.function == "take_first" else _apply(step, answers)
    return answers


def _apply(step: Step, answers: list[str]) -> list[str]:
    match step.function:
        case "regex":
            pattern = re.compile(step.regex_pattern)
            return [_found(pattern, step, answer) for answer in answers]
        case "remove_whitespace":
            return [answer.strip() for answer in answers]
        case "lowercase":
            return [answer.lower() for answer in answers]
        case "uppercase":
            return [answer.upper() for answer in answers]
        case "majority_vote":  # of equally frequent answers the first, which `most_common` keeps in order
            return [Counter(answers).most_common(1)[0][0]] if answers else []
        case _:
            return answers[: step.k]


def _found(pattern: re.Pattern[str], step: Step, answer: str) -> str:
    """The selected match, of several groups the first that is not empty, without white space around it; the fallback where there is none."""
    matches = pattern.findall(answer)
    if not -len(matches) <= step.group_select < len(matches):
        return step.fallback
    match = matches[step.group_select]
    if not isinstance(match, tuple):
        return str(match).strip()
    groups = [group for group in match if group]
    return groups[0].strip() if groups else step.fallback
