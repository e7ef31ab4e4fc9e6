"""A task in the tokens of a model: made once, asked of every variant on one plan, and remembered item by item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import NumericError
from curate.harness.metrics import Outcome, Value
from curate.harness.questions import Question, Questions
from curate.harness.task_file import TaskFile
from curate.harness.tokens import Encoded, HarnessTokens
from curate.inference.engine import Engine
from curate.inference.generation import plan_generation
from curate.inference.growing import Choose, Watched, most_likely
from curate.inference.ledger import Ledger, key
from curate.inference.plan import Layout, Stage
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.scoring import Scored, ScoringPlan, plan_scoring
from curate.inference.stops import Stops
from curate.interfaces import Press
from curate.store import canonical, digest

# Questions are planned together and kept together up to so many tokens of requests, or generated answers: what a killed run repeats at most.
SCORED, GENERATED = 2**22, 1024

Numbers = tuple[int, ...]  # questions of an exam, ascending


@dataclass(frozen=True)
class Asked:
    """One question with what was sent, in tokens: a sequence for each request, window or prompt."""

    question: Question
    sent: tuple[Encoded, ...]

    @cached_property
    def digest(self) -> str:
        """Of what decides the answer: for each request, the tokens of its context and of its continuation."""
        return digest(canonical([[list(one.context), list(one.continuation)] for one in self.sent]))


@dataclass(frozen=True)
class Reply(Outcome):
    """What a model said, and how many tokens each continuation, window or answer has."""

    tokens: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Exam:
    """All questions of a task in tokens, and how their requests are run."""

    name: str
    questions: Questions
    asked: tuple[Asked, ...]
    seed: int = 0  # of sampled answers
    _plans: dict[tuple[Numbers, Layout], ScoringPlan] = field(default_factory=dict, repr=False)
    _covered: dict[Layout, int] = field(default_factory=dict, repr=False)

    @property
    def task(self) -> TaskFile:
        return self.questions.task.file

    @property
    def generates(self) -> bool:
        return self.task.output_type == "generate_until"

    @property
    def samples(self) -> bool:
        """Whether tokens of answers are drawn."""
        given = self.task.generation_kwargs
        return self.generates and given is not None and given.samples

    @property
    def dropped(self) -> tuple[int, int]:
        """(questions with a request that does not fit the model, the most tokens that any of them lost on its left)."""
        cut = [max((one.dropped for one in asked.sent), default=0) for asked in self.asked]
        return sum(map(bool, cut)), max(cut)

    @property
    def longest(self) -> int:
        """Tokens of the longest request, with room for the answer."""
        room = self.task.max_gen_toks if self.generates else 0
        return max((len(one.context) + len(one.continuation) for asked in self.asked for one in asked.sent), default=0) + room

    @property
    def unstable(self) -> int:
        """Questions with a token that reaches from a context into its continuation."""
        return sum(any(not one.stable for one in asked.sent) for asked in self.asked)

    @property
    def digest(self) -> str:
        """Of all that is asked, in tokens: two exams of one digest ask the same."""
        return digest(canonical([asked.digest for asked in self.asked]))

    @cached_property
    def parts(self) -> list[Numbers]:
        """The questions that are planned together; what is known already does not change them."""
        most = GENERATED if self.generates else SCORED
        found: list[list[int]] = [[]]
        size = 0
        for number, asked in enumerate(self.asked):
            own = self.task.repeats if self.generates else sum(len(one.context) + len(one.continuation) for one in asked.sent)
            if found[-1] and size + own > most:
                found.append([])
                size = 0
            found[-1].append(number)
            size += own
        return [tuple(part) for part in found]

    def ask(self, engine: Engine, ledger: Ledger, identity: Mapping[str, Any]) -> list[Reply]:
        """What the engine's model says to every question; known answers of this identity are not asked for again."""
        names = self.keys(identity, together=engine.press is not None)
        for part in self.parts:
            left = self.left(part, ledger, names)
            if left:
                ledger.add(dict(zip((names[i] for i in left), self._answers(engine, left), strict=True)))
        return self.replies(ledger, names)

    def keys(self, identity: Mapping[str, Any], *, together: bool = False) -> list[str]:
        """The ledger's name of each question's answer; `together` where it depends on what else is asked, as what a press compresses does."""
        everything = {**identity, "output": self.task.output_type, "generation": self._generation()}
        found = []
        for part in self.parts:
            mine = [self.asked[i].digest for i in part]
            others = {"together": digest(canonical(mine))} if together else {}
            found += [key({**everything, **others}, one) for one in mine]
        return found

    def left(self, part: Numbers, ledger: Ledger, names: Sequence[str]) -> Numbers:
        """The questions of a part whose answers are not known."""
        known = ledger.known([names[i] for i in part])
        return tuple(i for i in part if names[i] not in known)

    def replies(self, ledger: Ledger, names: Sequence[str]) -> list[Reply]:
        """What was said to every question."""
        known = ledger.known(names)
        return [self._reply(asked, known[name]) for asked, name in zip(self.asked, names, strict=True)]

    def requests(self, numbers: Numbers) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Contexts of these questions, request by request, each with its one continuation."""
        sent = [one for i in numbers for one in self.asked[i].sent]
        return [one.context for one in sent], [[one.continuation] for one in sent]

    def scored(self, numbers: Numbers, results: Sequence[Sequence[Scored]]) -> list[dict[str, Any]]:
        """What the ledger keeps of the results of `requests`, question by question; NumericError where one is no number."""
        left = iter(results)
        several = [[next(left)[0] for _ in self.asked[i].sent] for i in numbers]
        self._require_sound([i for i, mine in zip(numbers, several, strict=True) if any(math.isnan(one.loglikelihood) for one in mine)])
        return [{"loglikelihoods": [one.loglikelihood for one in mine], "greedy": [one.greedy for one in mine]} for mine in several]

    def covered(self, layout: Layout) -> int:
        """How many tokens a press with this layout compresses: those that several requests begin with, and requests too long to be packed."""
        if layout not in self._covered:
            plans = [plan_generation(self.requests(part)[0], layout) if self.generates else self._plan(part, layout) for part in self.parts]
            self._covered[layout] = sum(len(stage.stretch) for wanted in plans for stage in wanted.plan.top.stages)
        return self._covered[layout]

    def through(self, press: Press, layout: Layout) -> tuple[int, float]:
        """(tokens that this press compresses, each counted once; of all tokens of the contexts, request by request, the share that it compressed)."""
        contexts = [tuple(context) for part in self.parts for context in self.requests(part)[0]]
        total = max(1, sum(map(len, contexts)))
        if press.covers == "prompt":
            last = 0 if self.generates else 1  # is not compressed with the others
            distinct = sum(len(context) - last for context in set(contexts))
            return distinct, sum(len(context) - last for context in contexts) / total
        return self.covered(layout), sum(self._under(part, layout) for part in self.parts) / total

    def _under(self, part: Numbers, layout: Layout) -> int:
        """How many tokens of the contexts of a part, request by request, lie in stretches from position 0 on that are stored."""
        contexts = self.requests(part)[0]
        if self.generates:
            wanted = plan_generation(contexts, layout)
            plan, numbers = wanted.plan, {i: prompt for prompt, asked in enumerate(wanted.asked) for i in asked}
        else:
            plan, numbers = self._plan(part, layout).plan, {i: i for i in range(len(contexts))}
        first = [plan.locate(numbers[i], 0)[0] for i in range(len(contexts))]
        return sum(min(len(where.stretch), len(context)) for where, context in zip(first, contexts, strict=True) if isinstance(where, Stage))

    def _answers(self, engine: Engine, numbers: Numbers) -> list[dict[str, Any]]:
        return self._generated(engine, numbers) if self.generates else self.scored(numbers, engine.score(self._plan(numbers, engine.layout)))

    def _plan(self, numbers: Numbers, layout: Layout) -> ScoringPlan:
        if (numbers, layout) not in self._plans:
            self._plans[numbers, layout] = plan_scoring(*self.requests(numbers), layout)
        return self._plans[numbers, layout]

    def _generated(self, engine: Engine, numbers: Numbers) -> list[dict[str, Any]]:
        task, tokenizer = self.task, engine.model.tokenizer
        prompts = [self.asked[i].sent[0].context for i in numbers]
        repeated = [prompt for prompt in prompts for _ in range(task.repeats)]
        stops = Stops.at([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [], task.until, lambda said: str(tokenizer.decode(said)))
        choose = Watched(self._choose(prompts))
        answers = engine.generate(repeated, max_tokens=task.max_gen_toks, stops=stops, choose=choose)
        self._require_sound(sorted({numbers[place // task.repeats] for place, sound in enumerate(choose.sound(answers)) if not sound}))
        texts = [stops.cut(tokenizer.decode(said, skip_special_tokens=True)) for said in answers]
        starts = range(0, len(texts), task.repeats)
        return [{"responses": texts[at : at + task.repeats], "tokens": [len(said) for said in answers[at : at + task.repeats]]} for at in starts]

    def _choose(self, prompts: Sequence[Sequence[int]]) -> Choose:
        given = self.task.generation_kwargs
        if given is None or not given.samples:
            return most_likely
        return Sampler(sample_keys(self.seed, prompts, self.task.repeats), Nucleus(given.temperature, given.top_p))

    def _generation(self) -> dict[str, Any]:
        if not self.generates:
            return {}
        given = self.task.generation_kwargs
        drawn = {"temperature": given.temperature, "top_p": given.top_p, "seed": self.seed} if given is not None and given.samples else {}
        return {"until": self.task.until, "max_gen_toks": self.task.max_gen_toks, "repeats": self.task.repeats, **drawn}

    def _reply(self, asked: Asked, stored: Mapping[str, Any]) -> Reply:
        tokens = stored.get("tokens", [len(one.continuation) for one in asked.sent])
        return Reply(stored.get("loglikelihoods", ()), stored.get("greedy", ()), stored.get("responses", ()), tokens)

    def _require_sound(self, broken: Sequence[int]) -> None:
        if broken:
            first = self.asked[broken[0]].question.id
            raise NumericError(
                f"{self.name}: the model's logits are no finite numbers for {len(broken)} questions (the first is {first}); "
                "its weights are damaged, or overflow in this dtype: try --dtype float32, or leave the variant out"
            )


def first(exam: Exam, count: int) -> Exam:
    """The exam's first questions."""
    return replace(exam, asked=exam.asked[:count], _plans={}, _covered={})


