"""Sun, sky and lamps, with visibility kept in depth maps seen from the light.

A shadow map is an ordinary `trace_nearest` with parallel rays. Shapes that stand still are drawn into it once per
scene, moving ones on a copy per frame. Its texel size softens shadows a little, as the sun's own disc does; the
all-in-focus frame and the photograph read the same maps, so the surfaces that they show are lit identically.
"""

from dataclasses import dataclass, field

import numpy as np

from pipeline.raytrace.geometry import F32, F64, PLANE, Frozen
from pipeline.raytrace.hits import Rays, VectorField, trace_nearest

RGB = tuple[float, float, float]
SKY_GROUPS, SKY_PER_GROUP = 9, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Lighting:
    """Everything that shines. Directions are world unit vectors, colours linear RGB.

    Args:
        sun_direction: towards the sun.
        sun: irradiance of the sun on a surface that faces it, divided by pi.
        zenith, horizon: sky radiance overhead and at the horizon; also what is seen where nothing is hit.
        ground: radiance that the ground throws back from below.
        haze: colour that distance fades to.
        haze_m: distance of 63 % haze, metres.
        clouds: (n, n) periodic cover in [0, 1] on a high layer, None for a clear sky; `cloud` is its colour.
        lamps: positions (metres) and intensities of small lights that fall off with distance squared.
    """

    sun_direction: RGB
    sun: RGB
    zenith: RGB
    horizon: RGB
    ground: RGB
    haze: RGB
    haze_m: float
    lamps: tuple[tuple[RGB, RGB], ...] = ()
    clouds: F32 | None = None
    cloud: RGB = (1.0, 1.0, 1.0)


@dataclass
class ShadowMap:
    """Distance from a light to the first shape, on a grid across the light's direction.

    Args:
        towards: unit vector to the light.
        low, high: corners of the box that is lit with detail, metres; outside it everything is lit.
        size: texels along each side.
    """

    towards: F64
    low: F64
    high: F64
    size: int
    depth: F32 = field(init=False)

    def __post_init__(self) -> None:
        w = -np.asarray(self.towards, dtype=np.float64)
        w /= np.linalg.norm(w)
        helper = np.array([0.0, 0.0, 1.0]) if abs(w[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(helper, w)
        u /= np.linalg.norm(u)
        self._basis = np.stack([u, np.cross(w, u), w])  # rows u, v, w
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
        box = (self.low + corners * (self.high - self.low)) @ self._basis.T
        self._low, self._high = box.min(axis=0), box.max(axis=0)
        self._start = float(self._low[2]) - 50.0
        self.texel = (self._high[:2] - self._low[:2]) / self.size  # metres
        self.depth = np.full((1, self.size, self.size), np.inf, np.float32)

    def draw(self, shapes: Frozen, casts: np.ndarray) -> "ShadowMap":
        """A copy that also holds these shapes; `casts` (P,) says which of them throw a shadow."""
        copy = ShadowMap(self.towards, self.low, self.high, self.size)
        copy.depth = self.depth.copy()
        if not len(shapes):
            return copy
        grid = np.arange(self.size, dtype=np.float32) + np.float32(0.5)
        u, v, w = self._basis
        a = (grid * self.texel[0]).astype(np.float32)[None, None, :]
        b = (grid * self.texel[1]).astype(np.float32)[None, :, None]
        start = u * self._low[0] + v * self._low[1] + w * self._start
        rays = Rays(VectorField(start, (u, v), (a, b)), VectorField(w), (1, self.size, self.size))
        local = (shapes.corners @ self._basis[:2].T - self._low[:2]) / self.texel
        first, last = np.floor(local.min(axis=1)) - 1, np.ceil(local.max(axis=1)) + 1
        rects = np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], axis=1)
        rects = np.clip(rects, 0, self.size).astype(np.int64)
        rects[(shapes.kind == PLANE) | ~casts] = 0
        trace_nearest(shapes, rays, rects, copy.depth, np.empty(self.depth.shape, np.int16), t_min=0.0)
        return copy

    def lit(self, x: F32, y: F32, z: F32, jitter: tuple[float, float]) -> F32:
        """1 where the light reaches a point, 0 where something is in the way.

        Args:
            x, y, z: (N,) points, already lifted off their surface, metres.
            jitter: shift of the lookup in texels; averaged over samples it softens the shadow's edge.
        """
        u, v, w = self._basis.astype(np.float32).tolist()
        scale_u, scale_v = 1 / float(self.texel[0]), 1 / float(self.texel[1])
        top = self.size - 1
        column = (x * u[0] + y * u[1] + z * u[2]) * scale_u + (jitter[0] - float(self._low[0]) * scale_u)
        row = (x * v[0] + y * v[1] + z * v[2]) * scale_v + (jitter[1] - float(self._low[1]) * scale_v)
        np.clip(column, 0, top, out=column)
        np.clip(row, 0, top, out=row)
        index = row.astype(np.int32) * self.size + column.astype(np.int32)
        here = x * w[0] + y * w[1] + z * w[2] - self._start
        return (here <= np.take(self.depth.ravel(), index)).astype(np.float32)


def sky_directions() -> F64:
    """(SKY_GROUPS * SKY_PER_GROUP, 3) unit vectors over the upper half, spread evenly; rows of one group lie apart.

    A golden-angle spiral in height; a group is one low and one high direction.
    """
    count = SKY_GROUPS * SKY_PER_GROUP
    i = np.arange(count)
    up = 0.12 + 0.86 * (i + 0.5) / count
    angle = i * np.pi * (3 - 5**0.5)
    side = np.sqrt(1 - up**2)
    spiral = np.stack([side * np.cos(angle), up, side * np.sin(angle)], axis=1)
    order = np.concatenate([np.arange(group, count, SKY_GROUPS) for group in range(SKY_GROUPS)])
    return np.asarray(spiral[order], dtype=np.float64)


@dataclass
class Visibility:
    """All the shadow maps of a scene: one for the sun, one for each sky direction."""

    sun: ShadowMap
    sky: list[ShadowMap]

    @staticmethod
    def empty(sun: RGB, low: F64, high: F64, sun_size: int = 2048, sky_size: int = 256) -> "Visibility":
        """Maps without any shape in them, for the box between two corners (metres)."""
        towards = np.asarray(sun, dtype=np.float64)
        towards = towards / np.linalg.norm(towards)
        return Visibility(
            ShadowMap(towards, low, high, sun_size), [ShadowMap(d, low, high, sky_size) for d in sky_directions()]
        )

    def draw(self, shapes: Frozen, casts: np.ndarray) -> "Visibility":
        """Copies of the maps with these shapes added; what is thinner than a texel is left out of the coarse ones."""
        large = casts & (np.sort(shapes.half, axis=1)[:, 1] > 0.7 * float(self.sky[0].texel.max()))
        return Visibility(self.sun.draw(shapes, casts), [m.draw(shapes, large) for m in self.sky])
