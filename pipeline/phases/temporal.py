"""Time: deblur windows, flow-aligned averaging of neighbouring outputs, flicker, and the crossfade of depth chunks.

Averaging one result of a frame over the windows that contain it gives that result back and smooths nothing. Here the
neighbours' *own* outputs are warped onto the frame and averaged where flow and colour say that they show the same thing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from pipeline.media.flow import FloatMap, Flow, warp
from pipeline.media.images import Picture

WINDOW = 16
STRIDE = 8
# An average softens fine texture. Just enough of the frame's own output is mixed back in to keep this share of its gradient
# energy; the promise to users is 0.95, and rounding to 8 bits takes a little.
DETAIL_KEPT = 0.96


def window_starts(num_frames: int, window: int = WINDOW, stride: int = STRIDE) -> list[int]:
    """Starts of the windows that cover a scene; the last window ends with the scene, so every frame has a full one."""
    if num_frames <= window:
        return [0]
    starts = list(range(0, num_frames - window + 1, stride))
    if starts[-1] + window < num_frames:
        starts.append(num_frames - window)
    return starts


def windows_of(frame: int, starts: Sequence[int], window: int = WINDOW) -> list[int]:
    """Which windows (by number) contain a frame."""
    return [number for number, start in enumerate(starts) if start <= frame < start + window]


def shared_windows(frame: int, other: int, starts: Sequence[int], window: int = WINDOW) -> int:
    """In how many windows two frames stand together: the weight of one for the other."""
    return len(set(windows_of(frame, starts, window)) & set(windows_of(other, starts, window)))


def average_aligned(own: Picture, own_weight: float, neighbours: Sequence[tuple[Picture, Flow, float]]) -> Picture:
    """Weighted mean of a frame's output and its neighbours' outputs warped onto it.

    Args:
        own: (H, W, 3) uint8, the engine's output for this frame.
        own_weight: its weight (the number of windows it is in).
        neighbours: per neighbour its output, the flow from this frame to it, and its weight (windows shared).

    Returns:
        (H, W, 3) uint8; where no neighbour is trusted, `own` itself. At least 0.95 of the gradient energy of `own` is kept.
    """
    total = own.astype(np.float32) * own_weight
    weights = np.full(own.shape[:2], own_weight, np.float32)
    for output, flow, weight in neighbours:
        warped = warp(output.astype(np.float32), flow.vectors)
        mask = flow.trusted.astype(np.float32) * weight
        total += warped * mask[..., None]
        weights += mask
    mean = total / weights[..., None]
    mean += _share_to_keep_detail(own, mean) * (own - mean)
    return np.clip(np.rint(mean), 0, 255).astype(np.uint8)


def _share_to_keep_detail(own: Picture, mean: FloatMap) -> float:
    """The smallest s in [0, 1] for which mean + s (own - mean) has DETAIL_KEPT of the gradient energy of `own`.

    Gradients are linear, so the energy is a quadratic in s.
    """
    of_own, of_mean = _luma_gradient(own.astype(np.float32)), _luma_gradient(mean)
    difference = of_own - of_mean
    missing = DETAIL_KEPT * np.vdot(of_own, of_own) - np.vdot(of_mean, of_mean)
    if missing <= 0:
        return 0.0
    cross, square = float(np.vdot(of_mean, difference)), float(np.vdot(difference, difference))
    return float(np.clip((np.sqrt(cross**2 + square * missing) - cross) / max(square, 1e-12), 0, 1))


def _luma_gradient(picture: Any) -> FloatMap:
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    gradient: Any = np.stack([cv2.Scharr(luma, cv2.CV_32F, 1, 0), cv2.Scharr(luma, cv2.CV_32F, 0, 1)]) / 32
    return gradient


def flicker(current: Picture, previous: Picture, to_previous: Flow) -> float | None:
    """Mean absolute difference of consecutive frames after warping, on trusted pixels, in 8-bit values.

    Returns:
        None where hardly any pixel (below 1 %) is trusted.
    """
    if to_previous.trusted.mean() < 0.01:
        return None
    difference = cv2.absdiff(current, warp(previous, to_previous.vectors))
    return float(difference[to_previous.trusted].mean(dtype=np.float64))


def gradient_energy(picture: Picture) -> float:
    """Mean squared gradient of the luma (Scharr, 8-bit values per px): how much detail a frame has."""
    return float(2 * np.mean(_luma_gradient(picture.astype(np.float32)) ** 2, dtype=np.float64))


def chunk_ranges(num_frames: int, chunk: int, overlap: int) -> list[range]:
    """Cut a scene into chunks of at most `chunk` frames that overlap by `overlap`.

    Raises:
        ValueError: overlap is not in [0, chunk / 2], which would put a frame into three chunks.
    """
    if not 0 <= overlap <= chunk // 2:
        raise ValueError(f"overlap must be in [0, chunk / 2 = {chunk // 2}], got {overlap}")
    ranges = []
    start = 0
    while True:
        stop = min(start + chunk, num_frames)
        ranges.append(range(start, stop))
        if stop == num_frames:
            return ranges
        start += chunk - overlap


def crossfade_chunks(
    num_frames: int,
    estimate: Callable[[range], FloatMap],
    *,
    chunk: int = 256,
    overlap: int = 32,
    wanted: set[int] | None = None,
) -> Iterator[tuple[int, FloatMap]]:
    """Run an estimator chunk by chunk and blend the overlaps linearly; the two weights of a frame sum to one.

    Memory is bounded by one chunk and one overlap. A pixel that only one of two chunks knows (the other is NaN there)
    takes that one's value.

    Args:
        num_frames: frames in the scene.
        estimate: maps a range of T frames to (T, H, W) float32.
        chunk: frames per chunk.
        overlap: frames that consecutive chunks share, at most half a chunk.
        wanted: only these frames are yielded, and only the chunks they need are run; all by default.

    Yields:
        (frame, (H, W) float32) in ascending order.
    """
    ranges = chunk_ranges(num_frames, chunk, overlap)
    tail: dict[int, FloatMap] = {}  # the previous chunk's frames that this one shares
    for number, frames in enumerate(ranges):
        following = ranges[number + 1] if number + 1 < len(ranges) else range(num_frames, num_frames)
        if wanted is not None and wanted.isdisjoint(frames):
            tail = {}
            continue
        values = estimate(frames)
        if len(values) != len(frames):
            raise ValueError(f"the estimator returned {len(values)} maps for {len(frames)} frames")
        shared = len(frames) and sum(1 for frame in frames if frame in tail)
        next_tail = {}
        for frame, value in zip(frames, values, strict=True):
            if frame in following:
                next_tail[frame] = value.copy()
                continue
            if frame in tail:
                value = _blend(tail[frame], value, (frame - frames.start + 1) / (shared + 1))
            if wanted is None or frame in wanted:
                yield frame, value
        tail = next_tail


def _blend(old: FloatMap, new: FloatMap, weight_new: float) -> FloatMap:
    mixed = (1 - weight_new) * old + weight_new * new
    mixed = np.where(np.isnan(new), old, np.where(np.isnan(old), new, mixed))
    return mixed.astype(np.float32)
