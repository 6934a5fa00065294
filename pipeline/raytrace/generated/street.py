"""Streets: houses that recede, signs, cars, lamps, trees; by day, dusk or night, dry or wet."""

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.generated import actors, bodies
from pipeline.raytrace.generated.light import HOURS, outdoors
from pipeline.raytrace.generated.setting import PLACES_TRIED, Setting
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import RGB
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import car, tree
from pipeline.raytrace.world import RayScene

CAR_APART_M = 2.8  # half a car, and somebody beside it
WIRE_M = 0.006


def build(seed: int, pace: float = 1.0, version: int = 1) -> RayScene:
    """A street drawn from a seed; `pace` is a factor on all speeds."""
    setting = Setting(family="street", seed=seed, pace=pace, version=version)
    palette, rng = setting.palette, setting.rng
    hour = str(rng.choice(HOURS, p=[0.3, 0.25, 0.15, 0.15, 0.15]))
    dark = hour in ("dusk", "night")
    wide = float(rng.uniform(3.6, 5.5))
    wet = float(rng.uniform(0.4, 0.9)) if rng.random() < (0.7 if dark else 0.15) else 0.0
    setting.fixed.plane((0, 0, 0), (0, 1, 0), palette.surface(2.0, wet=wet, calm=True))
    pavement = palette.surface(1.5, calm=True)
    for side in (-1, 1):
        setting.fixed.box((side * (wide - 0.6), 0.03, 21.0), (0.7, 0.06, 18.0), pavement)
        _row_of_houses(setting, side * wide, dark)
    setting.fixed.box((0.0, 4.0, 42.0), (9.0, 4.0, 1.0), palette.surface(2.5, calm=True))
    lamps = _furniture(setting, wide, dark)
    for _ in range(int(rng.integers(1, 4))):
        setting.someone((-2.2, 2.2), (3.0, 8.0), beasts=0.2)
    if rng.random() < 0.6:
        _car(setting, dark)
    if rng.random() < 0.5:
        setting.something_that_moves(2.0, (3.0, 7.0), 2.2)
    if dark or rng.random() < 0.2:
        _bulbs(setting, wide)
    eye = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(1.0, 1.8)), 0.0)
    setting.near_the_lens(eye)
    target = (float(rng.uniform(-1.2, 1.2)), float(rng.uniform(1.1, 1.9)), 7.0)
    light = outdoors(palette, hour, tuple(lamps))
    return setting.scene(setting.camera(eye, target), light, (-wide - 2, -0.1, 0.3), (wide + 2, 8.0, 26.0))


def _row_of_houses(setting: Setting, side: float, dark: bool) -> None:
    palette, rng, shapes = setting.palette, setting.rng, setting.fixed
    walls = [palette.surface(1.8, calm=True) for _ in range(3)]
    glow: RGB = (1.15, 0.72, 0.32)
    lit = palette.add(Material(glow=glow, texture=_curtains(setting), fit=True, casts=False)) if dark else "glass"
    inward, z = -float(np.sign(side)), float(rng.uniform(3.0, 5.0))
    while z < 30:
        length, height = float(rng.uniform(3.4, 6.0)), float(rng.uniform(4.0, 9.0))
        tint = palette.near((1.0, 1.0, 1.0), 0.15)
        wall = walls[int(rng.integers(3))]
        middle = z + length / 2
        shapes.box((side - inward * 2.5, height / 2, middle), (2.5, height / 2, length / 2 - 0.02), wall, tint=tint)
        shapes.box((side, height, middle), (0.25, 0.14, length / 2), "stone", tint=palette.near((0.5, 0.46, 0.4)))
        columns = max(1, round(length / 1.8))
        frame = palette.colour((0.1, 0.8), (0.0, 0.6))
        for column in range(columns):
            at = z + (column + 0.5) * length / columns
            for storey in range(round((height - 1) / 2.7)):
                y, front = 1.55 + 2.7 * storey, side + inward * 0.02
                shapes.box((front, y, at), (0.03, 0.78, 0.52), "paint", tint=frame)
                pane = lit if rng.random() < 0.6 else "glass"
                shapes.box((front + inward * 0.02, y, at), (0.02, 0.70, 0.44), pane)
                if pane == "glass":
                    shapes.box((front + inward * 0.05, y, at), (0.012, 0.70, 0.02), "paint", tint=frame)
        if rng.random() < 0.6:
            at = z + length * float(rng.uniform(0.3, 0.7))
            centre = (side + inward * 0.55, 2.75, at)
            shapes.rect(centre, (0.5, 0, 0), (0, float(rng.uniform(0.2, 0.4)), 0), palette.picture())
        z += length


