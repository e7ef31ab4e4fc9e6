"""Rows into packs of bounded length, so that little of a forward pass is padding."""

from bisect import bisect_left, insort
from heapq import heappop, heappush

import numpy as np

from curate.core import Integers


def best_fit_decreasing(lengths: Integers, capacity: int) -> list[Integers]:
    """Row numbers in packs of at most `capacity` tokens; a row longer than that alone in a pack.

    Longest row first (ties by row number), each into the fullest pack that still has room for it (ties to the pack opened
    first), else into a new one: at most 11/9 of the fewest possible packs, plus four (Johnson et al., 1974). Packs come in the
    order they were opened. O(n log n), plus a move within a sorted list of at most `capacity` distinct rests for each row.
    """
    packs: list[list[int]] = []
    rests: list[int] = []  # distinct free space, ascending
    having: dict[int, list[int]] = {}  # the packs with that much free space, as a heap
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        at = bisect_left(rests, length)
        if at < len(rests):
            rest = rests[at]
            pack = heappop(having[rest])
            if not having[rest]:
                del having[rest], rests[at]
        else:
            rest, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(row)
        if length > rest:
            continue
        if rest - length not in having:
            having[rest - length] = []
            insort(rests, rest - length)
        heappush(having[rest - length], pack)
    return [np.array(pack, np.int64) for pack in packs]
