"""What the demo scenes share: rotations, variation by seed, bears, people, cars, trees, grass."""

import numpy as np

from pipeline.raytrace.geometry import DOME, F64, Shapes
from pipeline.raytrace.light import RGB
from pipeline.raytrace.textures import generator


class Vary:
    """Numbers that are canonical for seed 0 and drawn around the canonical value for every other seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.rng = generator("vary", name, seed)

    def number(self, base: float, spread: float) -> float:
        """`base`, or uniform in base +- spread."""
        draw = float(self.rng.uniform(-1, 1))
        return base if self.seed == 0 else base + spread * draw

    def colour(self, base: RGB, spread: float = 0.25) -> RGB:
        """A colour whose channels each change by up to +- spread, as a part of themselves."""
        draw = self.rng.uniform(-spread, spread, 3) * (self.seed != 0)
        r, g, b = (float(c * (1 + d)) for c, d in zip(base, draw, strict=True))
        return r, g, b

    def paint(self, options: tuple[RGB, ...]) -> RGB:
        """The first colour, or one of them a little changed."""
        draw = int(self.rng.integers(len(options)))
        return self.colour(options[0 if self.seed == 0 else draw], 0.2)

    def pick(self, options: tuple[str, ...]) -> str:
        """The first option, or any."""
        draw = int(self.rng.integers(len(options)))
        return options[0 if self.seed == 0 else draw]


def turn(*, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> F64:
    """Rotation about y (yaw), then x (pitch), then z (roll), radians, as columns."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z, dtype=np.float64)


def blade(shapes: Shapes, root: F64, tip: F64, width: float, material: str, tint: RGB) -> None:
    """A blade of grass or a leaf: a long flat ellipsoid from root to tip, metres."""
    half = (tip - root) / 2
    side = np.cross(half, np.array([0.3, 0.1, 1.0]))
    side /= np.linalg.norm(side)
    flat = np.cross(half, side)
    flat /= np.linalg.norm(flat)
    shapes.add(0, (root + tip) / 2, np.stack([side * width, half, flat * width * 0.22], axis=1), material, tint)


def grass(
    shapes: Shapes, rng: np.random.Generator, at: tuple[float, float], size: float, count: int, material: str, tint: RGB
) -> None:
    """A tuft of blades on the ground at (x, z), `size` metres tall."""
    for _ in range(count):
        root = np.array([at[0] + rng.normal(0, size * 0.22), 0.0, at[1] + rng.normal(0, size * 0.22)])
        lean = rng.normal(0, 0.32, 2)
        tip = root + size * rng.uniform(0.6, 1.15) * np.array([lean[0], 1.0, lean[1]])
        shade = float(rng.uniform(0.6, 1.25))
        blade(
            shapes, root, tip, size * rng.uniform(0.018, 0.034), material, (tint[0] * shade, tint[1] * shade, tint[2])
        )


def tube(
    shapes: Shapes, points: list[F64], radii: list[tuple[float, float]], count: int, material: str, tint: RGB
) -> None:
    """A smooth body along a path: many overlapping ellipsoids.

    Args:
        shapes: list to add to.
        points: path, metres; the ellipsoids are spread evenly over its length.
        radii: (in the picture plane, along z) at every point, metres.
        count: how many ellipsoids.
        material: its name.
        tint: linear colour factor.
    """
    path, size, origin = np.stack(points), np.array(radii), points[0]
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count)
    centre = np.stack([np.interp(at, length, path[:, j]) for j in range(3)], axis=1)
    radius = np.stack([np.interp(at, length, size[:, j]) for j in range(2)], axis=1)
    # Rounded once along the path, or the corners between two points would show.
    centre[1:-1] = (centre[:-2] + 2 * centre[1:-1] + centre[2:]) / 4
    radius[1:-1] = (radius[:-2] + 2 * radius[1:-1] + radius[2:]) / 4
    heading = np.gradient(centre, axis=0)
    for i, (c, (r, deep)) in enumerate(zip(centre, radius.tolist(), strict=True)):
        # Long ones meet at flat angles and leave no ribs; near the ends they must not stick out.
        long = min(1.6 * r, 0.75 * r + min(at[i], length[-1] - at[i]))
        tilt = turn(roll=float(np.arctan2(heading[i, 1], heading[i, 0])))
        shapes.ellipsoid(c, (long, r, deep), material, turn=tilt, tint=tint, anchor=tilt.T @ (c - origin))


def limb(shapes: Shapes, a: F64, b: F64, thick: float, thin: float, material: str, tint: RGB = (1.0, 1.0, 1.0)) -> None:
    """A tapering limb of four ellipsoids that overlap, from a (thick) to b (thin), metres."""
    axis = (b - a) / 2
    side = np.cross(axis, np.array([0.0, 0.0, 1.0]))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    other /= np.linalg.norm(other)
    for i in range(4):
        radius = thick + (thin - thick) * i / 3
        centre = a + (b - a) * (0.06 + 0.29 * i)
        shapes.add(0, centre, np.stack([side * radius, axis * 0.62, other * radius], axis=1), material, tint)


