"""The engine with shared prefixes, caches and batches, against the model alone: every token by a whole forward pass, without any cache."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.small_experiment import ROOT

CACHE = "cache"
_WITHIN = 1e-4  # nats, in float32
_MOST_TOKENS = 6  # generated for a prompt


@dataclass
class Engine:
    """The models to ask in turn, and how far apart the two ways were at the most."""

    models: list[Any]
    rows: int = 5  # prompts of a batch
    apart: float = 0.0
    prompts: int = 0

    @classmethod
    def loaded(cls) -> "Engine":
        """The tiny model that ships with the package, and a random one of every architecture."""
        from curate.model import fresh, resolve
        from curate.settings import ModelSpec
        from curate.testing.random_models import ARCHITECTURES, random_model

        tiny = fresh(resolve(ModelSpec(path=str(ROOT / "configs" / "quickstart_model")), ROOT))
        return cls([tiny, *(random_model(architecture) for architecture in ARCHITECTURES)])

    def instance(self, seed: int) -> list[str]:
        """A batch of prompts, some of which share a beginning and one of which is asked twice, in random order and of a random size."""
        from curate.inference.engine import Engine as Shared

        rng = np.random.default_rng(seed)
        model = self.models[seed % len(self.models)]
        vocabulary = int(model.model.config.vocab_size)
        contexts = _contexts(rng, self.rows, vocabulary)
        texts = [[rng.integers(3, vocabulary, rng.integers(1, 4)).tolist() for _ in range(rng.integers(1, 4))] for _ in contexts]
        shared = Shared(model, batch_tokens=int(rng.choice([1, 40, 200, 10_000])))
        self.prompts += len(contexts)
        wrong = []
        for context, several, found in zip(contexts, texts, shared.loglikelihoods(contexts, texts), strict=True):
            far = max(abs(mine - loglikelihood(model, context, text)) for mine, text in zip(found, several, strict=True))
            self.apart = max(self.apart, far)
            wrong += [f"log-probabilities {far:.3g} apart for a prompt of {len(context)} tokens"] if not far <= _WITHIN else []
        for context, tokens in zip(contexts, shared.generate(contexts, max_tokens=_MOST_TOKENS), strict=True):
            wrong += _other_tokens(model, context, tokens)
        return wrong


def _contexts(rng: np.random.Generator, rows: int, vocabulary: int) -> list[list[int]]:
    start = rng.integers(3, vocabulary, rng.integers(0, 30)).tolist()
    found = [(start if rng.random() < 0.7 else []) + rng.integers(3, vocabulary, rng.integers(1, 20)).tolist() for _ in range(rows - 1)]
    found.append(found[0])
    return [found[place] for place in rng.permutation(len(found))]


def _logits(model: Any, tokens: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].double()


def loglikelihood(model: Any, context: list[int], text: list[int]) -> float:
    """log p(text | context) in nats by one pass over both."""
    nats = _logits(model, context + text).log_softmax(-1)
    return sum(float(nats[len(context) - 1 + place, token]) for place, token in enumerate(text))


def _other_tokens(model: Any, context: list[int], tokens: list[int]) -> list[str]:
    """Every token must be the likeliest after those before it, but for a tie within the tolerance."""
    for place, token in enumerate(tokens):
        last = _logits(model, context + tokens[:place])[-1]
        behind = float(last.max() - last[token])
        if behind > _WITHIN:
            return [f"token {place + 1} of an answer to {len(context)} tokens is {token}, {behind:.3g} behind {int(last.argmax())}"]
    return [] if len(tokens) == _MOST_TOKENS else [f"an answer of {len(tokens)} tokens, not {_MOST_TOKENS}"]
