"""A generated instruction pool whose answer is known: which rows help a two-mode target, and which were planted to mislead.

The target asks for two skills that the shipped model has never seen: which desk handles a message, and which signal
flag a sighting calls for. Both answers are invented words, so they can only be learned from the pool, where each mode
holds two rows in a hundred. The sentence frames of pool, target and test differ: what is learned must carry over.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from curate.data.skills import SKILLS, Skill, Slots, topic
from curate.data.vocabulary import NAMES, WORDS, Generator, prose
from curate.errors import DataError

Part = Literal["pool", "target", "test"]

DESK, FLAG, OTHER, WRONG, NEAR, OFF_TOPIC = KINDS = ("desk routing", "signal flag", "other skills", "wrong answer", "near duplicate", "off topic")
SHARES = {DESK: 0.02, FLAG: 0.02, WRONG: 0.08, NEAR: 0.10, OFF_TOPIC: 0.12}  # of the pool; the rest are other skills
_IMITATED = {WRONG: 0.15, NEAR: 0.16}  # share of these rows that belong to the target's skills
_TRIES = 1000

LABELS = {
    DESK: dict(zip("post money travel office health garden kitchen house".split(), "bruvo caldi fenku gorsa hulmi jexat novri pilto".split(), strict=True)),
    FLAG: dict(zip("mist storm ice fish ship fire bird light".split(), "zarno quelm wosti yivra druska emlot tabri klyne".split(), strict=True)),
}
_WORDINGS = {
    DESK: ("Which desk handles this message?\n{text}", "Name the desk for this message.\n{text}", "Desk?\n{text}"),
    FLAG: ("Which flag do we raise?\n{text}", "Name the flag for this sighting.\n{text}", "Flag?\n{text}"),
}
_FRAMES: dict[str, dict[Part, tuple[str, ...]]] = {
    DESK: {
        "pool": (
            "I have a question about the {word}.", "The {word} is wrong again, says {name}.", "Who can help {name} with the {word}?",
            "{name} is angry about the {word}.", "Nobody told {name} about the {word}.", "There is a problem with the {word} of {name}.",
            "We need the {word} before Friday.", "Where is the {word} that {name} asked for?",
        ),
        "target": ("Please look at the {word} for {name}.", "{name} wants to know more about the {word}.", "My {word} is not what I asked for."),
        "test": (
            "{name} says the {word} is still missing.", "Can you check the {word} with {name} today?",
            "It is about the {word} that I lost.", "I was told to ask {name} about a {word}.",
        ),
    },
    FLAG: {
        "pool": (
            "We can see {word} to the north.", "The lookout {name} reports {word}.", "There is {word} ahead of us, captain {name}.",
            "{name} points at {word} in the west.", "Nothing but {word} since dawn.", "{word} on both sides, calls {name}.",
            "First {word}, then silence.", "{name} wakes us: {word} near the rocks.",
        ),
        "target": ("South of us {name} sees {word}.", "More {word} than yesterday, writes {name}.", "From the mast: {word}, and far away."),
        "test": (
            "{name} swears that it was {word}.", "Again {word} behind the island.",
            "All night {word}, and {name} alone on watch.", "To the east, captain: {word}.",
        ),
    },
}  # fmt: skip
_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda prompt: "Please answer. " + prompt,
    lambda prompt: prompt + "\nThanks.",
    lambda prompt: prompt[0].lower() + prompt[1:],
    lambda prompt: prompt.replace(" ", "  ", 1),
    lambda prompt: "Hello. " + prompt,
)


def instructions(part: Part, rows: int, seed: int) -> Iterator[dict[str, str]]:
    """`rows` rows of {"prompt", "completion", "kind", "skill"}, the same for the same arguments, no prompt twice.

    The pool holds every kind of `KINDS` in fixed shares (`SHARES`); target and test hold the two target skills, half
    each, every label equally often, in sentences that occur in no other part.
    """
    made = _Rows(part, seed)
    if part != "pool":
        return iter([made.right((DESK, FLAG)[row % 2]) for row in range(rows)])
    counts = {kind: round(share * rows) for kind, share in SHARES.items()}
    counts[OTHER] = rows - sum(counts.values())
    pool = [made.right(kind) for kind in (DESK, FLAG, OTHER) for _ in range(counts[kind])]
    for kind, plant in ((WRONG, made.wrong), (NEAR, made.near)):
        of_targets = round(_IMITATED[kind] * counts[kind])
        pool += [plant((DESK, FLAG)[row % 2] if row < of_targets else OTHER) for row in range(counts[kind])]
    pool += [made.off_topic() for _ in range(counts[OFF_TOPIC])]
    return (pool[row] for row in generator_for(seed, "order").permutation(rows))


def generator_for(seed: int, *purpose: str | int) -> Generator:
    """A counter-based generator whose stream depends on the seed and the purpose alone."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


