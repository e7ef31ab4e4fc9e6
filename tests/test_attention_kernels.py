"""cuDNN's attention is off while a task or a training runs, and as before afterwards."""

from collections.abc import Iterator

import pytest
import torch

from curate.attention_kernels import kernels_of_any_shape
from curate.one_task import one_thread


@pytest.fixture(params=[True, False], ids=["on", "off"])
def before(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def switched(before: bool) -> Iterator[None]:
    found = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    yield
    torch.backends.cuda.enable_cudnn_sdp(found)


def test_it_is_off_within_and_as_it_was_after_an_error(before: bool) -> None:
    with pytest.raises(ZeroDivisionError), kernels_of_any_shape():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        raise ZeroDivisionError
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_task_runs_without_it(before: bool) -> None:
    assert one_thread(lambda item: (item, torch.backends.cuda.cudnn_sdp_enabled()), 3) == (3, False)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
