"""Running a model with its own attention and cache, a request at a time: for models that the shared engine cannot compute exactly, and as its judge."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.beat import beat
from curate.core import Integers
from curate.inference.growing import Choose
from curate.inference.passes import logits_of
from curate.inference.scoring import Scored, log_probabilities
from curate.inference.stops import Stops
from curate.model import LanguageModel, decoder_of

Tokens = Sequence[int]


def score(model: LanguageModel, context: Tokens, continuation: Tokens) -> Scored:
    """log p(continuation | context) from one forward pass over both."""
    ids = torch.tensor([[*context, *continuation]], device=model.device)
    hidden = decoder_of(model.model)(input_ids=ids, use_cache=False).last_hidden_state[0, len(context) - 1 : -1]
    if not len(continuation):
        return Scored(0.0, np.zeros(0), True)
    token = ids[0, len(context) :]
    nats, likeliest = log_probabilities(logits_of(model, hidden), torch.arange(len(token), device=token.device), token)
    return Scored(float(nats.sum()), nats, bool(likeliest.all()))


@dataclass(frozen=True)
class Answering:
    """Generation from one prompt after the other; the answers to a prompt are one batch."""

    model: LanguageModel
    max_tokens: int
    stops: Stops
    choose: Choose

    def answers(self, prompt: Tokens, contexts: Integers) -> list[list[int]]:
        """An answer for each of the contexts, which all are this prompt."""
        found: list[list[int]] = [[] for _ in contexts]
        going = set(range(len(contexts)))
        logits, cache = self._step(torch.tensor([list(prompt)] * len(contexts), device=self.model.device), None)
        for taken in range(self.max_tokens):
            following = self.choose(logits, contexts, taken)
            for i, token in enumerate(following.tolist()):
                if i in going and not self.stops.take(found[i], token):
                    going.discard(i)
            if not going or taken + 1 == self.max_tokens:
                break
            logits, cache = self._step(following.unsqueeze(1), cache)
        return found

    def _step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        beat()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers renames past_key_values; older ones know no other name
            output = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].float(), output.past_key_values