def prepare(questions: Questions, tokens: HarnessTokens, seed: int = 0, name: str = "") -> Exam:
    """The exam in this tokenizer, called by the task's name unless by another; DataError for a question that cannot be asked."""
    task = questions.task.file
    sent: list[tuple[Encoded, ...]]
    if task.output_type == "generate_until":
        sent = [(tokens.prompt(question.context, task.max_gen_toks),) for question in questions.questions]
    elif task.output_type == "loglikelihood_rolling":
        sent = [tuple(tokens.rolling(question.requests[0][1])) for question in questions.questions]
    else:
        flat = iter(tokens.pairs([pair for question in questions.questions for pair in question.requests]))
        sent = [tuple(next(flat) for _ in question.requests) for question in questions.questions]
    asked = tuple(Asked(question, one) for question, one in zip(questions.questions, sent, strict=True))
    return Exam(name or questions.task.name, questions, asked, seed)


def record(question: Question, reply: Reply, graded: Mapping[str, Value]) -> dict[str, Any]:
    """One item as a line of items.jsonl: what was asked and said, and its score, which is that of the task's first metric.

    Log-likelihoods are in the order of the choices, `alone` those of choices without a context; an infinite one is null.
    """
    asked = [context for context, _ in question.requests[: len(question.choices) or None]]
    weighed = [] if reply.responses else list(question.choices) or [text for _, text in question.requests]
    nats = [value if math.isfinite(value) else None for value in reply.loglikelihoods]
    alone = {"alone": nats[len(question.choices) :]} if 0 < len(question.choices) < len(nats) else {}
    return {
        "id": question.id,
        "prompt": asked[0] if len(set(asked)) == 1 else asked,
        "targets": list(question.targets),
        "choices": weighed,
        "loglikelihoods": nats[: len(question.choices) or None],
        **alone,
        "generation": list(reply.responses),
        "score": next(iter(graded.values())).value,
        "metrics": {name: value.value for name, value in graded.items()},
        "tokens": list(reply.tokens),
    }


def empty_answers(outcomes: Sequence[Outcome]) -> int:
    """Generated answers without a character; they count as wrong."""
    return sum(response == "" for outcome in outcomes for response in outcome.responses)


def choices_of(question: Question, outcome: Outcome) -> NDArray[np.float64]:
    """(C,) log-likelihoods of a question's choices; of a question without choices one number, the sum over its requests."""
    nats = np.asarray(outcome.loglikelihoods, np.float64)
    return nats[: len(question.choices)] if question.choices else nats.sum(keepdims=True)