def tree(
    shapes: Shapes,
    rng: np.random.Generator,
    base: tuple[float, float, float],
    height: float,
    spread: float,
    clumps: int,
    tint: RGB,
) -> None:
    """A trunk and a crown of leafy ellipsoids ("bark" and "leaves" materials), metres."""
    x, y, z = base
    shapes.cylinder((x, y, z), (x + 0.05 * height, y + height * 0.7, z), 0.032 * height, "bark")
    for i in range(clumps):
        # Evenly over a ball by the golden angle, then shaken: a full crown without lumps of chance.
        up, angle = 1 - 2 * (i + 0.5) / clumps, 2.4 * i
        ring = np.sqrt(1 - up * up)
        offset = np.array([ring * np.cos(angle), 0.8 * up, ring * np.sin(angle)]) * spread * 0.72
        offset += rng.normal(0, 0.10, 3) * spread
        radius = spread * rng.uniform(0.26, 0.42)
        shade = float(rng.uniform(0.75, 1.2))
        centre = (x + 0.05 * height + offset[0], y + height * 0.78 + offset[1], z + offset[2])
        shapes.ellipsoid(
            centre, (radius, radius * 0.82, radius), "leaves", tint=(tint[0] * shade, tint[1] * shade, tint[2] * shade)
        )


def person(
    shapes: Shapes, at: tuple[float, float], phase: float, heading: float, coat: RGB, trousers: RGB, hat: RGB | None
) -> None:
    """A walking figure, 1.75 m tall, of "cloth" and "skin"; `heading` in radians, 0 walks towards +x."""
    rotation, base = turn(yaw=heading), np.array([at[0], 0.0, at[1]])

    def place(x: float, y: float, z: float) -> F64:
        return np.asarray(base + rotation @ np.array([x, y, z]), dtype=np.float64)

    swing = np.sin(phase)
    for side, sign in ((0.1, 1.0), (-0.1, -1.0)):
        angle = 0.5 * swing * sign
        knee = (0.44 * np.sin(angle * 1.1), 0.86 - 0.42, side)
        lift = 0.10 * max(0.0, np.cos(phase) * sign)
        foot = (0.86 * np.sin(angle) - lift * 0.6, 0.07 + lift, side)
        limb(shapes, place(0, 0.86, side), place(*knee), 0.095, 0.075, "cloth", trousers)
        limb(shapes, place(*knee), place(*foot), 0.07, 0.05, "cloth", trousers)
        shapes.ellipsoid(
            place(foot[0] + 0.06, foot[1], side), (0.13, 0.05, 0.055), "cloth", turn=rotation, tint=(0.03,) * 3
        )
        hand = (-0.5 * np.sin(angle) * 0.8, 0.84 + 0.05 * abs(swing), side * 2.5)
        limb(shapes, place(0, 1.40, side * 1.9), place(*hand), 0.062, 0.045, "cloth", coat)
        shapes.ellipsoid(place(hand[0], hand[1] - 0.05, hand[2]), 0.045, "skin")
    shapes.add(DOME, place(0, 0.66, 0), rotation * np.array([0.205, 0.83, 0.25])[None, :], "cloth", coat)
    shapes.ellipsoid(place(0, 1.31, 0), (0.125, 0.155, 0.205), "cloth", turn=rotation, tint=coat)
    shapes.ellipsoid(place(0.01, 1.46, 0), (0.085, 0.05, 0.09), "cloth", turn=rotation, tint=(0.75, 0.66, 0.5))
    shapes.cylinder(place(0, 1.42, 0), place(0.01, 1.55, 0), 0.05, "skin")
    shapes.ellipsoid(place(0.02, 1.63, 0), (0.10, 0.125, 0.09), "skin", turn=rotation)
    top = hat or (0.05, 0.035, 0.025)
    shapes.ellipsoid(place(-0.012, 1.665, 0), (0.112, 0.115, 0.105), "cloth", turn=rotation @ turn(roll=0.35), tint=top)


def car(shapes: Shapes, at: tuple[float, float], heading: float, paint: RGB, *, lights: bool) -> None:
    """A small car, 3.9 m long, that faces +x at heading 0: boxes and ellipsoids on four wheels."""
    rotation, base = turn(yaw=heading), np.array([at[0], 0.0, at[1]])

    def place(x: float, y: float, z: float) -> F64:
        return np.asarray(base + rotation @ np.array([x, y, z]), dtype=np.float64)

    shapes.box(place(0, 0.56, 0), (1.80, 0.22, 0.80), "paint", turn=rotation, tint=paint)
    shapes.ellipsoid(place(1.55, 0.56, 0), (0.50, 0.26, 0.80), "paint", turn=rotation, tint=paint)
    shapes.ellipsoid(place(-1.55, 0.58, 0), (0.50, 0.28, 0.80), "paint", turn=rotation, tint=paint)
    shapes.ellipsoid(place(0.75, 0.76, 0), (1.0, 0.14, 0.74), "paint", turn=rotation, tint=paint)
    shapes.ellipsoid(place(-0.30, 0.92, 0), (1.22, 0.52, 0.70), "glass", turn=rotation)
    shapes.ellipsoid(place(-0.35, 1.36, 0), (0.85, 0.10, 0.60), "paint", turn=rotation, tint=paint)
    for x in (1.18, -1.18):
        for z in (0.76, -0.76):
            shapes.cylinder(place(x, 0.31, z - 0.1), place(x, 0.31, z + 0.1), 0.31, "rubber")
            shapes.cylinder(place(x, 0.31, z - 0.105), place(x, 0.31, z + 0.105), 0.19, "chrome")
    for z in (0.58, -0.58):
        shapes.ellipsoid(place(1.93, 0.64, z), 0.10, "headlight" if lights else "chrome")
        shapes.ellipsoid(place(-1.97, 0.70, z), 0.09, "taillight" if lights else "redglass")
    shapes.box(place(1.9, 0.36, 0), (0.14, 0.06, 0.78), "chrome", turn=rotation)
