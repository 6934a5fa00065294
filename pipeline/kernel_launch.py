"""How Triton kernels are started, and counted: PyTorch's dispatcher, which counts everything else, does not see them.

Every launch says what it moves: a tensor once, however often a cache serves it, or as often as it is named. A watcher is told
of every launch; in a dry run nothing is started, so that frames are counted where no kernel runs. Not a kernel: those lie
beside the code they speed up.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Moved = Tensor | tuple[Tensor, float] | None  # a tensor, or one that is read so many times

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # Triton warns where the second is left to its default


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel and what it moves.

    Args:
        name: of the kernel.
        read, written: bytes.
        flops: of its matrix products, two per multiplication with addition, without padding.
        parts: what moved, tensor by tensor: bytes and the tensor; written ones last.
    """

    name: str
    read: int
    written: int
    flops: int
    parts: tuple[tuple[int, Tensor], ...]


_watchers: list[Callable[[Launch], None]] = []
_dry = [False]


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    args: Sequence[Any],
    *,
    reads: Sequence[Moved],
    writes: Sequence[Moved],
    flops: int = 0,
    **constants: Any,
) -> None:
    """Start a kernel.

    Args:
        kernel: made by `triton.jit`.
        grid: programs, up to three numbers.
        args: of the kernel, in its order.
        reads, writes: what it moves.
        flops: see `Launch`.
        constants: constexpr arguments, and options of the compiler.
    """
    if _watchers:
        read, written = ([_moved(one) for one in group if one is not None] for group in (reads, writes))
        sums = [sum(size for size, _ in group) for group in (read, written)]
        told = Launch(
            name=kernel.fn.__name__, read=sums[0], written=sums[1], flops=flops, parts=(*read, *written)
        )  # fmt: skip
        for watcher in _watchers:
            watcher(told)
    if not _dry[0]:
        kernel[grid](*args, **{**OPTIONS, **constants})
        return
    with _disable_current_modes():  # what was never computed should at least be finite
        for one in writes:
            if one is not None:
                (one if isinstance(one, Tensor) else one[0]).zero_()


def _moved(one: Tensor | tuple[Tensor, float]) -> tuple[int, Tensor]:
    tensor, times = (one, 1.0) if isinstance(one, Tensor) else one
    return round(tensor.numel() * times) * tensor.element_size(), tensor


@contextmanager
def watching(watcher: Callable[[Launch], None], dry: bool = False) -> Iterator[None]:
    """Tell a function about every launch; `dry` leaves the kernels out, and what they would write is zero."""
    before = _dry[0]
    _watchers.append(watcher)
    _dry[0] = dry
    try:
        yield
    finally:
        _watchers.remove(watcher)
        _dry[0] = before


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, which is for tests and for counting."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


def why_not_here(device: torch.device) -> str | None:
    """What is missing to start any kernel on a device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'bokehflow[kernels]', Linux only)"
    if device.type == "cuda" and not interpreted():
        return None
    if interpreted():
        return None if device.type == "cpu" else "TRITON_INTERPRET is set, which is for tensors on a CPU"
    return f"it needs tensors on a CUDA device, got {device.type}; TRITON_INTERPRET=1 runs it there for tests, slowly"


def power(number: int, least: int = 1) -> int:
    """The power of two that holds a number."""
    return max(least, 1 << (number - 1).bit_length())
