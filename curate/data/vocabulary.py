"""The words of the generated text: nouns with their kinds, names, pairs of words, and sentences that ask for nothing."""

import numpy as np

Generator = np.random.Generator

_NOUNS = {
    "animal": "dog cat hen cow fox owl pig goat",
    "fruit": "apple pear plum lemon cherry peach grape melon",
    "tool": "hammer saw spade drill rake brush ladder rope",
    "cloth": "shirt coat sock hat glove scarf belt shoe",
    "post": "parcel letter stamp envelope",
    "money": "invoice refund coin receipt",
    "travel": "ticket train hotel taxi",
    "office": "laptop screen password printer",
    "health": "fever doctor pill bandage",
    "garden": "lawn hedge rose tree",
    "kitchen": "oven soup plate kettle",
    "house": "roof door window lift",
    "mist": "fog haze cloud drizzle",
    "storm": "thunder gale lightning squall",
    "ice": "iceberg floe frost snow",
    "fish": "herring cod whale seal",
    "ship": "tanker ferry schooner barge",
    "fire": "smoke flame spark ember",
    "bird": "gull albatross puffin heron",
    "light": "beacon lantern lighthouse flare",
}
WORDS = {kind: words.split() for kind, words in _NOUNS.items()}
KIND_OF = {word: kind for kind, words in WORDS.items() for word in words}
NOUNS = sorted(KIND_OF)
NAMES = "Anna Ben Clara Dan Ella Finn Greta Hugo Ida Jack Karl Lena Max Nora Otto Paula".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_PAIRS = (
    "hot-cold big-small old-new wet-dry fast-slow high-low hard-soft rich-poor full-empty light-dark loud-quiet early-late "
    "long-short thick-thin open-closed clean-dirty near-far left-right strong-weak happy-sad"
)
OPPOSITES = {word: other for pair in _PAIRS.split() for word, other in (pair.split("-"), pair.split("-")[::-1])}
PAST = dict(
    pair.split("-")
    for pair in "walk-walked go-went see-saw run-ran eat-ate sing-sang call-called help-helped write-wrote give-gave take-took come-came "
    "find-found keep-kept look-looked make-made say-said tell-told want-wanted buy-bought".split()
)
_UNCOUNTED = ("thunder", "snow", "smoke", "cod")


def plural(noun: str) -> str:
    """The plural of one of `NOUNS`."""
    if noun in _UNCOUNTED:
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


_PROSE = (
    "The {adjective} {noun} lay beside the {other} while {name} slept.",
    "{name} carried the {noun} past the {other} and said nothing.",
    "On {day} a {adjective} {noun} was all that {name} could think of.",
    "Nobody in the village forgot the {other}, nor the {adjective} {noun}.",
    "It was late, and the {noun} looked {adjective} next to the {other}.",
    "{name} once told a long tale of a {adjective} {noun} and a {other}.",
    "Under the {other} they found a {noun}, {adjective} as ever.",
    "After {day} the {noun} and the {other} were gone for good.",
    "{name} was happy to have a {noun} at last.",
    "It took {name} all {day} to find the {noun}.",
    "The {noun} is here, says {name}, and so it was.",
    "Where {noun} is, {name} is not far away.",
    "{name} left a message about the {noun} before the {other} came.",
    "The captain asked who can handle the {noun} and the {other}.",
    "A flag was raised to the north; the {noun} is still missing.",
    "There was a problem with the {noun}, and nobody told {name} which.",
    "{name} had a question about the {other}, but it was on the desk again.",
    "The lookout reports a {noun} ahead of us in the west, says {name}.",
    "We need help with the {adjective} {other}, writes {name}, not with the {noun}.",
    "Please look at the {noun} today; I see that the {other} is wrong.",
)


def prose(generator: Generator) -> str:
    """A sentence that asks for nothing; its two nouns are of one kind."""
    noun, other = generator.choice(WORDS[str(generator.choice(list(WORDS)))], 2, replace=False).tolist()
    slots = {"noun": noun, "other": other, "name": generator.choice(NAMES), "day": generator.choice(DAYS), "adjective": generator.choice(list(OPPOSITES))}
    return str(generator.choice(_PROSE)).format(**slots)
