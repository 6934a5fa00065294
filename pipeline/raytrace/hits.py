"""Nearest hits: a z-buffer over exact ray-shape intersections, in float32 NumPy.

One matrix product brings a ray into the frame of a unit shape. Directions are not normalised: they carry z = 1 along the
optical axis, the map keeps the ray parameter, and so the parameter of a hit IS its z-depth. A shape is tested only inside
the pixel rectangle that its bounding box covers; that is all the acceleration there is, and at these scene sizes
(hundreds of shapes) nothing else pays in NumPy.

Legend: K rays per pixel in one batch, H x W pixels, P shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raytrace.geometry import CYLINDER, DOME, ELLIPSOID, F32, F64, NEAR_M, PLANE, RECT, Frozen, Scalar, Vec


@dataclass(frozen=True)
class VectorField:
    """A vector per ray, written as constant + sum of basis_i * values_i.

    A pinhole's directions are right * x(column) + up * y(row) + forward: their product with a matrix row costs one full
    array operation instead of five, because the columns and rows are scaled before they meet.

    Args:
        constant: (3,).
        basis: n vectors (3,).
        values: n arrays that broadcast to (K, H, W).
    """

    constant: F64
    basis: tuple[F64, ...] = ()
    values: tuple[F32, ...] = ()

    def component(self, axis: int, shape: tuple[int, int, int]) -> F32:
        """One world component, (K, H, W)."""
        total: Scalar = float(self.constant[axis])
        for vector, value in zip(self.basis, self.values, strict=True):
            if vector[axis]:
                total = value * float(vector[axis]) + total
        return np.broadcast_to(np.asarray(total, np.float32), shape)

    def window(self, k: slice, rows: slice, columns: slice) -> "VectorField":
        """The part of a block of rays; views, nothing is copied."""
        cut = (k, rows, columns)
        parts = (v[tuple(c if n > 1 else slice(None) for c, n in zip(cut, v.shape, strict=True))] for v in self.values)
        return VectorField(self.constant, self.basis, tuple(parts))


@dataclass(frozen=True)
class Rays:
    """A batch of K x H x W rays."""

    origin: VectorField
    direction: VectorField
    shape: tuple[int, int, int]

    def window(self, k: slice, rows: slice, columns: slice) -> "Rays":
        """A block of them, as views."""
        shape = tuple(len(range(*c.indices(n))) for c, n in zip((k, rows, columns), self.shape, strict=True))
        origin, direction = self.origin.window(k, rows, columns), self.direction.window(k, rows, columns)
        return Rays(origin, direction, (shape[0], shape[1], shape[2]))


def _hit_parameter(kind: int, o: Vec, d: Vec) -> tuple[Scalar, Scalar]:
    """Ray parameter of the nearest hit with a unit shape, and where it is valid (None: NaN marks misses)."""
    if kind == ELLIPSOID:
        inv = 1.0 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        nearest = (o[0] * d[0] + o[1] * d[1] + o[2] * d[2]) * -inv
        # The distance at the closest approach, not b^2 - ac: stays accurate when the shape is far and small.
        x, y, z = o[0] + nearest * d[0], o[1] + nearest * d[1], o[2] + nearest * d[2]
        return nearest - np.sqrt((1.0 - (x * x + y * y + z * z)) * inv), None
    if kind == DOME:
        inv = 1.0 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        nearest = (o[0] * d[0] + o[1] * d[1] + o[2] * d[2]) * -inv
        x, y, z = o[0] + nearest * d[0], o[1] + nearest * d[1], o[2] + nearest * d[2]
        reach = np.sqrt((1.0 - (x * x + y * y + z * z)) * inv)
        outside, inside = nearest - reach, nearest + reach
        t = np.where(o[1] + outside * d[1] > 0, outside, inside)
        return t, o[1] + t * d[1] > 0
    if kind in (PLANE, RECT):
        t = o[2] / d[2] * -1.0
        if kind == PLANE:
            return t, None
        return t, (np.abs(o[0] + t * d[0]) <= 1.0) & (np.abs(o[1] + t * d[1]) <= 1.0)
    if kind == CYLINDER:
        inv = 1.0 / (d[0] * d[0] + d[1] * d[1] + 1e-20)
        nearest = (o[0] * d[0] + o[1] * d[1]) * -inv
        x, y = o[0] + nearest * d[0], o[1] + nearest * d[1]
        reach = np.sqrt((1.0 - (x * x + y * y)) * inv)
        inv_z = _reciprocal(d[2])
        middle, extent = o[2] * inv_z * -1.0, abs(inv_z)
        enter = np.maximum(nearest - reach, middle - extent)
        leave = np.minimum(nearest + reach, middle + extent)
        return enter, enter < leave
    enter, leave = -np.float32(np.inf), np.float32(np.inf)
    for axis in range(3):
        inv = _reciprocal(d[axis])
        middle, extent = o[axis] * inv * -1.0, abs(inv)
        enter, leave = np.maximum(enter, middle - extent), np.minimum(leave, middle + extent)
    return enter, enter < leave


def _reciprocal(value: Scalar) -> Scalar:
    return 1.0 / (value + 1e-20)  # a ray along a face must give a large number: 0 * infinity would lose the hit


def trace_nearest(
    shapes: Frozen, rays: Rays, rects: NDArray[np.int64], depth: F32, ids: NDArray[np.int16], t_min: float = NEAR_M
) -> None:
    """Keep the nearest hit of every ray, in place.

    Args:
        shapes: P shapes.
        rays: the batch.
        rects: (P, 4) y0, y1, x0, x1: the pixels a shape may cover; empty where it covers none.
        depth: (K, H, W) nearest ray parameter so far (z-depth in metres for camera rays); updated.
        ids: (K, H, W) index of the shape hit, -1 for none; updated.
        t_min: hits nearer than this do not count.
    """
    origin, direction = rays.origin, rays.direction
    active = np.flatnonzero((rects[:, 1] > rects[:, 0]) & (rects[:, 3] > rects[:, 2]))
    inverse, centre, kinds = shapes.inverse[active], shapes.centre[active], shapes.kind[active].tolist()
    start = _by_shape(inverse, origin.constant - centre)
    heading = _by_shape(inverse, np.broadcast_to(direction.constant, centre.shape))
    start_basis = [(inverse @ vector).tolist() for vector in origin.basis]
    heading_basis = [(inverse @ vector).tolist() for vector in direction.basis]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for i, (p, (y0, y1, x0, x1)) in enumerate(zip(active.tolist(), rects[active].tolist(), strict=True)):
            o = _combine(start[i], [b[i] for b in start_basis], _cut(origin.values, y0, y1, x0, x1))
            d = _combine(heading[i], [b[i] for b in heading_basis], _cut(direction.values, y0, y1, x0, x1))
            t, valid = _hit_parameter(kinds[i], o, d)
            before = depth[:, y0:y1, x0:x1]
            closer = (t > t_min) & (t < before)
            if valid is not None:
                closer &= valid
            np.copyto(before, t, where=closer)
            np.copyto(ids[:, y0:y1, x0:x1], np.int16(p), where=closer)


def _by_shape(inverse: F64, vectors: F64) -> list[list[float]]:
    """Each vector (P, 3) in the frame of its shape."""
    rows: list[list[float]] = np.einsum("pij,pj->pi", inverse, vectors).tolist()
    return rows


def _cut(values: Sequence[F32], y0: int, y1: int, x0: int, x1: int) -> list[F32]:
    """A window of arrays that broadcast over rows or columns where their length is 1."""
    rows, columns, every = slice(y0, y1), slice(x0, x1), slice(None)
    return [v[:, rows if v.shape[1] > 1 else every, columns if v.shape[2] > 1 else every] for v in values]


def _combine(constant: Sequence[float], basis: Sequence[Sequence[float]], values: Sequence[F32]) -> Vec:
    """The three parts of constant + sum of basis_i * values_i; plain numbers if there are no values."""
    parts: list[Scalar] = []
    for axis in range(3):
        total: Scalar = constant[axis]
        for vector, value in zip(basis, values, strict=True):
            total = value * vector[axis] + total
        parts.append(total)
    return parts[0], parts[1], parts[2]
