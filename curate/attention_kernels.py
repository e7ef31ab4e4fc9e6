"""Which of torch's attention kernels run on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kernels_of_any_shape() -> Iterator[None]:
    """Within it, attention on a GPU does without cuDNN, which plans anew for every shape of a batch: 3 ms a layer and direction, measured on an H100.

    Rows of language come in ever new shapes, so that these plans took most of the time of a pass. The switch is the whole process's.
    """
    import torch

    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
