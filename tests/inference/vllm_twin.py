"""Stand-ins for vLLM that need none: one that answers the protocol from a model of transformers, and programs in the place of its process."""

import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from curate.model import LanguageModel


@dataclass
class Twin:
    """A process that answers in vLLM's manner, from the model's own uncached logits; greedy, or by the seeds where it is given some."""

    model: LanguageModel
    together: int = 2  # requests that take part in a step
    news: int | None = None  # after so many steps with tokens it gives none
    broken: Mapping[int, int] = field(default_factory=dict)  # request -> the token before which its logits are no numbers
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    closed: bool = False
    waiting: dict[int, list[Any]] = field(default_factory=dict)  # request -> [prompt, answer, seed, most]

    def exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        for name, tokens, seed in message.get("ask", ()):
            self.waiting[name] = [tokens, [], seed, message["how"]["max_tokens"]]
        for name in message.get("stop", ()):
            self.waiting.pop(name, None)
        if self.news is not None:
            self.news -= 1
            if self.news < 0:
                return {"news": [], "left": len(self.waiting)}
        return {"news": [self._grown(name) for name in list(self.waiting)[-self.together :]], "left": len(self.waiting)}

    def close(self, *, kill: bool = False) -> None:
        self.waiting.clear()
        self.closed = True

    def _grown(self, name: int) -> list[Any]:
        prompt, answer, seed, most = self.waiting[name]
        with torch.no_grad():
            logits = self.model.model(torch.tensor([[*prompt, *answer]])).logits[0, -1]
        token = int(logits.argmax()) if seed is None else (seed + len(answer)) % len(logits)
        sound = self.broken.get(name) != len(answer)
        answer.append(token)
        if len(answer) == most:
            del self.waiting[name]
        return [name, [token], [sound], 0]


def program(body: str) -> tuple[str, ...]:
    """A process that runs this, with `hear()` and `say(answer)`."""
    start = "import json, os, sys, time\ndef hear(): return json.loads(sys.stdin.readline())\ndef say(answer): print(json.dumps(answer), flush=True)\n"
    return sys.executable, "-c", start + textwrap.dedent(body)
