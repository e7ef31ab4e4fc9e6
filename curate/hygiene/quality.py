"""Flags of poor rows: cheap, per row, by rules that a reader can check by eye. A flag is a reason to look, never a reason to drop a row."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from curate.core import Turns
from curate.hygiene.normalise import words

FLAGS = {
    "empty_answer": "the last turn has no letter and no digit",
    "placeholder": "the last turn is a stand-in, such as <nooutput> or N/A",
    "very_short": "fewer than 3 words in all",
    "very_long": "more than 4,000 words in all",
    "repeats_itself": "more than half of the 4-word stretches of a turn of 20 words or more are repeats",
    "mixed_scripts": "more than a fifth of the letters are of another script than most",
    "refusal": "the answer declines, or speaks of itself as a language model",
    "echo": "the answer is the question again",
}

_SHORT, _LONG, _LEAST, _GRAM = 3, 4000, 20, 4
_REFUSAL = re.compile(
    r"\bas an? (ai|artificial intelligence)( language)?( model| assistant)?\b|\bas a (large )?language model\b"
    r"|^(i m |i am )?(sorry|afraid)( but)? (i|that)\b.{0,40}\b(can ?not|can t|unable|won t)|^i (can ?not|can t|am unable to|m unable to|m not able to)\b"
)
_STAND_IN = re.compile(
    r"<?\s*(no[\s_-]*(output|answer|response|input)( (required|needed|available))?|n\s*/\s*a|none|null|nan|tbd|\.{3})\s*>?[.!]?", re.IGNORECASE
)


def flags_of(turns: Turns) -> list[str]:
    """The names of the flags that a row carries."""
    said = [words(content) for role, content in turns if role != "system"]
    answer = said[-1] if said else ""
    count = sum(len(one.split()) for one in said)
    held = {
        "empty_answer": not answer,
        "placeholder": bool(turns) and _STAND_IN.fullmatch(turns[-1][1].strip()) is not None,
        "very_short": count < _SHORT,
        "very_long": count > _LONG,
        "repeats_itself": any(_repeats(one) for one in said),
        "mixed_scripts": _mixed(" ".join(said)),
        "refusal": len(said) > 1 and _REFUSAL.search(answer[:300]) is not None,
        "echo": len(said) > 1 and bool(answer) and answer == said[-2],
    }
    return [name for name, found in held.items() if found]


def _repeats(text: str) -> bool:
    said = text.split()
    grams = [tuple(said[start : start + _GRAM]) for start in range(len(said) - _GRAM + 1)]
    return len(said) >= _LEAST and len(set(grams)) < len(grams) / 2


def _mixed(text: str) -> bool:
    if text.isascii():
        return False
    scripts = Counter(script_of(letter) for letter in text if letter.isalpha())
    return bool(scripts) and max(scripts.values()) < 0.8 * scripts.total()


@lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """The script of a letter by the first word of its Unicode name; the scripts of Japanese count as one."""
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK") else name
