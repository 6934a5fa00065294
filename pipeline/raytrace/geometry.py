"""Shapes and their nearest hits: a z-buffer over exact ray-shape intersections, in float32 NumPy.

Every shape is a unit shape under an affine map, so one matrix product brings a ray into its frame. Directions are not
normalised: they carry z = 1 along the optical axis, the map keeps the ray parameter, and so the parameter of a hit IS
its z-depth. A shape is tested only inside the pixel rectangle that its bounding box covers; that is all the
acceleration there is, and at these scene sizes (hundreds of shapes) nothing else pays in NumPy.

Legend: K rays per pixel in one batch, H x W pixels, P shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[Any]  # float32 throughout; NumPy's stubs widen every product of an array with a float
F64 = NDArray[np.float64]
Scalar = Any  # a float or a float32 array
Vec = tuple[Scalar, Scalar, Scalar]
Point = Sequence[float] | F64

ELLIPSOID, BOX, CYLINDER, RECT, PLANE, DOME = range(6)
SKY_DEPTH_M = 1000.0
NEAR_M = 0.05


@dataclass
class Shapes:
    """A growing list of shapes; `axes` holds the half-axes as columns (metres), `tint` multiplies the material.

    `anchor` is where a shape's middle lies in its material's noise volume (metres): parts of one body that give their
    places in the body share one continuous fur. Without it every shape gets a place of its own.
    """

    kind: list[int] = field(default_factory=list)
    centre: list[F64] = field(default_factory=list)
    axes: list[F64] = field(default_factory=list)
    material: list[str] = field(default_factory=list)
    tint: list[tuple[float, float, float]] = field(default_factory=list)
    anchor: list[F64 | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kind)

    def add(
        self,
        kind: int,
        centre: Point,
        axes: F64,
        material: str,
        tint: Sequence[float] = (1.0, 1.0, 1.0),
        anchor: F64 | None = None,
    ) -> None:
        """Append one shape.

        Args:
            kind: ELLIPSOID, BOX, CYLINDER (axis 2, capped), RECT (axes 0 and 1, normal along axis 2), PLANE or DOME
                (the shell of the half ellipsoid on the positive side of axis 1, open below).
            centre: metres, world (x right, y up, z into the scene).
            axes: (3, 3) half-axes as columns, metres, linearly independent.
            material: name of the material.
            tint: linear RGB factor on the material's colour.
            anchor: (3,) place in the noise volume, metres.
        """
        self.kind.append(kind)
        self.centre.append(np.asarray(centre, dtype=np.float64))
        self.axes.append(np.asarray(axes, dtype=np.float64))
        self.material.append(material)
        self.tint.append((float(tint[0]), float(tint[1]), float(tint[2])))
        self.anchor.append(anchor)

    def extend(self, other: "Shapes") -> "Shapes":
        """A new list with `other` behind this one; neither is changed."""
        names = ("kind", "centre", "axes", "material", "tint", "anchor")
        return Shapes(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def ellipsoid(
        self,
        centre: Point,
        radii: Sequence[float] | float,
        material: str,
        *,
        turn: F64 | None = None,
        tint: Sequence[float] = (1.0, 1.0, 1.0),
        anchor: F64 | None = None,
    ) -> None:
        """A sphere (one radius) or ellipsoid (three), turned by a (3, 3) rotation; metres."""
        self.add(ELLIPSOID, centre, _scaled(radii, turn), material, tint, anchor)

    def dome(
        self, centre: Point, radii: Sequence[float], material: str, *, tint: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> None:
        """The upper half of an ellipsoid, a thin shell that is open below; metres."""
        self.add(DOME, centre, _scaled(radii, None), material, tint)

    def box(
        self,
        centre: Point,
        half: Sequence[float],
        material: str,
        *,
        turn: F64 | None = None,
        tint: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """A box with half-sizes in metres, turned by a (3, 3) rotation."""
        self.add(BOX, centre, _scaled(half, turn), material, tint)

    def cylinder(
        self, start: Point, end: Point, radius: float, material: str, *, tint: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> None:
        """A capped cylinder between two points, metres."""
        a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        half = (b - a) / 2
        side, up = _perpendicular(half)
        self.add(CYLINDER, (a + b) / 2, np.stack([side * radius, up * radius, half], axis=1), material, tint)

    def capsule(
        self, start: Point, end: Point, radius: float, material: str, *, tint: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> None:
        """A cylinder with round ends: three shapes, metres."""
        self.cylinder(start, end, radius, material, tint=tint)
        self.ellipsoid(start, radius, material, tint=tint)
        self.ellipsoid(end, radius, material, tint=tint)

    def rect(
        self,
        centre: Point,
        half_u: Point,
        half_v: Point,
        material: str,
        *,
        tint: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """A flat rectangle spanned by two half-axes, metres."""
        u, v = np.asarray(half_u, dtype=np.float64), np.asarray(half_v, dtype=np.float64)
        normal = np.cross(u, v)
        self.add(RECT, centre, np.stack([u, v, normal / np.linalg.norm(normal)], axis=1), material, tint)

    def plane(self, point: Point, normal: Point, material: str) -> None:
        """An infinite plane."""
        n = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
        u, v = _perpendicular(n)
        self.add(PLANE, point, np.stack([u, v, n], axis=1), material)


def _scaled(radii: Sequence[float] | float, turn: F64 | None) -> F64:
    half = np.full(3, radii) if isinstance(radii, int | float) else np.asarray(radii, dtype=np.float64)
    return (np.eye(3) if turn is None else turn) * half[None, :]


def _perpendicular(axis: F64) -> tuple[F64, F64]:
    n = axis / np.linalg.norm(axis)
    helper = np.array([0.0, 1.0, 0.0]) if abs(n[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    u = np.cross(helper, n)
    u /= np.linalg.norm(u)
    return u, np.cross(n, u)


class Frozen:
    """Shapes as arrays, ready to be hit: inverse maps, bounding corners, indices by material."""

    def __init__(self, shapes: Shapes, material_names: Sequence[str]) -> None:
        self.kind = np.array(shapes.kind, dtype=np.int8)
        self.centre: F64 = np.array(shapes.centre, dtype=np.float64).reshape(-1, 3)
        self.axes: F64 = np.array(shapes.axes, dtype=np.float64).reshape(-1, 3, 3)
        self.inverse: F64 = np.asarray(np.linalg.inv(self.axes), dtype=np.float64)
        self.half = np.linalg.norm(self.axes, axis=1)  # (P, 3) half-sizes, metres
        self.tint = np.array(shapes.tint, dtype=np.float32).reshape(-1, 3)
        index = {name: i for i, name in enumerate(material_names)}
        self.material = np.array([index[name] for name in shapes.material], dtype=np.int16)
        corner = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
        self.corners: F64 = self.centre[:, None] + np.einsum("pij,kj->pki", self.axes, corner)  # (P, 8, 3)
        self.inverse32 = self.inverse.astype(np.float32)
        self.centre32 = self.centre.astype(np.float32)
        self.half32 = self.half.astype(np.float32)
        # The default places are irrational steps, so that the leaves of a bush are not all one leaf.
        steps = np.arange(len(shapes))[:, None] * np.array([0.7549, 0.5698, 0.8191])
        self.anchor32: F32 = np.array(
            [step if a is None else a for a, step in zip(shapes.anchor, steps, strict=True)], dtype=np.float32
        ).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.kind)


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
    start = _by_shape(shapes.inverse, origin.constant - shapes.centre)
    heading = _by_shape(shapes.inverse, np.broadcast_to(direction.constant, shapes.centre.shape))
    start_basis = [(shapes.inverse @ vector).tolist() for vector in origin.basis]
    heading_basis = [(shapes.inverse @ vector).tolist() for vector in direction.basis]
    kinds = shapes.kind.tolist()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for p in np.flatnonzero((rects[:, 1] > rects[:, 0]) & (rects[:, 3] > rects[:, 2])).tolist():
            y0, y1, x0, x1 = rects[p].tolist()
            o = _combine(start[p], [b[p] for b in start_basis], _cut(origin.values, y0, y1, x0, x1))
            d = _combine(heading[p], [b[p] for b in heading_basis], _cut(direction.values, y0, y1, x0, x1))
            t, valid = _hit_parameter(kinds[p], o, d)
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
