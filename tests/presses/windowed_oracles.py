"""Windowed scores by definition, one number at a time in float64, and prefixes to score."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.compression.prefix import LayerView, Prefix
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.prefill import prefilled
from curate.inference.stores import Memory, Plain, Ragged
from curate.interfaces import Press, State
from curate.model import LanguageModel

Array = NDArray[np.float64]
REDUCE: dict[str, Callable[[Array], Array]] = {"sum": lambda a: a.sum(0), "mean": lambda a: a.mean(0), "max": lambda a: a.max(0)}


def tokens_of(length: int, seed: int = 0) -> list[int]:
    """Tokens that a random model knows."""
    return [int(token) for token in np.random.default_rng(seed).integers(2, 97, length)]


def prefix_of(model: LanguageModel, tokens: Sequence[int], state: State | None = None) -> Prefix:
    """The tokens, prefilled."""
    with torch.inference_mode(), ours(model.model):
        return prefilled(model, tokens, state=state)[0]


def following(prefix: Prefix, made_up: Sequence[int]) -> list[Tensor]:
    """The queries of tokens after the prefix."""
    with torch.inference_mode(), ours(prefix.model.model):
        return prefix.follow(made_up)


def compressed(press: Press, prefix: Prefix) -> Memory:
    """What the press stores."""
    with torch.inference_mode(), ours(prefix.model.model):
        return press.compress(prefix)


def whole(prefix: Prefix) -> Memory:
    """The prefix as it is."""
    return Memory([Plain(view.keys, view.values) for view in prefix.layers], len(prefix))


def logits_after(prefix: Prefix, memory: Memory, after: Sequence[int]) -> Tensor:
    """(T, V) logits of tokens that attend to the memory in the prefix's place."""
    model, n = prefix.model, len(prefix)
    with torch.inference_mode(), ours(model.model):
        hidden = forward(model, torch.tensor([list(after)]), torch.arange(n, n + len(after)).unsqueeze(0), Pass([memory]))
        return logits_of(model, hidden[0])


def masked(prefix: Prefix, kept: Sequence[Sequence[Sequence[int]]]) -> Memory:
    """The whole prefix with -inf on the logits of all tokens that are not kept, by layer and key-value head."""
    layers = []
    for view, heads in zip(prefix.layers, kept, strict=True):
        bias = torch.full(view.keys.shape[:2], float("-inf"))
        for head, tokens in enumerate(heads):
            bias[head, list(tokens)] = 0
        layers.append(Plain(view.keys, view.values, bias))
    return Memory(layers, len(prefix))


def kept_tokens(prefix: Prefix, memory: Memory) -> list[list[list[int]]]:
    """Which tokens are stored, by layer and key-value head, found by their keys; in the order they lie in."""
    found = []
    for view, store in zip(prefix.layers, memory.layers, strict=True):
        stored = [head.keys[0] for head in store.heads] if isinstance(store, Ragged) else list(store.tensors[0])
        found.append([[int((own == row).all(-1).nonzero().item()) for row in rows] for own, rows in zip(view.keys, stored, strict=True)])
    return found


def naive_attention(view: LayerView, queries: Tensor, positions: Sequence[int]) -> Array:
    """(Hq, w, n): softmax over the keys up to each query's position, by loops."""
    heads, width = queries.shape[0], queries.shape[1]
    n = view.keys.shape[1]
    found = np.zeros((heads, width, n))
    for head in range(heads):
        keys = view.keys[head // (heads // view.keys.shape[0])].double().numpy()
        for row, position in enumerate(positions):
            query = queries[head, row].double().numpy()
            seen = [j for j in range(n) if j <= position]
            logits = np.array([float(query @ keys[j]) * view.scale for j in seen])
            weights = np.exp(logits - logits.max())
            found[head, row, seen] = weights / weights.sum()
    return found


def naive_pool(row: Array, pool: str, kernel: int, count_padding: bool = True) -> Array:
    """Mean or maximum over `kernel` numbers around each, by loops."""
    if pool == "none":
        return row
    found = []
    for j in range(len(row)):
        near = [row[i] for i in range(j - kernel // 2, j + kernel // 2 + 1) if 0 <= i < len(row)]
        mean = sum(near) / (kernel if count_padding else len(near))
        found.append(max(near) if pool == "max" else mean)
    return np.array(found)


def naive_chunks(row: Array, chunk: int, top: int | None) -> Array:
    """Every number becomes the mean of the largest of its chunk, by loops."""
    found = row.copy()
    for start in range(0, len(row), chunk):
        largest = sorted(row[start : start + chunk], reverse=True)[: top or chunk]
        found[start : start + chunk] = sum(largest) / len(largest)
    return found


def best_of(row: Array, count: int) -> list[int]:
    """The tokens of the largest numbers, ascending; of equal ones the earlier."""
    return sorted(sorted(range(len(row)), key=lambda j: (-row[j], j))[:count])
