"""What an interpolator is given and gives back.

Frames carry numbers, and the instant wanted is such a number too, not always a whole one. With frames 0 to 7 and 9 to 14 and
target 8, the eighth frame of a clip is made; target 3.5 is half way between frames 3 and 4 of a film. Offsets and t follow from
the numbers, so that they cannot contradict each other, and any layout of frames is only other numbers. Frames that are absent
(ends of a clip, cuts, duplicates) are None, never repeated.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.engines.base import Engine, SafePoint
from pipeline.errors import InputError
from pipeline.media.arrays import AnyPicture

UnitPicture = npt.NDArray[np.float32]  # (H, W, 3) RGB in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The frames around the instant that is wanted.

    Args:
        frames: (H, W, 3) uint8 or uint16 RGB, all of one size and type, or None where a frame is not there.
        indices: the frames' numbers, ascending.
        target: the instant wanted, in the same numbers, strictly between two frames that are there.
        guides: another picture of each instant of `indices`, which shows how things move (the sharp frames of rendered ones);
            empty without.
        guide: that picture of the instant wanted.
        radius_px: (H, W) radius of the blur that the wanted frame has and its guide has not, px; None where it is not known.

    Raises:
        InputError: fewer than two frames, none before or none after the target, or frames of several sizes.
    """

    frames: tuple[AnyPicture | None, ...]
    indices: tuple[int, ...]
    target: float
    guides: tuple[AnyPicture | None, ...] = ()
    guide: AnyPicture | None = None
    radius_px: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if len(self.guides) != (len(self.frames) if self.guide is not None else 0):
            raise InputError(
                f"guides go with every frame and the target, got {len(self.guides)} for {len(self.frames)}"
            )
        if len(self.frames) != len(self.indices):
            raise InputError(f"every frame needs its number, got {len(self.frames)} frames and {len(self.indices)}")
        if list(self.indices) != sorted(set(self.indices)):
            raise InputError(f"frame numbers must be ascending, got {self.indices}")
        there = [frame for frame in self.frames if frame is not None]
        if len(there) < 2:
            raise InputError(f"interpolation needs at least two frames, got {len(there)}")
        kinds = {(frame.shape, str(frame.dtype)) for frame in there}
        if len(kinds) > 1:
            said = " and ".join(sorted(f"{shape[1]}x{shape[0]} {kind}" for shape, kind in kinds))
            raise InputError(f"frames to interpolate between must be of one size and type, got {said}")
        before, after = self._nearest
        if before is None or after is None or self.target in self._numbers:
            raise InputError(
                f"the target must lie strictly between two given frames (t in (0, 1)), got {self.target} "
                f"for the frames {', '.join(map(str, self._numbers))}"
            )

    @cached_property
    def present(self) -> tuple[bool, ...]:
        """Which of the frames are there."""
        return tuple(frame is not None for frame in self.frames)

    @cached_property
    def offsets(self) -> tuple[float, ...]:
        """How far each frame is from the target, in frame numbers; negative before it."""
        return tuple(index - self.target for index in self.indices)

    @property
    def _numbers(self) -> list[int]:
        return [index for index, there in zip(self.indices, self.present, strict=True) if there]

    @cached_property
    def _nearest(self) -> tuple[int | None, int | None]:
        before = [n for n, index in enumerate(self.indices) if self.present[n] and index < self.target]
        after = [n for n, index in enumerate(self.indices) if self.present[n] and index > self.target]
        return (before[-1] if before else None, after[0] if after else None)

    @property
    def before(self) -> AnyPicture:
        """The nearest frame before the target."""
        number, _ = self._nearest
        found = None if number is None else self.frames[number]
        assert found is not None, "checked when it was made"
        return found

    @property
    def after(self) -> AnyPicture:
        """The nearest frame after the target."""
        _, number = self._nearest
        found = None if number is None else self.frames[number]
        assert found is not None, "checked when it was made"
        return found

    @property
    def guides_beside(self) -> tuple[AnyPicture, AnyPicture, AnyPicture] | None:
        """The guides before, at and after the target; None without."""
        first, last = self._nearest
        if self.guide is None or first is None or last is None:
            return None
        before, after = self.guides[first], self.guides[last]
        return None if before is None or after is None else (before, self.guide, after)

    @property
    def t(self) -> float:
        """Where the target lies between the two nearest frames, in (0, 1)."""
        first, last = self._nearest
        assert first is not None, "checked when it was made"
        assert last is not None, "checked when it was made"
        start, end = self.indices[first], self.indices[last]
        return (self.target - start) / (end - start)


@runtime_checkable
class Interpolator(Engine, Protocol):
    """Makes the frame at `context.target`. Calls with the same array objects again (a window that slides over a film, several
    instants between two frames) may keep what was computed of them."""

    @property
    def reach(self) -> tuple[int, int]:
        """How many frames before and after the target it looks at; what is further away changes nothing."""
        ...

    def check_t(self, t: float) -> None:
        """Raises UsageError when it cannot make a frame at this t in (0, 1): never ignored silently."""
        ...

    def interpolate(self, context: Context, safe_point: SafePoint) -> UnitPicture:
        """The frame, (H, W, 3) RGB in [0, 1], not yet rounded; `pipeline.media.convert.unit_to_image` rounds it."""
        ...


class TwoFrames:
    """What engines share that look at the two nearest frames alone and make any instant between them."""

    reach = (1, 1)

    def check_t(self, t: float) -> None:
        if not 0 < t < 1:
            raise InputError(f"t must be in (0, 1), got {t}")

    def shrink(self) -> bool:
        return False