def _curtains(setting: Setting) -> np.ndarray:
    return tx.window(120, 90, int(setting.rng.integers(2**31)))


def _furniture(setting: Setting, wide: float, dark: bool) -> list[tuple[RGB, RGB]]:
    """Lamp posts, trees, crates, bushes, benches; returns the light of the posts."""
    palette, rng, lamps = setting.palette, setting.rng, []
    for i in range(4):
        x, z = (1 if i % 2 else -1) * (wide - 1.2), float(rng.uniform(4.0, 7.0)) + 5.5 * i
        setting.fixed.cylinder((x, 0, z), (x, 3.4, z), 0.05, "iron")
        setting.fixed.ellipsoid((x, 3.5, z), 0.15, "streetlamp" if dark else "white")
        lamps.append(((x, 3.4, z), palette.near((8.0, 5.6, 3.0), 0.15)))
    for _ in range(int(rng.integers(1, 5))):
        at = (float(rng.choice([-1, 1])) * (wide - float(rng.uniform(0.7, 1.4))), 0.0, float(rng.uniform(3.0, 18.0)))
        kind = int(rng.integers(4))
        if kind == 0:
            green = palette.near((0.12, 0.17, 0.045), 0.35)
            tree(setting.fixed, rng, (at[0], 0.0, at[2] + 6), float(rng.uniform(3.5, 6)), 1.4, 14, green)
        else:
            body = (bodies.crate(palette, 0.9), bodies.bush(palette, 1.0), bodies.vase(palette, 1.1))[kind - 1]
            setting.put(body, at)
    return lamps


def _car(setting: Setting, dark: bool) -> None:
    body, paint = Shapes(), setting.palette.colour((0.08, 0.6), (0.3, 0.9))
    car(body, (0.0, 0.0), 0.0, paint, lights=dark)
    for _ in range(1 if setting.version == 1 else PLACES_TRIED):
        heading, start, v = _drive(setting)
        if setting.is_free(start[0], start[2], CAR_APART_M):
            break
    rotation, at = actors.turn(yaw=heading), np.asarray(start)
    setting.cast.append(lambda t: actors.placed(body, at + np.asarray(v) * t, rotation))


def _drive(setting: Setting) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
    """Heading, start and velocity of a car that crosses the picture or comes towards the camera."""
    rng = setting.rng
    if rng.random() < 0.5:
        heading, sign = float(rng.choice([0, np.pi])), float(rng.choice([-1, 1]))
        start, v = (
            (-sign * float(rng.uniform(0.5, 3)), 0.0, float(rng.uniform(6, 11))),
            (sign * setting.speed(1, 8), 0.0, 0.0),
        )
        heading = 0.0 if sign > 0 else np.pi
    else:
        start, v = (float(rng.uniform(-1.6, 1.6)), 0.0, float(rng.uniform(9, 16))), (0.0, 0.0, -setting.speed(1, 5))
        heading = np.pi / 2  # yaw turns +x to -z: it comes towards the camera
    return heading, start, v


def _bulbs(setting: Setting, wide: float) -> None:
    """Strings of bulbs across the street and the lights of the town behind it."""
    rng, palette, shapes = setting.rng, setting.palette, setting.fixed
    for z in np.sort(rng.uniform(1.6, 14.0, int(rng.integers(2, 5)))).tolist():
        count, top = int(rng.integers(6, 12)), 1.9 + 0.22 * z
        before: np.ndarray | None = None
        for i in range(count):
            u = 2 * i / (count - 1) - 1
            at = np.array([u * min(wide, 0.8 + 0.5 * z), top - 0.35 * (1 - u * u), z])
            if setting.version > 1 and before is not None:
                shapes.cylinder(before, at, WIRE_M, "iron")
            before = at
            colour, size = palette.colour((0.5, 1.0), (0.3, 0.85)), 0.012 + 0.004 * z
            shapes.ellipsoid(at, size, "bulb", tint=colour)
    for _ in range(16):
        place = (float(rng.uniform(-4, 4)), float(rng.uniform(0.5, 5.5)), float(rng.uniform(27, 40)))
        shapes.ellipsoid(place, float(rng.uniform(0.05, 0.10)), "bulb", tint=palette.colour((0.3, 0.8), (0.3, 0.85)))
