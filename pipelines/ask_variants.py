"""Ask variants: ordinary adapters one after the other, activated ones all at once behind the base's own prefix; nothing that the ledger knows."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from curate import __version__
from curate.errors import about
from curate.harness.exam import Exam, Numbers, Reply, empty_answers
from curate.harness.metrics import Value, summarise, values
from curate.harness.results import Examined, MetricFound
from curate.inference.activated import Activated, score_activated
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger
from curate.inference.variants import Variants
from curate.inference.vllm_backend import Vllm, VllmEngine
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.pipelines.calibrate_press import Calibration

BASE = "base"
Name = str | None  # of a variant; None is the base


@dataclass(frozen=True)
class Said:
    """What a variant said to an exam, graded."""

    record: Examined
    replies: list[Reply]
    graded: list[dict[str, Value]]


@dataclass(frozen=True)
class Asking:
    """What all examinations of one call share."""

    model: Mapping[str, Any]  # what of the base model decides the numbers
    variants: Variants
    ledger: Ledger
    device: str
    batch_tokens: int = 8192
    continuous: bool = False
    vllm: Vllm | None = None  # generates, if there is one
    press: Press | None = None
    calibration: Calibration = field(default_factory=Calibration)

    def one(self, exam: Exam, name: Name, *, exact: bool = False) -> Said:
        """What a variant says; through the press, if there is one, unless it is to be exact."""
        started = time.monotonic()
        press = None if exact else self.press
        with about(name or BASE), self.variants.using(name) as model:
            engine = self._engine(exam, name, model, press)
            replies = exam.ask(engine, self.ledger, self._identity(name, engine))
        through, share = exam.through(press, engine.layout) if press else (0, 0.0)
        cost = {
            "forward_tokens": engine.forward_tokens,
            "tokens_without_sharing": engine.asked_tokens,
            "cache_bytes": engine.peak_bytes,
            "compressed_tokens": through,
            "compressed_share": share,
            "seconds": round(time.monotonic() - started, 3),
            "unshared": engine.unshared,
        }
        return _said(exam, name, replies, exact=press is None, **cost)

    def _engine(self, exam: Exam, name: Name, model: LanguageModel, press: Press | None) -> Engine:
        if self.vllm is not None and exam.generates:
            return VllmEngine(model, self.batch_tokens, press, vllm=self.vllm, adapter=name)
        return Engine(model, self.batch_tokens, press, self.calibration.state if press else None, continuous=self.continuous and exam.generates)

    def together(self, exam: Exam, names: Sequence[Name]) -> dict[Name, Said]:
        """What the base and activated adapters say: tokens before an adapter's invocation are the base's, and computed once for all of them."""
        started = time.monotonic()
        engine = Engine(self.variants.base, self.batch_tokens)
        keys = {name: exam.keys(self._identity(name, engine)) for name in names}
        spent: Counter[Name] = Counter()
        unshared: Counter[Name] = Counter()
        for part in exam.parts:
            for several, numbers in _alike({name: exam.left(part, self.ledger, keys[name]) for name in names}):
                found = score_activated(self.variants, several, *exam.requests(numbers), engine.layout)
                spent.update(_shares(found, several))
                unshared.update(dict.fromkeys(several, found.asked_tokens // len(several)))
                for name in several:
                    with about(name or BASE):
                        known = exam.scored(numbers, found.results[name])
                    self.ledger.add(dict(zip((keys[name][i] for i in numbers), known, strict=True)))
        seconds = round((time.monotonic() - started) / len(names), 3)
        cost: dict[str, Any] = {"cache_bytes": None, "compressed_tokens": 0, "seconds": seconds, "unshared": ""}
        return {
            name: _said(
                exam,
                name,
                exam.replies(self.ledger, keys[name]),
                exact=True,
                forward_tokens=spent[name],
                tokens_without_sharing=unshared[name],
                **cost,
            )
            for name in names
        }

    def _identity(self, name: Name, engine: Engine) -> dict[str, Any]:
        """All that decides an answer but the request."""
        elsewhere = {"vllm": engine.vllm.build} if isinstance(engine, VllmEngine) else {}
        return {
            "model": dict(self.model),
            "weights": self.variants.fingerprint(name) if name is not None else None,
            "engine": {"curate": __version__, "layout": asdict(engine.layout), "continuous": engine.continuous, **elsewhere},
            "press": [engine.press.model_dump(mode="json"), engine.press.version, self.calibration.digest] if engine.press else None,
            "versions": environment(self.device),
        }


def environment(device: str) -> dict[str, str]:
    """What else computes."""
    return {"device": device.split(":")[0], **{name: version(name) for name in ("torch", "transformers", "peft")}}


def _alike(left: Mapping[Name, Numbers]) -> list[tuple[tuple[Name, ...], Numbers]]:
    """Questions whose answers the same variants owe, with these variants."""
    owing: dict[int, list[Name]] = defaultdict(list)
    for name, numbers in left.items():
        for number in numbers:
            owing[number].append(name)
    found: dict[tuple[Name, ...], list[int]] = defaultdict(list)
    for number in sorted(owing):
        found[tuple(owing[number])].append(number)
    return [(names, tuple(numbers)) for names, numbers in found.items()]


def _shares(found: Activated, names: Sequence[Name]) -> dict[Name, int]:
    """Whose the computed tokens are: the base has what was computed once for all, the adapters equal parts of the rest; they have it all without the base."""
    own = found.base_tokens if None in names else 0
    adapters = [name for name in names if name is not None]
    each, rest = divmod(found.forward_tokens - own, max(1, len(adapters)))
    return {None: own} | {name: each + (number < rest) for number, name in enumerate(adapters)}


def _said(exam: Exam, name: Name, replies: list[Reply], **cost: Any) -> Said:
    graded = [values(exam.task, asked.question, reply) for asked, reply in zip(exam.asked, replies, strict=True)]
    metrics = [
        MetricFound(name=metric, value=finite(one.value), standard_error=finite(one.standard_error), higher_is_better=one.higher_is_better)
        for metric, one in summarise(exam.task, graded).items()
    ]
    task, empty = exam.task, empty_answers(replies)
    record = Examined(variant=name or BASE, task=exam.name, version=task.version, items=len(graded), metrics=metrics, empty=empty, **cost)
    return Said(record, replies, graded)


def finite(value: float) -> float | None:
    """The number, or None where it is none or infinite: JSON has no such numbers."""
    return float(value) if math.isfinite(value) else None
