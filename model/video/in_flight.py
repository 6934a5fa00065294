"""Pictures on their way back to the host: on a GPU one frame's copies run while another is computed.

Copies go through pinned memory, which the device writes by itself; on a CPU everything is there at once.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor

from pipeline.media.convert import levels_of
from pipeline.media.images import AnyPicture

Ready = TypeVar("Ready")


class Leaving:
    """A tensor that is being copied to the host.

    Args:
        values: on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrives: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrives = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrives.record(torch.cuda.current_stream(values.device))
        else:
            self._host = values

    def arrived(self) -> Tensor:
        """On the host; waits for the copy and for nothing behind it."""
        if self._arrives is not None:
            self._arrives.synchronize()
        return self._host


def leave(image: Tensor, like: AnyPicture) -> Callable[[], AnyPicture]:
    """Send a picture to the host.

    Args:
        image: (3, H, W) in [0, 1].
        like: a picture with as many bits.

    Returns:
        What waits for it: (H, W, 3), rounded; what lies outside is clipped.
    """
    leaving = Leaving(levels_of(image, like.dtype))

    def picture() -> AnyPicture:
        return cast(AnyPicture, leaving.arrived().numpy().astype(like.dtype))

    return picture


def one_behind(waiting: Iterable[Callable[[], Ready]]) -> Iterator[Ready]:
    """What each item gives, in order, asked for only when the next one has been started."""
    before: Callable[[], Ready] | None = None
    for item in waiting:
        if before is not None:
            yield before()
        before = item
    if before is not None:
        yield before()
