"""The frames around the instant that is made: as many as the engine looks at, and no more, whatever the film's length."""

from collections.abc import Iterator, Sequence

import cv2

from model.video.film import to_8_bit
from model.video.interpolate.timeline import Instant
from pipeline.engines.interpolation.context import Context
from pipeline.media.arrays import AnyPicture
from pipeline.media.video_io import TimedFrame

_SAME_LEVELS = 2  # of 255: two frames that differ nowhere by more are one frame, shown twice and encoded again


class FrameWindow:
    """Reads ahead as far as an engine looks, and forgets what lies behind.

    Args:
        frames: the whole film, in order.
        shots: ranges of frames without a cut; no context reaches over one.
        reach: how many frames before and after an instant are wanted.
    """

    def __init__(self, frames: Iterator[TimedFrame], shots: Sequence[range], reach: tuple[int, int]) -> None:
        self._frames, self._shots, self._reach = enumerate(frames), list(shots), reach
        self._held: dict[int, TimedFrame] = {}
        self._repeats: set[int] = set()  # frames that show what the one before them shows
        self._read = -1

    def frame(self, number: int) -> TimedFrame:
        """A frame of the source; numbers never go back."""
        self._read_to(number)
        first = number - self._reach[0] + 1
        for old in [held for held in self._held if held < min(first, number)]:
            del self._held[old]
            self._repeats.discard(old)
        return self._held[number]

    def context(self, instant: Instant) -> Context | None:
        """What an engine is given for an instant; None where the frames on both sides are the same one."""
        before = instant.before
        shot = next(shot for shot in self._shots if before in shot)
        self._read_to(min(before + self._reach[1], shot.stop - 1))
        if before + 1 in self._repeats:
            return None
        numbers = range(max(shot.start, before - self._reach[0] + 1), min(shot.stop, before + self._reach[1] + 1))
        absent = {n for n in numbers if (n < before and n + 1 in self._repeats) or (n > before and n in self._repeats)}
        frames: list[AnyPicture | None] = [None if n in absent else self._held[n].picture for n in numbers]
        return Context(frames=tuple(frames), indices=tuple(numbers), target=before + float(instant.t))

    def _read_to(self, number: int) -> None:
        while self._read < number:
            self._read, frame = next(self._frames)
            earlier = self._held.get(self._read - 1)
            if earlier is not None and _same(earlier.picture, frame.picture):
                self._repeats.add(self._read)
            self._held[self._read] = frame


def _same(first: AnyPicture, second: AnyPicture) -> bool:
    one, other = to_8_bit(first), to_8_bit(second)
    return bool(cv2.absdiff(one, other).max() <= _SAME_LEVELS)
