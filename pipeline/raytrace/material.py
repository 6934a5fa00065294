"""What a surface looks like before light falls on it: colour from a baked texture or solid noise, sheen, glow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.raytrace.geometry import BOX, CYLINDER, DOME, ELLIPSOID, F32, Frozen, Scalar
from pipeline.raytrace.light import RGB


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """One kind of surface.

    Args:
        colour: linear albedo, multiplied with the texture and the shape's tint.
        texture: (h, w, 3) periodic linear picture laid onto flat faces in object coordinates, row 0 on top.
        size_m: width and height that one copy of the texture covers, metres.
        volume: (n, n, n) noise for solid materials, read in object coordinates.
        volume_m: metres that one copy of the volume covers.
        stretch: factors on that along the shape's three axes, for fur and grain that run one way.
        grain: how strongly the volume changes the colour: 0.5 means from 50 % to 150 %.
        relief: (n, n, n, 3) slopes of the volume, from `textures.relief`; tilt the normal by `bump` times the slope.
        fit: one copy of the texture covers each face exactly, whatever its size.
        glow: emitted radiance; far above 1 for lamps.
        through: light that falls on the back and comes through, for leaves, 0 to 1.
        wet: reflectivity factor of a horizontal mirror, 0 (dry) to 1 (water).
        casts: throws a shadow.
    """

    colour: RGB = (1.0, 1.0, 1.0)
    texture: F32 | None = None
    size_m: tuple[float, float] = (1.0, 1.0)
    volume: F32 | None = None
    volume_m: float = 1.0
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grain: float = 0.5
    relief: F32 | None = None
    bump: float = 0.0
    fit: bool = False
    glow: RGB | None = None
    through: float = 0.0
    wet: float = 0.0
    casts: bool = True


@dataclass
class Surface:
    """Hit points of one material: normals and colours, each a list of three (n,) arrays."""

    normal: list[F32]
    colour: list[F32]


def surface(
    material: Material,
    shapes: Frozen,
    ids: NDArray[np.int16],
    point: list[F32],
    towards: list[F32],
    jitter: tuple[float, float],
) -> Surface:
    """Normals and albedo where rays hit one material.

    Args:
        material: the material.
        shapes: all shapes of the frame.
        ids: (n,) shape of every hit.
        point: world position, three (n,) arrays, metres.
        towards: direction of the ray that hit, three (n,) arrays; the normal is turned against it.
        jitter: in [-0.5, 0.5), shifts lookups within a texel, spread evenly over the samples of a pixel.
    """
    single = int(ids[0]) if (ids == ids[0]).all() else None
    if single is not None:
        inverse: list[list[Scalar]] = shapes.inverse[single].tolist()
        centre: list[Scalar] = shapes.centre[single].tolist()
        half: list[Scalar] = shapes.half[single].tolist()
        tint: list[Scalar] = shapes.tint[single].astype(np.float64).tolist()
        kind: int | NDArray[np.int8] = int(shapes.kind[single])
    else:
        rows = shapes.inverse32[ids]
        inverse = [[np.ascontiguousarray(rows[:, i, j]) for j in range(3)] for i in range(3)]
        centre = [shapes.centre32[ids, j] for j in range(3)]
        half = [shapes.half32[ids, j] for j in range(3)]
        tint = [shapes.tint[ids, j] for j in range(3)]
        kinds = shapes.kind[ids]
        kind = int(kinds[0]) if (kinds == kinds[0]).all() else kinds
    offset = [point[j] - centre[j] for j in range(3)]
    local = [inverse[i][0] * offset[0] + inverse[i][1] * offset[1] + inverse[i][2] * offset[2] for i in range(3)]
    unit = _unit_normal(kind, local)
    normal = [inverse[0][j] * unit[0] + inverse[1][j] * unit[1] + inverse[2][j] * unit[2] for j in range(3)]
    inv = 1 / np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    facing = normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2]
    inv = np.where(facing > 0, -inv, inv).astype(np.float32)
    metric = [local[j] * half[j] for j in range(3)]
    if material.relief is not None:
        slope = material.relief.reshape(-1, 3)[_cell(material, shapes, metric, ids, material.relief.shape[0], jitter)]
        for j in range(3):
            tilt = sum(inverse[i][j] * (half[i] * slope[:, i]) for i in range(3))
            normal[j] = normal[j] * inv - np.float32(material.bump) * tilt
        inv = 1 / np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    colour = _colour(material, shapes, kind, local, metric, ids, tint, jitter)
    return Surface([np.asarray(n * inv, np.float32) for n in normal], colour)


def _unit_normal(kind: int | NDArray[np.int8], local: list[F32]) -> list[F32]:
    """Normal in the frame of the unit shape."""
    if not isinstance(kind, int):
        total = [np.zeros_like(local[0]) for _ in range(3)]
        for one in np.unique(kind).tolist():
            for j, part in enumerate(_unit_normal(one, local)):
                np.copyto(total[j], part, where=kind == one)
        return total
    if kind in (ELLIPSOID, DOME):
        return local
    zero = np.zeros_like(local[0])
    if kind == CYLINDER:
        cap = np.abs(local[2]) > 0.9999
        return [np.where(cap, 0, local[0]), np.where(cap, 0, local[1]), np.where(cap, local[2], 0)]
    if kind == BOX:
        size = [np.abs(v) for v in local]
        on_x = (size[0] >= size[1]) & (size[0] >= size[2])
        on_y = (size[1] >= size[2]) & ~on_x
        return [np.where(on_x, local[0], 0), np.where(on_y, local[1], 0), np.where(on_x | on_y, 0, local[2])]
    return [zero, zero, zero + np.float32(1)]


def _cell(
    material: Material,
    shapes: Frozen,
    metric: list[F32],
    ids: NDArray[np.int16],
    size: int,
    jitter: tuple[float, float],
) -> NDArray[np.int32]:
    """Where in the volume a point lies; the jitter blends neighbouring cells over the samples of a pixel."""
    shift = (jitter[0], jitter[1], (jitter[0] + jitter[1]) % 1.0 - 0.5)
    single = int(ids[0]) if (ids == ids[0]).all() else None
    index = []
    for j in range(3):
        scale = size / material.volume_m / material.stretch[j]
        anchor = float(shapes.anchor32[single, j]) if single is not None else shapes.anchor32[ids, j]
        index.append(np.floor((metric[j] + anchor) * scale + shift[j]).astype(np.int32) % size)
    return (index[0] * size + index[1]) * size + index[2]


def _colour(
    material: Material,
    shapes: Frozen,
    kind: int | NDArray[np.int8],
    local: list[F32],
    metric: list[F32],
    ids: NDArray[np.int16],
    tint: list[Scalar],
    jitter: tuple[float, float],
) -> list[F32]:
    count = len(local[0])
    base: list[Scalar] = [material.colour[j] * tint[j] for j in range(3)]
    if material.volume is not None:
        grey = material.volume.ravel()[_cell(material, shapes, metric, ids, material.volume.shape[0], jitter)]
        factor = 1 - material.grain + 2 * material.grain * grey
        base = [b * factor for b in base]
    if material.texture is not None:
        u, v, across = metric[0], metric[1], local[0]
        if not isinstance(kind, int) or kind == BOX:
            size3 = [np.abs(part) for part in local]
            on_x = (size3[0] >= size3[1]) & (size3[0] >= size3[2])
            on_y = (size3[1] >= size3[2]) & ~on_x
            u, v = np.where(on_x, metric[2], metric[0]), np.where(on_y, metric[2], metric[1])
            across = np.where(on_x, local[2], local[0])
        elif kind == CYLINDER:
            v = metric[2]
        height, width = material.texture.shape[:2]
        if material.fit:
            column = np.clip((across + 1) * (width / 2), 0, width - 1).astype(np.int32)
            row = np.clip((1 - local[1]) * (height / 2), 0, height - 1).astype(np.int32)
        else:
            column = np.floor(u * (width / material.size_m[0]) + jitter[0]).astype(np.int32) % width
            row = np.floor(v * (-height / material.size_m[1]) + jitter[1]).astype(np.int32) % height
        texel = np.take(material.texture.reshape(-1, 3), row * width + column, axis=0)
        base = [b * texel[:, j] for j, b in enumerate(base)]
    return [np.broadcast_to(np.asarray(b, np.float32), (count,)) for b in base]
