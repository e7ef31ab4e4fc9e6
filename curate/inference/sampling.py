"""Answers sampled from a model, whose random numbers belong to the prompt.

The uniform number behind a token is a function of (seed, prompt tokens, sample, step) and of nothing else, so a prompt has
the same answers in any batch, in any order and on any device. Rounding alone can tip a draw that falls on the border of two tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core import Integers
from curate.inference.engine import Engine, Tokens
from curate.inference.growing import Watched
from curate.randomness import draw, row_keys

_NUMBERS = {"cpu": 2**22, "cuda": 2**24}  # float64 probabilities that are held at a time: few stay in a processor's cache, many keep a GPU busy


@dataclass(frozen=True)
class Nucleus:
    """Which tokens may be drawn: softmax(logits / temperature), cut to the likeliest tokens whose sum reaches `top_p`.

    A temperature towards 0 is greedy decoding. Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def weights(self, logits: Tensor) -> Tensor:
        """(B, V) float64 for logits (B, V): each token's probability, 0 outside the smallest set that reaches `top_p`; sums to `top_p` or more.

        Of equally likely tokens the first are kept.
        """
        logits = logits.double()
        probability = ((logits - logits.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_p == 1:
            return probability
        # All tokens below this floor together weigh less than 1 - top_p, so none is in the set; where the model is sure, few are left to sort.
        eligible = (probability >= (1 - self.top_p) / (2 * logits.shape[-1])).sum(-1).amax()
        tokens = probability.topk(int(eligible)).indices.sort(-1).values
        ordered, order = probability.gather(-1, tokens).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = ordered.where(before < self.top_p, 0)
        return torch.zeros_like(probability).scatter(-1, tokens.gather(-1, order), kept)


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """(B,) the token of each row of weights (B, V) >= 0 at the quantile `uniform` (B,) in (0, 1).

    Tokens lie in the order of their ids, not of their weights, so that a rounding error moves borders instead of swapping tokens.
    """
    reached = weights.cumsum(-1)
    return torch.searchsorted(reached, uniform.unsqueeze(-1) * reached[:, -1:]).squeeze(-1)


def sample_keys(seed: int, prompts: Iterable[Tokens], samples: int) -> NDArray[np.uint64]:
    """(N * samples,) the key of each sample of each prompt, prompt by prompt: its number at step t is `draw(key, t)`."""
    return row_keys(seed, "sampled answers", (" ".join(map(str, (sample, *prompt))) for prompt in prompts for sample in range(samples)))


@dataclass
class Sampler:
    """The token-choosing function of an engine that samples: context i draws from `keys[i]`."""

    keys: NDArray[np.uint64]
    nucleus: Nucleus

    def __call__(self, logits: Tensor, contexts: Integers, step: int) -> Tensor:
        uniform = torch.from_numpy(draw(self.keys[contexts], step)).to(logits.device)
        rows = max(1, _NUMBERS[logits.device.type] // logits.shape[-1])
        parts = zip(logits.split(rows), uniform.split(rows), strict=True)
        return torch.cat([inverse_cdf(self.nucleus.weights(part), quantiles) for part, quantiles in parts])


def sample(
    engine: Engine, prompts: Sequence[Tokens], *, samples: int, seed: int, nucleus: Nucleus, max_tokens: int, stop: Sequence[int]
) -> list[list[list[int]] | None]:
    """The tokens of `samples` answers to each prompt, up to a token of `stop` (left out) or `max_tokens`.

    None for a prompt after which the model gives logits that are NaN or +infinity.
    """
    sampler = Watched(Sampler(sample_keys(seed, prompts, samples), nucleus))
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    answers = engine.generate(repeated, max_tokens=max_tokens, stop=stop, choose=sampler)
    sound = sampler.sound(answers)
    starts = range(0, len(answers), samples)
    return [answers[start : start + samples] if all(sound[start : start + samples]) else None for start in starts]
