"""Where PyTorch computes, and with how many threads."""

import torch

from pipeline.errors import UsageError


def resolve_device(device: str) -> str:
    """ "auto" becomes cuda where there is one; asking for cuda without one is an error."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch {torch.__version__} sees no CUDA device here; use --device cpu")
    try:
        return str(torch.device(device))
    except RuntimeError:
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}") from None
