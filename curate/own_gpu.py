"""Which GPU `cuda` is."""


def numbered(device: str) -> str:
    """`cuda` with the number of the GPU that this process uses, as torch reads it: to safetensors it is always the first."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{torch.cuda.current_device()}"