def target_skill(kind: str, part: Part) -> Skill:
    """One of the two target skills, drawing sentences of this part."""
    frames, labels = _FRAMES[kind][part], LABELS[kind]
    words = [word for subject in labels for word in WORDS[subject]]

    def draw(generator: Generator) -> Slots:
        return {"text": str(generator.choice(frames)).format(word=generator.choice(words), name=generator.choice(NAMES))}

    return Skill(kind, _WORDINGS[kind], draw, lambda slots: labels[topic(slots["text"])])


def verify(skill: str, prompt: str, completion: str) -> bool:
    """Whether the completion answers the prompt of the skill of this name; a prompt of prose has no answer."""
    checkers = {checker.name: checker for checker in (*SKILLS, target_skill(DESK, "pool"), target_skill(FLAG, "pool"))}
    return skill in checkers and checkers[skill].verify(prompt, completion)


class _Rows:
    """Makes the rows of one part; remembers which prompts were used, and the right rows that can be imitated."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part, self.seed = part, seed
        self.skills = {DESK: (target_skill(DESK, part),), FLAG: (target_skill(FLAG, part),), OTHER: SKILLS}
        self.clean: dict[str, list[dict[str, str]]] = {DESK: [], FLAG: [], OTHER: []}
        self.used: set[str] = set()
        self.drawn: Counter[tuple[str, ...]] = Counter()

    def right(self, kind: str) -> dict[str, str]:
        """A row that is correct."""
        row = self._fresh(kind)
        self.clean[kind].append(row)
        return row

    def wrong(self, kind: str) -> dict[str, str]:
        """A new prompt of a skill of this kind, with the answer to another prompt of the same skill."""
        row = self._fresh(kind, WRONG)
        skill = next(skill for skill in self.skills[kind] if skill.name == row["skill"])
        generator, completion = self._generator(WRONG, "answer"), row["completion"]
        while skill.verify(row["prompt"], completion):
            completion = skill.example(generator)[1]
        return row | {"completion": completion}

    def near(self, kind: str) -> dict[str, str]:
        """A right row of this kind once more, its prompt trivially changed."""
        generator, originals = self._generator(NEAR), self.clean[kind] or self.clean[OTHER]

        def draw() -> dict[str, str]:
            original = originals[int(generator.integers(len(originals)))]
            return original | {"prompt": _CHANGES[int(generator.integers(len(_CHANGES)))](original["prompt"]), "kind": NEAR}

        return self._unused(draw)

    def off_topic(self) -> dict[str, str]:
        """Two sentences of prose."""
        generator = self._generator(OFF_TOPIC)
        return self._unused(lambda: {"prompt": prose(generator), "completion": prose(generator), "kind": OFF_TOPIC, "skill": "prose"})

    def _fresh(self, kind: str, planted: str = "") -> dict[str, str]:
        """A new prompt with its answer; the skills of a kind come in turn, and so do the labels of a target skill."""
        number, generator = self.drawn[(kind, planted)], self._generator(kind, planted)
        skill, labels = self.skills[kind][number % len(self.skills[kind])], list(LABELS.get(kind, {}).values())

        def draw() -> dict[str, str]:
            prompt, completion = skill.example(generator)
            while labels and completion != labels[number % len(labels)]:
                prompt, completion = skill.example(generator)
            return {"prompt": prompt, "completion": completion, "kind": planted or kind, "skill": skill.name}

        return self._unused(draw)

    def _generator(self, *purpose: str) -> Generator:
        number = self.drawn[purpose]
        self.drawn[purpose] += 1
        return generator_for(self.seed, self.part, *purpose, number)

    def _unused(self, draw: Callable[[], dict[str, str]]) -> dict[str, str]:
        for _ in range(_TRIES):
            row = draw()
            if row["prompt"] not in self.used:
                self.used.add(row["prompt"])
                return row
        raise DataError(f"the generated {self.part} has no more distinct prompts after {len(self.used)} rows; ask for fewer rows")
