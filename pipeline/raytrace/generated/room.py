"""Rooms: furniture, pictures, lamps, a window with sun; people, and things that are thrown, swing or turn."""

import numpy as np

from pipeline.raytrace.generated import bodies
from pipeline.raytrace.generated.light import indoors
from pipeline.raytrace.generated.setting import Setting
from pipeline.raytrace.light import RGB
from pipeline.raytrace.world import RayScene


def build(seed: int, pace: float = 1.0, version: int = 1) -> RayScene:
    """A room drawn from a seed; `pace` is a factor on all speeds."""
    setting = Setting(family="room", seed=seed, pace=pace, version=version)
    rng = setting.rng
    wide, deep, high = float(rng.uniform(2.2, 3.6)), float(rng.uniform(5.0, 8.5)), float(rng.uniform(2.5, 3.3))
    sun = bool(rng.random() < 0.6)
    _walls(setting, wide, deep, high, sun)
    lamps = _furnish(setting, wide, deep)
    for _ in range(int(rng.integers(0, 3))):
        setting.someone((-wide * 0.6, wide * 0.6), (2.4, deep - 1.0), beasts=0.35)
    for _ in range(int(rng.integers(1, 3))):
        setting.something_that_moves(wide * 0.7, (2.2, deep - 1.0), high - 0.2)
    eye = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.8, 1.6)), 0.0)
    setting.near_the_lens(eye)
    target = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.8, 1.3)), deep * 0.6)
    level = float(rng.uniform(0.25, 0.8)) if lamps else float(rng.uniform(0.6, 1.1))
    light = indoors(setting.palette, level, tuple(lamps), sun=sun)
    return setting.scene(setting.camera(eye, target), light, (-wide - 0.1, -0.1, 0.0), (wide + 0.4, high, deep + 0.1))


def _walls(setting: Setting, wide: float, deep: float, high: float, sun: bool) -> None:
    """Floor, ceiling, walls that throw no shadow; where there is sun, a right wall with a window that does."""
    palette, fixed, rng = setting.palette, setting.fixed, setting.rng
    wall = palette.surface(1.2, casts=False, calm=True)
    fixed.plane((0, 0, 0), (0, 1, 0), palette.surface(1.4, casts=False))
    fixed.rect((0, high, deep / 2), (wide, 0, 0), (0, 0, deep / 2 + 2), palette.surface(3.0, casts=False, calm=True))
    fixed.rect((0, high / 2, deep), (wide, 0, 0), (0, high / 2, 0), palette.surface(1.5, casts=False))
    fixed.rect((-wide, high / 2, deep / 2), (0, 0, deep / 2 + 2), (0, high / 2, 0), wall)
    if not sun:
        fixed.rect((wide, high / 2, deep / 2), (0, 0, deep / 2 + 2), (0, high / 2, 0), wall)
    else:
        solid = palette.surface(1.2, calm=True)
        low, top = float(rng.uniform(0.3, 0.9)), high - float(rng.uniform(0.3, 0.6))
        start, end = deep * float(rng.uniform(0.2, 0.4)), deep * float(rng.uniform(0.65, 0.85))
        # Taller than the room: the ceiling lets light through, and no sun may come over the wall.
        for y0, y1, z0, z1 in ((0, 14, -3, start), (0, 14, end, deep + 3), (0, low, start, end), (top, 14, start, end)):
            half = (0.06, (y1 - y0) / 2, (z1 - z0) / 2)
            fixed.box((wide + 0.06, (y0 + y1) / 2, (z0 + z1) / 2), half, solid)
        bars = int(rng.integers(1, 5))
        for k in range(1, bars + 1):
            z = start + (end - start) * k / (bars + 1)
            fixed.box((wide + 0.05, (low + top) / 2, z), (0.03, (top - low) / 2, 0.025), "white")
    fixed.box((0, 0.06, deep - 0.02), (wide, 0.06, 0.02), "white")
    for _ in range(int(rng.integers(1, 5))):
        half_w, half_h = float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.2, 0.45))
        x, y = float(rng.uniform(-wide + 0.7, wide - 0.7)), float(rng.uniform(1.2, high - 0.6))
        fixed.rect((x, y, deep - 0.04), (half_w, 0, 0), (0, half_h, 0), palette.picture())
        fixed.box((x, y, deep - 0.02), (half_w + 0.03, half_h + 0.03, 0.012), "paint", tint=palette.colour((0.05, 0.5)))


def _furnish(setting: Setting, wide: float, deep: float) -> list[tuple[RGB, RGB]]:
    """Tables with things on them, chairs, shelves, crates, pots; returns the light of the lamps that were placed."""
    palette, rng = setting.palette, setting.rng
    lamps: list[tuple[RGB, RGB]] = []
    for side in (-1.0, 1.0):
        if rng.random() < 0.6:
            shelf = bodies.shelf(palette, float(rng.uniform(0.8, 1.6)), float(rng.uniform(1.2, 2.2)))
            setting.put(shelf, (side * float(rng.uniform(0.3, wide - 0.9)), 0, deep - 0.25), yaw=0.0)
    if rng.random() < 0.8:
        height, at = (
            float(rng.uniform(0.5, 0.8)),
            (float(rng.uniform(-1.2, 1.2)), 0.0, float(rng.uniform(2.0, deep - 2))),
        )
        setting.put(bodies.table(palette, float(rng.uniform(0.9, 1.6)), height), at, yaw=float(rng.normal(0, 0.3)))
        for _ in range(int(rng.integers(1, 4))):
            spot = (at[0] + float(rng.uniform(-0.35, 0.35)), height, at[2] + float(rng.uniform(-0.2, 0.2)))
            setting.put(bodies.vase(palette, float(rng.uniform(0.15, 0.4))), spot)
        for side in (-1.0, 1.0):
            setting.put(bodies.chair(palette), (at[0] + side * 1.0, 0, at[2]), yaw=0.0 if side < 0 else np.pi)
    for _ in range(int(rng.integers(1, 5))):
        at = (float(rng.uniform(-wide + 0.4, wide - 0.4)), 0.0, float(rng.uniform(1.8, deep - 0.6)))
        big = rng.random() < 0.5
        setting.put(bodies.crate(palette, float(rng.uniform(0.3, 0.7))) if big else bodies.vase(palette, 0.6), at)
    for _ in range(int(rng.integers(0, 3))):
        at, height = (float(rng.uniform(-wide + 0.4, wide - 0.4)), 0.0, float(rng.uniform(2.5, deep - 0.5))), 1.6
        setting.put(bodies.floor_lamp(palette, height), at)
        lamps.append(((at[0], height - 0.3, at[2]), palette.near((1.6, 1.05, 0.55), 0.2)))
    return lamps
