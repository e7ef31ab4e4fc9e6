"""Exact log-likelihoods and generation, greedy or sampled, over many prompts that begin alike.

The tokens that all contexts share are prefilled once; every context is computed once and serves all its
continuations; logits are formed only where they are read, and log-probabilities are taken in float32. Results equal
those of the uncached model up to the rounding of a sum in another order.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.core import Integers
from curate.errors import ModelError
from curate.inference.prefix import common_prefix, fork, is_forkable, pad_rows
from curate.model import LanguageModel, micro_batches

Tokens = Sequence[int]
# (logits (B, V) in float32, which contexts they follow (B,), how many tokens each has so far) -> the next token of each (B,)
Choose = Callable[[Tensor, Integers, int], Tensor]


def most_likely(logits: Tensor, contexts: Integers, step: int) -> Tensor:
    """Greedy: the token of the largest logit, of equal ones the first."""
    return logits.argmax(-1)


@dataclass
class Engine:
    """Runs requests on one model; `forward_tokens` counts what was computed, `asked_tokens` what a cacheless run would."""

    model: LanguageModel
    batch_tokens: int = 8192
    forward_tokens: int = field(default=0, init=False)
    asked_tokens: int = field(default=0, init=False)

    def loglikelihoods(self, contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """log p(continuation | context) in nats, summed over its tokens, for each context's continuations."""
        results: list[list[float]] = [[] for _ in contexts]
        self.asked_tokens += sum(len(c) + len(k) for c, ks in zip(contexts, continuations, strict=True) for k in ks)
        with torch.inference_mode():
            for batch, cache, mask, logits in self._prefilled(contexts, _widest(continuations)):
                chosen = [continuations[int(i)] for i in batch]
                lengths = [len(contexts[int(i)]) for i in batch]
                for i, values in zip(batch, self._continue(chosen, lengths, cache, mask, logits), strict=True):
                    results[int(i)] = values
        return results

    def generate(self, contexts: Sequence[Tokens], *, max_tokens: int, stop: Sequence[int], choose: Choose = most_likely) -> list[list[int]]:
        """The token that `choose` takes again and again, until a token of `stop` (left out) or `max_tokens`."""
        results: list[list[int]] = [[] for _ in contexts]
        with torch.inference_mode():
            for batch, cache, mask, logits in self._prefilled(contexts, max_tokens):
                lengths = torch.tensor([len(contexts[int(i)]) for i in batch], device=self.model.device)
                for i, tokens in zip(batch, self._decode(batch, cache, mask, logits, lengths, max_tokens, frozenset(stop), choose), strict=True):
                    results[int(i)] = tokens
        return results

    def _prefilled(self, contexts: Sequence[Tokens], room: int) -> Any:
        """Batches of (context numbers, cache after the contexts, its mask, float32 logits after each context)."""
        shared = common_prefix(contexts)
        root = self._forward([list(contexts[0][:shared])], None, None, [0])[0] if shared else None
        tails = [list(context[shared:]) for context in contexts]
        lengths: Integers = np.array([len(tail) + room for tail in tails], np.int64)
        for batch in micro_batches(lengths, self.batch_tokens):
            rows = [tails[int(i)] for i in batch]
            past = fork(root, len(rows)) if root is not None else None
            before = torch.ones((len(rows), shared), dtype=torch.long, device=self.model.device)
            cache, mask, logits, kept = self._forward(rows, past, before, [shared] * len(rows), last_only=True)
            last = torch.searchsorted(kept, torch.tensor([len(row) - 1 for row in rows], device=kept.device))
            yield batch, cache, mask, logits[torch.arange(len(rows)), last]

    def _forward(
        self, rows: Sequence[Tokens], past: Any, before: Tensor | None, starts: Sequence[int], *, last_only: bool = False
    ) -> tuple[Any, Tensor, Tensor, Tensor]:
        """(cache, mask over cached tokens, logits (B, P, V) at the kept positions, those positions (P,))."""
        ids, mask = pad_rows(rows, self.model.pad, self.model.device)
        self.forward_tokens += int(mask.sum())
        positions = torch.tensor(starts, device=ids.device).unsqueeze(1) + torch.arange(ids.shape[1], device=ids.device)
        whole = mask if before is None else torch.cat([before, mask], 1)
        kept = torch.unique(mask.sum(1) - 1) if last_only else torch.arange(ids.shape[1], device=ids.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers renames past_key_values; older ones know no other name
            output = self.model.model(
                input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=past, use_cache=True, logits_to_keep=kept
            )
        if not is_forkable(output.past_key_values):
            raise ModelError("this model's layers keep a window or a state instead of all tokens; evaluation needs full attention layers")
        return output.past_key_values, whole, output.logits.float(), kept

    def _continue(self, continuations: Sequence[Sequence[Tokens]], lengths: Sequence[int], cache: Any, mask: Tensor, logits: Tensor) -> list[list[float]]:
        first = torch.log_softmax(logits, -1)
        totals = [[float(first[i, k[0]]) if len(k) else 0.0 for k in ks] for i, ks in enumerate(continuations)]
        longer = [(i, j) for i, ks in enumerate(continuations) for j, k in enumerate(ks) if len(k) > 1]
        sizes = np.array([mask.shape[1] + len(continuations[i][j]) for i, j in longer], np.int64)
        for chunk in micro_batches(sizes, self.batch_tokens * 4) if longer else ():
            pairs = sorted(longer[int(c)] for c in chunk)
            owners = torch.tensor([i for i, _ in pairs], device=mask.device)
            repeats = torch.bincount(owners, minlength=len(mask))
            rows = [list(continuations[i][j][:-1]) for i, j in pairs]
            _, _, scores, _ = self._forward(rows, fork(cache, repeats), mask[owners], [lengths[i] for i, _ in pairs])
            for row, (i, j) in enumerate(pairs):
                following = torch.tensor(continuations[i][j][1:], device=mask.device)
                nats = torch.log_softmax(scores[row, : len(following)], -1).gather(1, following.unsqueeze(1))
                totals[i][j] += float(nats.double().sum())
        return totals

    def _decode(
        self, contexts: Integers, cache: Any, mask: Tensor, logits: Tensor, lengths: Tensor, max_tokens: int, stop: frozenset[int], choose: Choose
    ) -> list[list[int]]:
        tokens: list[list[int]] = [[] for _ in range(len(mask))]
        going = list(range(len(mask)))
        for taken in range(max_tokens):
            following = choose(logits, contexts, taken)
            going = [i for i in going if int(following[i]) not in stop]
            for i in going:
                tokens[i].append(int(following[i]))
            if not going or taken + 1 == max_tokens:
                break
            cache, mask, scores, _ = self._forward(following.unsqueeze(1).tolist(), cache, mask, (lengths + taken).tolist())
            logits = scores[:, -1]
        return tokens


def _widest(continuations: Sequence[Sequence[Tokens]]) -> int:
    return max((len(k) for ks in continuations for k in ks), default=0)
