"""What a frame costs, part by part: where a film's time goes between reading and writing.

A part that lies within another is charged to itself alone. On a GPU the device is waited for where a part begins and ends, so a
profiled run is a little slower than others.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
# Attributes of BokehFlow, whose parts they are.
NETWORK_PARTS = {
    "stem": "network: stem",
    "aperture": "network: lens embedding",
    "depth_blocks": "network: depth blocks",
    "bokeh_blocks": "network: bokeh blocks",
    "fusions": "network: fusions",
    "depth_head": "network: heads",
    "highlight_head": "network: heads",
    "physics": "network: lens renderer",
    "correction": "network: correction",
}


class Profile:
    """Seconds by part.

    Args:
        device: to wait for.
        clock: seconds.
    """

    def __init__(self, device: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._cuda = device.startswith("cuda")
        self._device, self._clock = device, clock
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens within to a part, and no longer to the one around it."""
        self._begin(name)
        try:
            yield
        finally:
            self._end()

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; making each of them is charged to a part."""
        source = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def watch(self, net: nn.Module) -> None:
        """Charge the parts of a BokehFlow, from now on."""
        for attribute, name in NETWORK_PARTS.items():
            found = getattr(net, attribute, None)
            for module in found if isinstance(found, nn.ModuleList) else [found]:
                if isinstance(module, nn.Module):
                    module.register_forward_pre_hook(self._entering(name))
                    module.register_forward_hook(self._left, always_call=True)

    def lines(self, frames: int) -> list[str]:
        """Milliseconds a frame and shares, the costliest first."""
        whole = sum(self.seconds.values())
        if not frames or not whole:
            return []
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        told = [f"{1000 * s / frames:10.1f} ms a frame, {s / whole:4.0%}: {name}" for name, s in rows]
        return [*told, f"{1000 * whole / frames:10.1f} ms a frame: all parts, over {frames} frames"]

    def _entering(self, name: str) -> Any:
        def begin(*_: object) -> None:
            self._begin(name)

        return begin

    def _left(self, *_: object) -> None:
        self._end()

    def _begin(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def _end(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        """What has passed since the last call goes to the innermost part that is open."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        now = self._clock()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def part_of(profile: Profile | None, name: str) -> AbstractContextManager[None]:
    """`Profile.part`, or nothing where nobody asked."""
    return nullcontext() if profile is None else profile.part(name)
