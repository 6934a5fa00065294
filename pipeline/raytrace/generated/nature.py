"""Nature: meadows and woods with rocks, bushes, water, hills; animals, walkers, things in the air."""

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.generated import bodies
from pipeline.raytrace.generated.light import dimmed, outdoors
from pipeline.raytrace.generated.setting import Setting
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import grass, tree
from pipeline.raytrace.world import RayScene

UNLIT_DUSK = 2.2  # exposure over that of a street


def build(seed: int, pace: float = 1.0, version: int = 1) -> RayScene:
    """A landscape drawn from a seed; `pace` is a factor on all speeds."""
    setting = Setting(family="nature", seed=seed, pace=pace, version=version)
    palette, rng = setting.palette, setting.rng
    hour = str(rng.choice(("noon", "golden", "overcast", "dusk"), p=[0.35, 0.35, 0.2, 0.1]))
    _ground(setting)
    _plants(setting)
    if rng.random() < 0.5:
        _wall(setting)
    for _ in range(int(rng.integers(1, 4))):
        setting.someone((-1.6, 1.6), (2.6, 7.0), beasts=0.7)
    if rng.random() < 0.6:
        setting.something_that_moves(1.5, (2.4, 6.0), 1.8)
    eye = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.6, 1.5)), 0.0)
    setting.near_the_lens(eye)
    target = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.6, 1.2)), 5.0)
    light = outdoors(palette, hour)
    if hour == "dusk" and setting.version > 1:  # no lamps help as they do in a street
        light = dimmed(light, UNLIT_DUSK)
    return setting.scene(setting.camera(eye, target), light, (-6.0, -0.1, 0.3), (6.0, 4.5, 12.0))


def _ground(setting: Setting) -> None:
    """Turf or earth or sand, sometimes a pond with reflections, hills at the horizon."""
    palette, rng, fixed = setting.palette, setting.rng, setting.fixed
    seed = int(rng.integers(2**31))
    first = palette.near(((0.10, 0.14, 0.03), (0.20, 0.14, 0.08), (0.42, 0.34, 0.22))[int(rng.integers(3))], 0.3)
    dark = (first[0] * 0.4, first[1] * 0.4, first[2] * 0.4)
    picture = tx.speckle(512, 512, dark, (first[0] * 1.7, first[1] * 1.7, first[2] * 1.5), 12, seed, 1.8)
    patch = np.clip(tx.noise(512, 512, 3, seed + 1, octaves=5) * 3.6 - 1.3, 0, 1)
    picture = tx.mix(picture, tx.speckle(512, 512, (0.08, 0.06, 0.035), (0.3, 0.24, 0.15), 6, seed + 2, 1.5), patch)
    wet = 0.9 if rng.random() < 0.2 else 0.0
    fixed.plane((0, 0, 0), (0, 1, 0), palette.add(Material(texture=picture, size_m=(3.2, 3.2), wet=wet)))
    for _ in range(int(rng.integers(2, 5))):
        x, z = float(rng.uniform(-90, 90)), float(rng.uniform(80, 200))
        tint = palette.near((0.13, 0.19, 0.11), 0.3)
        fixed.ellipsoid((x, -2, z), (float(rng.uniform(40, 110)), float(rng.uniform(9, 34)), 25.0), "hill", tint=tint)


def _plants(setting: Setting) -> None:
    palette, rng = setting.palette, setting.rng
    green = palette.near((0.16, 0.22, 0.055), 0.35)
    for _ in range(int(rng.integers(10, 22))):
        x, z = float(rng.uniform(-3.5, 3.5)), float(rng.uniform(1.6, 8.0))
        grass(setting.fixed, rng, (x, z), float(rng.uniform(0.12, 0.4)), 5, "leaf", palette.near(green, 0.2))
    for _ in range(int(rng.integers(3, 8))):
        at = (float(rng.uniform(-4.0, 4.0)), 0.0, float(rng.uniform(2.5, 9.0)))
        size = float(rng.uniform(0.25, 0.9))
        setting.put(bodies.rock(palette, size) if rng.random() < 0.55 else bodies.bush(palette, size), at)
    for _ in range(int(rng.integers(2, 6))):
        z = float(rng.uniform(5.0, 18.0))
        x, height = float(rng.uniform(-0.7, 0.7)) * (z + 1), float(rng.uniform(3.0, 6.5))
        leaves = palette.near(green, 0.4)
        tree(setting.fixed, rng, (x, 0.0, z), height, height * 0.32, 14, leaves)


def _wall(setting: Setting) -> None:
    """A wall, a hut or a row of posts that closes the meadow."""
    palette, rng, fixed = setting.palette, setting.rng, setting.fixed
    z, height = float(rng.uniform(7.5, 10.0)), float(rng.uniform(0.9, 2.2))
    if rng.random() < 0.5:
        fixed.box((0.0, height / 2, z), (9.0, height / 2, 0.25), palette.surface(1.8))
        fixed.box((0.0, height + 0.05, z), (9.0, 0.06, 0.33), "stone", tint=palette.near((0.45, 0.42, 0.37)))
    elif rng.random() < 0.5:
        x = float(rng.uniform(-2.0, 2.0))
        fixed.box((x, 1.2, z), (1.8, 1.2, 1.2), palette.surface(1.6))
        fixed.box((x, 2.5, z), (2.0, 0.12, 1.4), "paint", tint=palette.near((0.3, 0.14, 0.1), 0.4))
        fixed.box((x + 0.4, 0.9, z - 1.21), (0.4, 0.9, 0.02), "paint", tint=palette.colour((0.1, 0.4)))
        fixed.rect((x - 0.9, 1.4, z - 1.22), (0.35, 0, 0), (0, 0.3, 0), palette.picture())
    else:
        rail = palette.near((0.32, 0.24, 0.15), 0.3)
        for i in range(-8, 9):
            fixed.cylinder((i * 0.8, 0.0, z * 0.7), (i * 0.8, 1.1, z * 0.7), 0.04, "bark", tint=rail)
        for y in (0.45, 0.9):
            fixed.box((0.0, y, z * 0.7), (7.0, 0.035, 0.03), "stone", tint=rail)
