"""Both ways to attend within stretches are one attention; the kernel that needs a device is stood for by its documented definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from curate.training import stretches
from curate.training.attending import Asked
from curate.training.stretches import Stretches, visible


def documented(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, most: int, most_keys: int, **options: Any) -> Tensor:
    """varlen_attn by loops: query (T, Hq, d); window (left, 0) counted from the token's own place, causal at the lower right."""
    left, right = options["window_size"]
    assert starts.dtype == key_starts.dtype == torch.int32 and right == 0
    assert most == int(starts.diff().max()) and most_keys == int(key_starts.diff().max())
    assert options.get("enable_gqa", False) == (query.shape[1] != key.shape[1])
    out = torch.zeros_like(query)
    for n in range(len(starts) - 1):
        keys = range(int(key_starts[n]), int(key_starts[n + 1]))
        behind = len(keys) - int(starts.diff()[n])
        for i, token in enumerate(range(int(starts[n]), int(starts[n + 1]))):
            seen = [place for j, place in enumerate(keys) if j <= i + behind and (left < 0 or j >= i + behind - left)]
            for head in range(query.shape[1]):
                group = head * key.shape[1] // query.shape[1]
                weights = (key[seen, group] @ query[token, head] * options["scale"]).softmax(0)
                out[token, head] = weights @ value[seen, group]
    return out


@pytest.mark.parametrize("shares", [True, False], ids=["shared key heads", "a key for every head"])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("queries", "keys"), [([5, 1, 7], [5, 1, 7]), ([4], [9]), ([3], [3])], ids=str)
def test_the_kernel_is_asked_for_what_the_plain_way_computes(
    monkeypatch: pytest.MonkeyPatch, queries: list[int], keys: list[int], window: int | None, shares: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(n), 8, dtype=torch.float64, generator=draw) for heads, n in ((4, queries), (2, keys), (2, keys)))
    asked = Asked(0, query, key, value, 0.3, window, 0.0)
    plain = Stretches(queries, keys).attend(asked)
    monkeypatch.setattr(stretches, "_served", lambda asked: True)
    monkeypatch.setattr(stretches, "kernel", lambda: (documented, shares))
    torch.testing.assert_close(Stretches(queries, keys).attend(asked), plain, rtol=1e-12, atol=1e-12)


def test_a_query_sees_as_many_tokens_as_the_window_says() -> None:
    assert visible(2, 5, None, torch.device("cpu")).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert visible(2, 5, 2, torch.device("cpu")).int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_the_kernel_of_this_torch_is_known_or_done_without() -> None:
    found, _ = stretches.kernel()
    assert found is None or found.__name__ == "varlen_attn"
