"""PrefixKV while it decodes: the cache grows as the prefix was kept, and what is over that goes from one fixed slot, whatever it was worth."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DISTANCE = 25  # of the fixed slot from the end of what is kept of the prefix


class FixedSlot:
    """One layer's cache: c tokens of n at first, and fewer than 1 + c / n of all tokens after every step.

    A step that finds m tokens live of t, with m - t c / n >= 1, drops the one in slot c - 25 in the order of time (in slot c // 2 where c is at most 25).
    So the tokens before that slot stay for good, and those from it on leave in the order in that they came. One a step is always enough, as each makes
    1 - c / n of a token too many. The step itself still attends to what it drops; the next token is written over it.
    """

    def __init__(self, keys: "Tensor", values: "Tensor", tokens: int) -> None:
        """Keys and values (Hk, c, d) of a prefix of so many tokens, in the order of time; they are not changed."""
        self.keys, self.values = keys, values
        self.kept, self.tokens = keys.shape[1], tokens
        first = self.kept - DISTANCE if self.kept > DISTANCE else self.kept // 2
        self.leaving = deque(range(first, self.kept))  # where tokens from the fixed slot on lie, the oldest first
        self.free: int | None = None  # none after the first step, which therefore makes tensors of its own

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        """(Hk, G, d) for queries (Hk, G, d), and the newest token's key and value (Hk, 1, d); as `DecodeCache`."""
        from curate.inference.stores import Plain

        self._take_in(key, value)
        output = Plain(self.keys, self.values).attend(query, scale)[0]
        live, seen = self.keys.shape[1], position + 1
        self.free = self.leaving.popleft() if (live - 1) * self.tokens >= seen * self.kept else None
        return output

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return [self.keys, self.values]

    def _take_in(self, key: "Tensor", value: "Tensor") -> None:
        import torch

        if self.free is None:
            self.leaving.append(self.keys.shape[1])
            self.keys, self.values = torch.cat([self.keys, key], 1), torch.cat([self.values, value], 1)
            return
        self.leaving.append(self.free)
        self.keys[:, self.free], self.values[:, self.free] = key[:, 0], value[:, 0]
