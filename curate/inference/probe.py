"""Whether the shared engine computes a model exactly: tried on the model itself, against its own attention, before it is trusted."""

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from curate.inference.attention import ours
from curate.inference.own_attention import score
from curate.inference.passes import Pass, forward
from curate.inference.plan import Layout
from curate.inference.scoring import ScoringRun, plan_scoring
from curate.model import LanguageModel, decoder_of

_ALLOWED = {torch.float32: 1e-4, torch.float64: 1e-8}  # nats per token, relative to 1 + |log-likelihood|; 16-bit numbers have 0.1

_VERDICTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def longest(model: LanguageModel) -> int | None:
    """The most tokens for which every layer attends to all that came before; None where that has no end."""
    config = model.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    bounded = kinds is None or any("sliding" in kind or "chunked" in kind for kind in kinds)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(window) for window in windows if window), default=None) if bounded else None


def alone_because(model: LanguageModel, tokens: int) -> str:
    """Why requests of up to so many tokens of this model have to run one by one; empty where they can share prefixes. Each model is probed once."""
    most = longest(model)
    if most is not None and tokens > most:
        return f"requests of up to {tokens} tokens are longer than the window of {most} that some of its layers attend to"
    decoder = decoder_of(model.model)  # the same whatever adapters are put into it
    if decoder not in _VERDICTS:
        with torch.inference_mode():
            _VERDICTS[decoder] = unfit(model)
    return _VERDICTS[decoder]


def unfit(model: LanguageModel) -> str:
    """Why requests of this model cannot share prefixes; empty where they can. A few dozen tokens are computed both ways."""
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    tokens = (np.arange(20) * 7919 % vocabulary).tolist()
    contexts, continuations = [tokens[:8], tokens[:14]], [[tokens[8:12], tokens[1:4]], [tokens[14:]]]
    wanted = plan_scoring(contexts, continuations, Layout(row=16, subtree=8, floor=0))
    try:
        with ours(model.model):
            absent = _absent(model, tokens)
            if absent:
                return f"{absent} of its layers do not attend by transformers' attention interface"
            found = [scored.tokens for several in ScoringRun(model, wanted).results() for scored in several]
    except Exception as error:  # whatever an architecture that was not meant for this does
        return f"its layers do not run on shared keys ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
    pairs = [(context, several) for context, all_of in zip(contexts, continuations, strict=True) for several in all_of]
    allowed = _ALLOWED.get(next(model.model.parameters()).dtype, 0.1)
    for (context, continuation), shared in zip(pairs, found, strict=True):
        own = score(model, context, continuation).tokens
        alike = (abs(own - shared) <= allowed * (1 + abs(own))) | (np.isnan(own) & np.isnan(shared))  # a model without numbers is refused by whoever asks it
        if not alike.all():
            return f"shared and unshared log-likelihoods of a probe differ ({shared.sum():.4f} and {own.sum():.4f} nats)"
    return ""


def _absent(model: LanguageModel, tokens: list[int]) -> int:
    """How many layers do not ask the running pass."""
    step, ids = Pass(), torch.tensor([tokens], device=model.device)
    forward(model, ids, torch.arange(len(tokens), device=model.device).unsqueeze(0), step)
    return int(model.model.config.get_text_config().num_hidden_layers) - len(step.asked)

