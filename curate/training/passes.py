"""Rows into padded forward passes that take the least time together."""

from typing import TYPE_CHECKING

import numpy as np

from curate.core import Integers

if TYPE_CHECKING:
    from curate.model import LanguageModel

_START_CPU = 32
_START_CUDA = 2e11  # weights x tokens that a GPU computes while the kernels of one layer are started one by one, measured on an H100
_TIES = 1 << 20  # more than passes of a step
_NEVER = 1 << 42  # more than tokens of a step


def start_of(model: "LanguageModel") -> int:
    """What a pass costs beyond its tokens, in tokens: on a GPU, those of the time in which its kernels are started."""
    if not model.device.startswith("cuda"):
        return _START_CPU
    layers = int(model.model.config.get_text_config().num_hidden_layers)
    weights = sum(int(parameter.numel()) for parameter in model.model.parameters())
    return round(_START_CUDA * layers / weights)


def least_padding(lengths: Integers, capacity: int, start: int) -> list[Integers]:
    """Row numbers in passes of at most `capacity` padded tokens, longest rows first; a longer row goes alone.

    Minimises  sum over passes (rows x longest row + start)  exactly: some best partition has rows of like length together, so that
    passes are stretches of the rows in descending order, and the best end of every prefix is found from those before it. Ties go to the fewest
    passes. O(n^2), in n vector operations.
    """
    order = np.argsort(-lengths, kind="stable")
    width = np.maximum(lengths[order].astype(np.int64), 1)
    count = len(order)
    cost = np.zeros(count + 1, np.int64)  # of the best passes for the first rows, times _TIES, plus how many they are
    begin = np.zeros(count + 1, np.int64)  # of the last of them
    for end in range(1, count + 1):
        first = min(end - 1, max(0, end - capacity))  # more rows than this are too many however short they are
        padded = np.arange(end - first, 0, -1) * width[first:end]
        padded[:-1][padded[:-1] > capacity] = _NEVER
        whole = cost[first:end] + padded * _TIES
        best = int(np.argmin(whole))
        begin[end], cost[end] = first + best, whole[best] + start * _TIES + 1
    passes = []
    end = count
    while end:
        passes.append(order[begin[end] : end])
        end = int(begin[end])
    return passes[::-1]
