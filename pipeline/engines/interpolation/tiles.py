"""Frames too large for a device's memory, in overlapping tiles: the engine sees each tile as a film of its own.

What moves further than the overlap between two frames can break at a tile's edge, so tiles are as large as memory allows.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.engines.base import SafePoint
from pipeline.engines.interpolation.context import Context, Interpolator, UnitPicture

OVERLAP_PX = 128


def interpolate_tiled(engine: Interpolator, context: Context, tile_px: int, safe_point: SafePoint) -> UnitPicture:
    """As `Interpolator.interpolate`, tile by tile; the overlaps are crossfaded.

    Args:
        tile_px: side of a tile, px, at least twice the overlap of 128; 0, or more than the frame has, takes it whole.
    """
    height, width = context.before.shape[:2]
    if not tile_px or max(height, width) <= tile_px:
        return engine.interpolate(context, safe_point)
    total = np.zeros((height, width, 3), np.float32)
    weights = np.zeros((height, width, 1), np.float32)
    for rows in _spans(height, tile_px):
        for columns in _spans(width, tile_px):
            frames = tuple(None if frame is None else frame[rows, columns] for frame in context.frames)
            tile = Context(frames=frames, indices=context.indices, target=context.target)
            weight = np.outer(_ramp(rows, height), _ramp(columns, width)).astype(np.float32)[..., None]
            total[rows, columns] += engine.interpolate(tile, safe_point) * weight
            weights[rows, columns] += weight
    return total / weights


def _spans(length: int, tile_px: int) -> Iterator[slice]:
    """As few tiles as cover a side with the overlap, evenly spread."""
    if length <= tile_px:
        yield slice(0, length)
        return
    count = -(-(length - OVERLAP_PX) // (tile_px - OVERLAP_PX))
    for start in np.linspace(0, length - tile_px, count).round().astype(int).tolist():
        yield slice(start, start + tile_px)


def _ramp(span: slice, length: int) -> np.ndarray:
    """Weights along a side: rising over the overlap, except where the frame ends."""
    size = span.stop - span.start
    rise = np.minimum(np.arange(1, size + 1) / OVERLAP_PX, 1)
    ramp = np.ones(size)
    if span.start > 0:
        ramp = np.minimum(ramp, rise)
    if span.stop < length:
        ramp = np.minimum(ramp, rise[::-1])
    return ramp
