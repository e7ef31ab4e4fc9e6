"""A task in the tokens of a model: made once, asked of every variant on one plan, and remembered item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from curate.harness.metrics import Outcome
from curate.harness.questions import Question, Questions
from curate.harness.task_file import TaskFile
from curate.harness.tokens import Encoded, HarnessTokens
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger, key
from curate.inference.plan import Layout
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.scoring import ScoringPlan, plan_scoring
from curate.inference.stops import Stops
from curate.store import canonical, digest

TOGETHER = 4096  # questions that are planned together, and kept together: what a killed run repeats at most


@dataclass(frozen=True)
class Asked:
    """One question with what was sent, in tokens: a sequence for each request, window or prompt."""

    question: Question
    sent: tuple[Encoded, ...]

    def identity(self) -> list[list[list[int]]]:
        """What of it decides the answer: for each request, the tokens of its context and of its continuation."""
        return [[list(one.context), list(one.continuation)] for one in self.sent]


@dataclass(frozen=True, eq=False)
class Exam:
    """All questions of a task in tokens, and how their requests are run."""

    questions: Questions
    asked: tuple[Asked, ...]
    seed: int = 0  # of sampled answers
    _plans: dict[tuple[tuple[int, ...], Layout], ScoringPlan] = field(default_factory=dict, repr=False)

    @property
    def task(self) -> TaskFile:
        return self.questions.task.file

    @property
    def dropped(self) -> tuple[int, int]:
        """(questions, tokens) that were cut from the left because a request did not fit the model."""
        cut = [sum(one.dropped for one in asked.sent) for asked in self.asked]
        return sum(map(bool, cut)), sum(cut)

    @property
    def unstable(self) -> int:
        """Questions with a token that reaches from a context into its continuation."""
        return sum(any(not one.stable for one in asked.sent) for asked in self.asked)

    @property
    def digest(self) -> str:
        """Of all that is asked, in tokens: two exams of one digest ask the same."""
        return digest(canonical([asked.identity() for asked in self.asked]))

    def ask(self, engine: Engine, ledger: Ledger, identity: Mapping[str, Any]) -> list[Outcome]:
        """What the engine's model says to every question; known answers of this identity are not asked for again."""
        everything = {**identity, "output": self.task.output_type, "generation": self._generation()}
        names = [key(everything, asked.identity()) for asked in self.asked]
        known = ledger.known(names)
        left = [i for i, name in enumerate(names) if name not in known]
        for start in range(0, len(left), TOGETHER):
            part = tuple(left[start : start + TOGETHER])
            found = self._generated(engine, part) if self.task.output_type == "generate_until" else self._scored(engine, part)
            ledger.add({names[i]: one for i, one in zip(part, found, strict=True)})
        known = ledger.known(names)
        return [_outcome(known[name]) for name in names]

    def _scored(self, engine: Engine, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
        results = iter(engine.score(self._plan(numbers, engine.layout)))
        found = []
        for i in numbers:
            mine = [next(results)[0] for _ in self.asked[i].sent]
            found.append({"loglikelihoods": [one.loglikelihood for one in mine], "greedy": [one.greedy for one in mine]})
        return found

    def _plan(self, numbers: tuple[int, ...], layout: Layout) -> ScoringPlan:
        if (numbers, layout) not in self._plans:
            sent = [one for i in numbers for one in self.asked[i].sent]
            self._plans[numbers, layout] = plan_scoring([one.context for one in sent], [[one.continuation] for one in sent], layout)
        return self._plans[numbers, layout]

    def _generated(self, engine: Engine, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
        task, tokenizer = self.task, engine.model.tokenizer
        prompts = [self.asked[i].sent[0].context for i in numbers]
        repeated = [prompt for prompt in prompts for _ in range(task.repeats)]
        stops = Stops.at([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [], task.until, lambda said: str(tokenizer.decode(said)))
        given = task.generation_kwargs
        how: dict[str, Any] = {}
        if given is not None and given.samples:
            how["choose"] = Sampler(sample_keys(self.seed, prompts, task.repeats), Nucleus(given.temperature or 1.0, given.top_p))
        answers = engine.generate(repeated, max_tokens=task.max_gen_toks, stops=stops, **how)
        texts = [stops.cut(tokenizer.decode(said, skip_special_tokens=True)) for said in answers]
        return [
            {"responses": texts[start : start + task.repeats], "tokens": [len(said) for said in answers[start : start + task.repeats]]}
            for start in range(0, len(texts), task.repeats)
        ]

    def _generation(self) -> dict[str, Any]:
        if self.task.output_type != "generate_until":
            return {}
        given = self.task.generation_kwargs
        drawn = {"temperature": given.temperature, "top_p": given.top_p, "seed": self.seed} if given is not None and given.samples else {}
        return {"until": self.task.until, "max_gen_toks": self.task.max_gen_toks, "repeats": self.task.repeats, **drawn}


def first(exam: Exam, count: int) -> Exam:
    """The exam's first questions."""
    return replace(exam, asked=exam.asked[:count], _plans={})


def prepare(questions: Questions, tokens: HarnessTokens, seed: int = 0) -> Exam:
    """The exam in this tokenizer; DataError for a question that cannot be asked."""
    task = questions.task.file
    sent: list[tuple[Encoded, ...]]
    if task.output_type == "generate_until":
        sent = [(tokens.prompt(question.context, task.max_gen_toks),) for question in questions.questions]
    elif task.output_type == "loglikelihood_rolling":
        sent = [tuple(tokens.rolling(question.requests[0][1])) for question in questions.questions]
    else:
        flat = iter(tokens.pairs([pair for question in questions.questions for pair in question.requests]))
        sent = [tuple(next(flat) for _ in question.requests) for question in questions.questions]
    return Exam(questions, tuple(Asked(question, one) for question, one in zip(questions.questions, sent, strict=True)), seed)


def _outcome(stored: Mapping[str, Any]) -> Outcome:
    return Outcome(stored.get("loglikelihoods", ()), stored.get("greedy", ()), stored.get("responses", ()))


def empty_answers(outcomes: Sequence[Outcome]) -> int:
    """Questions to which nothing was generated."""
    return sum(not any(outcome.responses) for outcome in outcomes if outcome.responses)
