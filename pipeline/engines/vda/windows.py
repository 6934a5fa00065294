"""Videos of any length in the memory of one window: the authors' long-video scheme, as a stream.

Windows of 32 frames begin every 22. A window's first ten inputs are not its own: they are the previous window's inputs at the
keyframe slots, that is the first frame of the video, a frame from the middle of the previous window, and the eight frames
before this window's new ones. The metric network's outputs need no scale and shift; the eight frames that two windows
share are crossfaded. The authors' program holds all frames and all depths; here a frame is asked for once, in order, and a
depth map is given out as soon as no later window touches it.

The replaced inputs are whole frames, and the encoder sees frames one by one: so its levels are kept instead of the frames,
and 22 frames a window are encoded, not 32. A window that could change nothing that is asked for is not computed.

Shapes: T frames, N patches, D channels; a level is (T, N, D).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pipeline.engines.vda.temporal import WINDOW

OVERLAP = 10
STEP = WINDOW - OVERLAP
KEYFRAMES = [0, 12, *range(24, 32)]  # slots of a window that open the next one
FADE = 8  # the shared frames that are real in both windows; the other two open the window as context only
_CONTEXT = OVERLAP - FADE

Levels = list[Tensor]


def first_window(first: int) -> int:
    """The number of the window with which frame `first` and all behind it come out finished."""
    return max(0, (first - OVERLAP) // STEP)


def fresh_frames(num_frames: int, first: int = 0) -> list[range]:
    """Which frames each window encodes anew, for the windows that `stream_depth` looks at; joined, they ascend.

    A video that is entered in the middle needs two windows before the first that is decoded: window 0, for the video's first
    frame, and the one before, for its keyframes. Whole windows are encoded there, too, so that batches, and with them the
    rounding, are those of a run from the beginning.
    """
    entered = first_window(first)
    numbers = [number for number in range(-(-num_frames // STEP)) if number == 0 or number >= entered - 1]
    return [
        range(
            number * STEP + (OVERLAP if number else 0),
            max(number * STEP + OVERLAP, min(number * STEP + WINDOW, num_frames)),
        )
        if number
        else range(min(WINDOW, num_frames))
        for number in numbers
    ]


def stream_depth(
    encode: Callable[[range], Levels],
    decode: Callable[[Levels, slice], Tensor],
    num_frames: int,
    first: int = 0,
) -> Iterator[Tensor]:
    """Depth of a video, block by block.

    Args:
        encode: encoder levels of consecutive frames; those of `fresh_frames` are asked for, each once, in ascending order.
        decode: levels of 32 frames and the slots that are needed -> (needed, h, w).
        num_frames: at least 1.
        first: frames before it are not needed; windows that only they would need are left out.

    Yields:
        (K, h, w) of the next K frames; all blocks together are frames `first` to `num_frames`.
    """
    fade = torch.linspace(0, 1, FADE, dtype=torch.float64)
    entered = first_window(first)
    levels: Levels = []
    tail: Tensor | None = None  # finished but for the crossfade with the next window
    late = first - (entered * STEP + (_CONTEXT if entered else 0))  # maps that come out and are not needed
    for new in fresh_frames(num_frames, first):
        start = (new.start - OVERLAP) if levels else 0
        slots = slice(_CONTEXT if levels else 0, min(WINDOW, num_frames - start))
        if slots.stop <= slots.start:
            break  # the window holds nothing new but copies of the last frame
        levels = _next_window(levels, encode(new) if new else [])
        if start < entered * STEP:
            continue
        depth = decode(levels, slots)
        if tail is not None:
            weight = fade[: len(tail)].to(depth)[:, None, None]
            depth = torch.cat([tail * (1 - weight) + depth[: len(tail)] * weight, depth[len(tail) :]])
        final = start + STEP + _CONTEXT  # the next window fades in from here
        keep = max(0, start + slots.stop - final)
        ready = depth[: len(depth) - keep]
        if len(ready) > late:
            yield ready[late:]
        late = max(0, late - len(ready))
        tail = depth[len(depth) - keep :]
    if tail is not None and len(tail) > late:
        yield tail[late:]


def _next_window(previous: Levels, fresh: Levels) -> Levels:
    """32 frames: the previous window's keyframes, the new frames, and the last frame again until the window is full.

    At the end of a video there may be no new frame; the last one then lies behind the keyframes of the previous window.
    """
    window = []
    for number in range(len(previous or fresh)):
        parts = ([previous[number][KEYFRAMES]] if previous else []) + ([fresh[number]] if fresh else [])
        lacking = WINDOW - sum(len(part) for part in parts)
        window.append(torch.cat([*parts, parts[-1][-1:].expand(lacking, -1, -1)]))
    return window
