"""Attention in parts: over a cache that many rows share, over the new tokens, each with its normaliser, put together exactly.

For a query q and parts i with logits s_i, part i gives o_i = softmax(s_i) V_i and l_i = logsumexp(s_i); then with L = logsumexp_i l_i the attention over
all of them is sum_i exp(l_i - L) o_i. So the keys of a shared prefix are read once for all rows, and never copied.

One function is registered with transformers under the name "curate". It asks the pass that is running; the model's masks and caches have no say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

NAME = "curate"
FEW = 128  # queries below which a plain product is faster than a blocked kernel
Part = tuple[Tensor, Tensor]  # (output (R, H, T, d), log of the normaliser (R, H, T) in float32)


class Attends(Protocol):
    """One forward pass: what every layer's new tokens attend to."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(B, Hq, T, d) for query (B, Hq, T, d) and the new tokens' key and value (B, Hk, T, d), all with their positions already in."""


_running: ContextVar[Attends | None] = ContextVar("the pass that is running", default=None)


@contextmanager
def running(step: Attends) -> Iterator[None]:
    """Within it, attention layers whose implementation is ours ask this pass."""
    token = _running.set(step)
    try:
        yield
    finally:
        _running.reset(token)


def _registered(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **_: Any) -> tuple[Tensor, None]:
    step = _running.get()
    if step is None:
        raise RuntimeError("the attention of curate's engine runs only inside a pass of the engine")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return step.attend(int(module.layer_idx), query, key, value, scale).transpose(1, 2), None


@contextmanager
def ours(model: Any) -> Iterator[None]:
    """Within it, the model attends through the engine; afterwards as before."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _registered)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None = None) -> Part:
    """softmax(scale q k^T + bias) v and its normaliser, for query (R, H, T, d), key and value (R, H, n, d), bias to be spread to (R, H, T, n).

    Without a key the output is 0 and the normaliser -inf; where there are keys, every query must have one whose bias is finite.
    """
    if query.shape[2] < FEW or query.dtype == torch.float64 or not key.shape[2]:  # the blocked kernels crash where there is no key
        return _product(query, key, value, scale, bias)
    if query.device.type == "cpu":
        mask = None if bias is None else bias.to(query.dtype)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return found[0], found[1]
    if query.device.type == "cuda" and all(tensor.shape[-1] * tensor.element_size() % 16 == 0 for tensor in (query, value)):  # as its kernels are aligned
        return _cuda(query, key, value, scale, bias)
    return _product(query, key, value, scale, bias)


def _product(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None) -> Part:
    logits = (query @ key.transpose(-1, -2)) * scale
    logits = logits.float() if logits.dtype != torch.float64 else logits
    if not key.shape[2]:
        return torch.zeros_like(query[..., :1]).expand(*query.shape[:-1], value.shape[-1]), logits.logsumexp(-1)
    if bias is not None:
        logits = logits + bias
    weights = logits.softmax(-1)
    normaliser = logits.amax(-1) - weights.amax(-1).log()  # logsumexp, by a third of its kernels: the largest weight is exp(largest logit - it)
    return weights.to(value.dtype) @ value, normaliser


def _cuda(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None) -> Part:
    if bias is None and query.dtype != torch.float32 and query.shape[-1] % 8 == 0 and value.shape[-1] == query.shape[-1]:
        found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False, scale=scale)
        return found[0], found[1][..., : query.shape[2]]
    if bias is not None:
        bias = _aligned(bias.to(query.dtype)).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    found = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)
    return found[0], found[1][..., : query.shape[2]]


def _aligned(bias: Tensor) -> Tensor:
    """The same numbers with rows that begin at a multiple of 16 elements, as the kernel wants them."""
    width = bias.shape[-1]
    return torch.nn.functional.pad(bias, (0, -width % 16))[..., :width]


def merge(parts: Sequence[Part]) -> Part:
    """The attention over all parts together; a part whose normaliser is -inf counts nothing."""
    return reduce(_merged, parts)


def _merged(one: Part, other: Part) -> Part:
    """exp(l_1 - L) o_1 + exp(l_2 - L) o_2 with L = log(exp l_1 + exp l_2): the first share is the logistic function of l_1 - l_2."""
    seen = one[1].clamp(min=torch.finfo(torch.float32).min)  # as two parts without a key have no difference
    share = (seen - other[1]).sigmoid().unsqueeze(-1).to(one[0].dtype)
    return torch.lerp(other[0], one[0], share), torch.logaddexp(one[1], other[1])


def grouped(query: Tensor, heads: int) -> Tensor:
    """(B, Hk, G T, d) of query (B, Hk G, T, d): the queries that share a key-value head, one after the other."""
    rows, own, tokens, width = query.shape
    return query.reshape(rows, heads, own // heads * tokens, width)


def folded(query: Tensor, heads: int) -> Tensor:
    """(Hk, B G T, d) of query (B, Hk G, T, d): all rows' queries of a key-value head together, to read one cache for all of them."""
    rows, own, tokens, width = query.shape
    return query.reshape(rows, heads, own // heads * tokens, width).transpose(0, 1).reshape(heads, -1, width)


def unfolded(part: Part, rows: int, tokens: int) -> Part:
    """(B, Hq, T, d) and (B, Hq, T) of what was folded."""
    output, normaliser = part
    heads, width = output.shape[0], output.shape[-1]
    shape = (heads, rows, -1, tokens)
    return (
        output.reshape(*shape, width).transpose(0, 1).reshape(rows, -1, tokens, width),
        normaliser.reshape(*shape).transpose(0, 1).reshape(rows, -1, tokens),
    )
