"""Small skills that check themselves: wordings with slots, a way to fill the slots, and the answer they determine."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curate.data.vocabulary import DAYS, KIND_OF, NOUNS, OPPOSITES, PAST, Generator, plural, prose

Slots = Mapping[str, str]


@dataclass(frozen=True)
class Skill:
    """A kind of task whose answer follows from the words of its prompt, so that any completion can be checked."""

    name: str
    wordings: tuple[str, ...]
    draw: Callable[[Generator], Slots]
    answer: Callable[[Slots], str]

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """One expression per wording; a slot ends with its line, so that words before and after the task do no harm."""
        parts = (re.split(r"\{(\w+)\}", wording) for wording in self.wordings)
        return tuple(re.compile("".join(f"(?P<{p}>[^\n]+)" if i % 2 else re.escape(p) for i, p in enumerate(split)) + r"(?:\n|$)", re.I) for split in parts)

    def example(self, generator: Generator) -> tuple[str, str]:
        """A prompt and its right completion."""
        slots = self.draw(generator)
        return str(generator.choice(self.wordings)).format(**slots), self.answer(slots)

    def verify(self, prompt: str, completion: str) -> bool:
        """Whether the completion is the answer to the prompt; False where the prompt is not of this skill."""
        plain = "\n".join(" ".join(line.split()) for line in prompt.splitlines())
        matches = (pattern.search(plain) for pattern in self.patterns)
        return any(self._answers(match.groupdict(), completion) for match in matches if match)

    def _answers(self, slots: Slots, completion: str) -> bool:
        try:
            return self.answer(slots) == completion
        except (LookupError, ValueError, StopIteration):  # another wording of the skill that happens to fit
            return False


def sample(generator: Generator, words: list[str], low: int, high: int | None = None) -> str:
    """`low` to `high` distinct words in a row."""
    count = int(generator.integers(low, (high or low) + 1))
    return " ".join(generator.choice(words, count, replace=False).tolist())


def _number(generator: Generator, low: int, high: int) -> str:
    return str(generator.integers(low, high + 1))


def _words(low: int, high: int | None = None, of: list[str] = NOUNS) -> Callable[[Generator], Slots]:
    return lambda generator: {"words": sample(generator, of, low, high)}


def _numbers(low: int, high: int) -> Callable[[Generator], Slots]:
    return lambda generator: {"a": _number(generator, low, high), "b": _number(generator, low, high)}


def _distinct(generator: Generator) -> Slots:
    low, high = sorted(generator.choice(np.arange(10, 1000), 2, replace=False).tolist())
    return {"a": str(high), "b": str(low)} if generator.random() < 0.5 else {"a": str(low), "b": str(high)}


def _listed(generator: Generator) -> Slots:
    words = sample(generator, NOUNS, 4).split()
    return {"word": words[-1] if generator.random() < 0.5 else words[0], "words": " ".join(words[:3])}


def _swapped(generator: Generator) -> Slots:
    words = sample(generator, NOUNS, 4).split()
    return {"word": words[int(generator.integers(3))], "other": words[3], "words": " ".join(words[:3])}


def _each(change: Callable[[str], str]) -> Callable[[Slots], str]:
    return lambda slots: " ".join(change(word) for word in slots["words"].split())


def topic(text: str) -> str:
    """The kind of the first noun in a text; StopIteration if there is none."""
    return next(KIND_OF[word] for word in re.findall(r"\w+", text.lower()) if word in KIND_OF)


def _membership(slots: Slots) -> str:
    return "yes" if slots["word"] in slots["words"].split() else "no"


def _replacement(slots: Slots) -> str:
    return " ".join(slots["other"] if word == slots["word"] else word for word in slots["words"].split())


def _integers(slots: Slots) -> tuple[int, int]:
    return int(slots["a"]), int(slots["b"])


SKILLS = tuple(
    Skill(*skill)
    for skill in (
        ("add", ("Add {a} and {b}.", "What is {a} + {b}?", "Sum of {a} and {b}?"), _numbers(1, 99), lambda s: str(sum(_integers(s)))),
        ("subtract", ("What is {a} - {b}?", "Take {b} from {a}.", "How much is {a} minus {b}?"), _numbers(1, 99), lambda s: str(int(s["a"]) - int(s["b"]))),
        ("larger", ("Which is larger, {a} or {b}?", "Larger of {a} and {b}?"), _distinct, lambda s: str(max(_integers(s)))),
        ("smaller", ("Which is smaller, {a} or {b}?", "Smaller of {a} and {b}?"), _distinct, lambda s: str(min(_integers(s)))),
        ("parity", ("Is {a} even or odd?", "Even or odd: {a}"), _numbers(10, 9999), lambda s: "odd" if int(s["a"]) % 2 else "even"),
        (
            "weekday",
            ("Which day is {a} days after {b}?", "It is {b}. What day is it in {a} days?"),
            lambda g: {"a": _number(g, 2, 99), "b": str(g.choice(DAYS))},
            lambda s: DAYS[(DAYS.index(s["b"]) + int(s["a"])) % 7],
        ),
        ("count", ("How many words?\n{words}", "Count the words: {words}"), _words(2, 7), lambda s: str(len(s["words"].split()))),
        ("copy", ("Repeat this: {words}", "Say again: {words}"), _words(2, 4), lambda s: s["words"]),
        ("reverse", ("Write these words backwards: {words}", "Reverse the order: {words}"), _words(3), lambda s: " ".join(s["words"].split()[::-1])),
        ("first", ("First word of this list?\n{words}", "Give the first word: {words}"), _words(3, 5), lambda s: s["words"].split()[0]),
        ("last", ("Last word of this list?\n{words}", "Give the last word: {words}"), _words(3, 5), lambda s: s["words"].split()[-1]),
        ("initials", ("First letters of these words: {words}", "Initials?\n{words}"), _words(3), _each(lambda word: word[0])),
        ("sort", ("Sort by alphabet: {words}", "Put in order from a to z: {words}"), _words(3), lambda s: " ".join(sorted(s["words"].split()))),
        ("member", ("Is {word} in this list?\n{words}", "Does the list have {word}?\n{words}"), _listed, _membership),
        ("replace", ("Put {other} for {word}: {words}", "Change {word} to {other}: {words}"), _swapped, _replacement),
        ("opposite", ("Opposites of {words}?", "Give the opposite words: {words}"), _words(2, 2, list(OPPOSITES)), _each(OPPOSITES.__getitem__)),
        ("past", ("Past tense: {words}", "Put these verbs in the past: {words}"), _words(2, 3, list(PAST)), _each(PAST.__getitem__)),
        ("plural", ("Plural of {words}?", "More than one: {words}"), _words(2), _each(plural)),
        ("topic", ("What is this about?\n{text}", "Topic of this sentence: {text}"), lambda g: {"text": prose(g)}, lambda s: topic(s["text"])),
        ("kind", ("What kind of things are these?\n{words}", "Name the kinds: {words}"), _words(2), _each(KIND_OF.__getitem__)),
    )
)
