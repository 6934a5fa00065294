"""Shapes: lists that scenes fill, and the arrays that rays are tested against.

Every shape is a unit shape (ball, cube, cylinder, square, half ball) under an affine map, so a sphere and a blade of
grass are the same code. World axes: x right, y up, z into the scene; metres.
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
