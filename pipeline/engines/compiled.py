"""Networks through torch.compile: what engines have under --compile, with one clear error where it cannot work."""

import shutil
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_COMPILERS = ("g++", "c++", "clang++", "cl")  # what PyTorch's CPU code generator looks for


def compile_parts(parts: "list[nn.Module]", device: str) -> None:
    """Have these modules compiled at their first call, in place; their parameters keep their names.

    Args:
        parts: whose forward is arithmetic alone.
        device: "cpu" needs a C++ compiler, CUDA needs Triton.

    Raises:
        UsageError: what compiles for the device is not there.
    """
    import importlib.util

    if device.startswith("cpu") and not any(shutil.which(name) for name in _COMPILERS):
        raise UsageError(
            f"compile needs a C++ compiler on the CPU ({', '.join(_COMPILERS)}): install one, or leave it out"
        )
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        raise UsageError("compile needs the package triton on a GPU: install it, or leave compile out")
    for part in parts:
        part.compile(dynamic=False)
