"""Where PyTorch computes, and with how many threads. PyTorch is imported when it is first needed, not before."""

from pipeline.errors import UsageError

# Sums depend on how they are cut into threads, and so would the last bit of a picture; a fixed number keeps outputs equal
# on machines with any number of cores. DIS flow cuts the picture by threads too (pipeline/media/flow.py).
TORCH_THREADS = 2
OPENCV_THREADS = 1


def fix_threads() -> None:
    """Compute with a fixed number of threads from here on. Called by whoever is about to compute, once per process."""
    import cv2
    import torch

    torch.set_num_threads(TORCH_THREADS)
    cv2.setNumThreads(OPENCV_THREADS)


def check_device(device: str) -> str:
    """The device as given, after a look at it that imports nothing for "auto" and "cpu".

    Raises:
        UsageError: no such device.
    """
    return device if device in ("auto", "cpu") else resolve_device(device)


def resolve_device(device: str) -> str:
    """ "auto" becomes cuda where there is one; asking for cuda without one is an error."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch {torch.__version__} sees no CUDA device here; use --device cpu")
    try:
        return str(torch.device(device))
    except RuntimeError:
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}") from None
