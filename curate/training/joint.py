"""Several processes that train one model together, started by accelerate: one per GPU, or several on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curate.training.ranks import Ranks


class Joint(Ranks):
    """This process among those that accelerate started; sums run over NCCL on GPUs and over gloo on CPUs."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        from accelerate.utils import reduce

        for kind in sorted({str(tensor.dtype) for tensor in tensors}):
            mine = [tensor for tensor in tensors if str(tensor.dtype) == kind]
            summed: Any = reduce(torch.cat([tensor.reshape(-1) for tensor in mine]), reduction="sum")
            for tensor, part in zip(mine, summed.split([tensor.numel() for tensor in mine]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def joined(device: str) -> tuple[Joint, str]:
    """This process's place, and the device that is its own."""
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    own = "cpu" if device == "cpu" else f"cuda:{state.local_process_index}"
    return Joint(state.process_index, state.num_processes), own
