"""What an answer says, so that two of them can be compared."""

import re
from typing import Literal

Extract = Literal["text", "number"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def read_answer(text: str, extract: Extract) -> str | float | None:
    """The text without white space around it, or its last number, thousands separators left out; None where it has no number."""
    if extract == "text":
        return text.strip()
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
