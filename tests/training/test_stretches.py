"""Both ways to attend within stretches are one attention; the kernel that needs a device is stood for by its documented definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from curate.training import stretches
from curate.training.attending import Asked
from curate.training.stretches import Stretches, visible


def documented(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, most: int, most_keys: int, *flags: Any, **options: Any) -> Any:
    """torch's kernel by loops: query (T, Hq, d); windows counted from the token's own place, causal at the lower right."""
    left, right = options["window_size_left"], options["window_size_right"]
    assert flags == (0.0, False, False)  # no dropout, nothing but the window, no debugging
    assert starts.dtype == key_starts.dtype == torch.int32 and right == 0
    assert most == int(starts.diff().max()) and most_keys == int(key_starts.diff().max())
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
    return (out,)


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("queries", "keys"), [([5, 1, 7], [5, 1, 7]), ([4], [9]), ([3], [3])], ids=str)
def test_the_kernel_is_asked_for_what_the_plain_way_computes(
    monkeypatch: pytest.MonkeyPatch, queries: list[int], keys: list[int], window: int | None
) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(n), 8, dtype=torch.float64, generator=draw) for heads, n in ((4, queries), (2, keys), (2, keys)))
    asked = Asked(0, query, key, value, 0.3, window, 0.0)
    plain = Stretches(queries, keys).attend(asked)
    monkeypatch.setattr(stretches, "_served", lambda asked: True)
    monkeypatch.setattr(stretches, "kernel", lambda: documented)
    torch.testing.assert_close(Stretches(queries, keys).attend(asked), plain, rtol=1e-12, atol=1e-12)


def test_a_query_sees_as_many_tokens_as_the_window_says() -> None:
    assert visible(2, 5, None, torch.device("cpu")).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert visible(2, 5, 2, torch.device("cpu")).int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_the_kernel_of_this_torch_is_asked_by_names_that_it_knows() -> None:
    known = {argument.name for argument in torch.ops.aten._flash_attention_forward.default._schema.arguments}
    assert {"scale", "window_size_left", "window_size_right"} <= known
    assert [argument.name for argument in torch.ops.aten._flash_attention_forward.default._schema.arguments][7:10] == [
        "dropout_p",
        "is_causal",
        "return_debug_mask",
    ]
    assert (stretches.kernel() is not None) == torch.backends.cuda.is_flash_attention_available()
