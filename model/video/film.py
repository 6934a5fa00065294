"""The film as it is worked on: cut to so many frames, at the size that was asked for, and what one look at all of it tells."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import Any

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.media.cuts import CutDetector
from pipeline.media.images import AnyPicture, Picture
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo


def to_8_bit(picture: AnyPicture) -> Picture:
    """What trackers, cut detectors and networks look at."""
    if picture.dtype == np.uint8:
        return picture.astype(np.uint8, copy=False)
    return ((picture.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known after one pass over a film.

    Args:
        names: of the frames, as a folder of pictures would call them.
        times_s: when each is shown.
        shots: ranges of frames without a cut in between, together all frames.
        size: (width, height) as worked on.
        source_size: (width, height) of the film as it is.
    """

    names: tuple[str, ...]
    times_s: tuple[Fraction, ...]
    shots: tuple[range, ...]
    size: tuple[int, int]
    source_size: tuple[int, int]

    @property
    def count(self) -> int:
        return len(self.names)


class Film:
    """A source with `--max_frames` and `--resize` applied.

    Args:
        source: a video or a folder.
        max_frames: stop after so many; None for all.
        resize_px: longer side; None, or more than the source has, changes nothing.
        deep: frames as uint16, for films with more than 8 bits.
    """

    def __init__(
        self, source: TimedVideo | TimedFolder, max_frames: int | None, resize_px: int | None, deep: bool
    ) -> None:
        self.source, self._max, self._resize_px, self._deep = source, max_frames, resize_px, deep
        self._source_size = (0, 0)

    @property
    def expected(self) -> int:
        """How many frames there will be, as the container says; a look counts them."""
        return min(self.source.count, self._max or self.source.count)

    def frames(self) -> Iterator[TimedFrame]:
        """All frames in order.

        Raises:
            InputError: a frame has another size than the first.
        """
        first: tuple[int, ...] | None = None
        with closing(self.source.frames(deep=self._deep)) as frames:  # type: ignore[type-var]  # generators both
            for frame in islice(frames, self._max):
                shape = frame.picture.shape
                if first is not None and shape != first:
                    raise InputError(
                        f"{frame.name} is {shape[1]}x{shape[0]}, the frames before are {first[1]}x{first[0]}"
                    )
                first, self._source_size = shape, (shape[1], shape[0])
                yield replace(frame, picture=self._resized(frame.picture))

    def first(self) -> TimedFrame:
        """The first frame.

        Raises:
            InputError: there is none.
        """
        with closing(self.frames()) as frames:  # type: ignore[type-var]
            frame = next(frames, None)
        if frame is None:
            raise InputError(f"{self.source.path} holds no frames")
        return frame

    def look(self, find_cuts: bool, on_frame: Callable[[], None]) -> Look:
        """One pass over all frames.

        Raises:
            InputError: there is none.
        """
        names, times, starts = [], [], [0]
        cuts = CutDetector() if find_cuts else None
        size = (0, 0)
        for number, frame in enumerate(self.frames()):
            if cuts is not None and cuts.begins_shot(to_8_bit(frame.picture)):
                starts.append(number)
            names.append(frame.name)
            times.append(frame.time_s)
            size = (frame.picture.shape[1], frame.picture.shape[0])
            on_frame()
        if not names:
            raise InputError(f"{self.source.path} holds no frames")
        ends = [*starts[1:], len(names)]
        shots = tuple(range(start, end) for start, end in zip(starts, ends, strict=True))
        return Look(names=tuple(names), times_s=tuple(times), shots=shots, size=size, source_size=self._source_size)

    def _resized(self, picture: AnyPicture) -> AnyPicture:
        height, width = picture.shape[:2]
        size = worked_size((width, height), self._resize_px)
        if size == (width, height):
            return picture
        return shrink(picture, size)


def worked_size(size: tuple[int, int], resize_px: int | None) -> tuple[int, int]:
    """(width, height) after `--resize`: the longer side as asked, both even."""
    if resize_px is None or resize_px >= max(size):
        return size
    scale = resize_px / max(size)
    width, height = (max(2, round(side * scale / 2) * 2) for side in size)
    return width, height


def worked_place(pixel: tuple[int, int], look: Look) -> tuple[float, float]:
    """A pixel (x, y) of the film as it is -> the same place in the frames as worked on."""
    x, y = ((at + 0.5) * now / was - 0.5 for at, now, was in zip(pixel, look.size, look.source_size, strict=True))
    return x, y


def shrink(picture: AnyPicture, size: tuple[int, int]) -> AnyPicture:
    """Area average to (width, height): no ringing, and no flicker of fine texture."""
    small: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small.astype(picture.dtype, copy=False)
