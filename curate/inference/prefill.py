"""Prefill: a stretch of tokens run once, in chunks, after the stretches before it; whole for exact use, or as presses see it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curate.compression.prefix import LayerView, Prefix
from curate.inference.passes import Pass, attention_modules, forward, store_rows
from curate.inference.stores import Memory, Plain
from curate.interfaces import State
from curate.model import LanguageModel

CHUNK = 2048  # tokens per pass: bounds the memory of a long prefill, not its result


def prefill(model: LanguageModel, tokens: Sequence[int], path: Sequence[Memory] = (), *, chunk: int = CHUNK, watch: Any = None) -> tuple[Memory, Tensor]:
    """(what is stored of the tokens, their last hidden states (n, H)), after everything on the path; run within `ours(model.model)`."""
    start = sum(memory.tokens for memory in path)
    parts: list[Memory] = []
    hidden = []
    for first in range(0, len(tokens), chunk):
        ids = torch.tensor([tokens[first : first + chunk]], device=model.device)
        step = Pass([*path, *parts], keep=True, watch=watch)
        positions = torch.arange(start + first, start + first + ids.shape[1], device=model.device).unsqueeze(0)
        hidden.append(forward(model, ids, positions, step)[0])
        parts = [_joined([*parts, *store_rows(step, [ids.shape[1]])])]
    return parts[0], torch.cat(hidden)


def _joined(parts: Sequence[Memory]) -> Memory:
    if len(parts) == 1:
        return parts[0]
    layers = []
    for stores in zip(*(memory.layers for memory in parts), strict=True):
        plain = [store for store in stores if isinstance(store, Plain)]
        layers.append(Plain(torch.cat([store.keys for store in plain], 1), torch.cat([store.values for store in plain], 1)))
    return Memory(layers, sum(memory.tokens for memory in parts))


def prefilled(
    model: LanguageModel, tokens: Sequence[int], *, chunk: int = CHUNK, inputs: bool = False, state: State | None = None, seed: int = 0
) -> tuple[Prefix, Tensor]:
    """(the prefix as presses see it, the last hidden states (n, H)) of a sequence that begins at position 0; run within `ours(model.model)`."""
    queries: dict[int, list[Tensor]] = {}
    scales: dict[int, float] = {}

    def watch(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        queries.setdefault(layer, []).append(query[0])
        scales[layer] = scale

    with _inputs(model, inputs) as seen:
        memory, hidden = prefill(model, tokens, chunk=chunk, watch=watch)
    views = [
        LayerView(torch.cat(queries[layer], 1), store.keys, store.values, scales[layer], torch.cat(seen[layer]) if inputs else None)
        for layer, store in enumerate(memory.layers)
        if isinstance(store, Plain)
    ]

    def follow(after: Sequence[int]) -> list[Tensor]:
        return _queries_after(model, memory, after)

    return Prefix(tokens, views, model, follow, state, seed), hidden


def _queries_after(model: LanguageModel, memory: Memory, tokens: Sequence[int]) -> list[Tensor]:
    found: list[Tensor] = []
    step = Pass([memory], watch=lambda layer, query, key, value, scale: found.append(query[0]))
    ids = torch.tensor([list(tokens)], device=model.device)
    with torch.inference_mode():
        forward(model, ids, torch.arange(memory.tokens, memory.tokens + len(tokens), device=model.device).unsqueeze(0), step)
    return found


@contextmanager
def _inputs(model: LanguageModel, wanted: bool) -> Iterator[dict[int, list[Tensor]]]:
    """Collects what every attention layer is given, (n, H) by layer, if wanted."""
    seen: dict[int, list[Tensor]] = {}

    def remember(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = named["hidden_states"] if "hidden_states" in named else given[0]
        seen.setdefault(int(module.layer_idx), []).append(states[0])

    hooks = [module.register_forward_pre_hook(remember, with_kwargs=True) for module in attention_modules(model)] if wanted else []
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
