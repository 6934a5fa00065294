"""A wet street at night: bulbs on strings, street lamps, car lights, lit windows, and their reflections."""

from itertools import pairwise

import numpy as np

from pipeline.raytrace import textures as tx
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.geometry import F64, Shapes
from pipeline.raytrace.light import RGB, Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.scenes.kit import Vary, car, person
from pipeline.raytrace.world import RayScene

COATS: tuple[RGB, ...] = ((0.42, 0.06, 0.05), (0.08, 0.14, 0.30), (0.42, 0.28, 0.10), (0.10, 0.24, 0.16))
UMBRELLAS: tuple[RGB, ...] = (
    (0.65, 0.05, 0.04),
    (0.60, 0.42, 0.05),
    (0.06, 0.22, 0.50),
    (0.08, 0.38, 0.26),
    (0.60, 0.60, 0.62),
)
BULBS: tuple[RGB, ...] = ((1.0, 0.55, 0.18), (1.0, 0.62, 0.25), (1.0, 0.28, 0.16), (0.30, 0.62, 1.0), (1.0, 0.80, 0.45))


def build(seed: int = 0) -> RayScene:
    """The scene; seed 0 is the canonical one, others vary lights, colours, walker and the camera's path."""
    vary = Vary("night", seed)
    coat, umbrella = vary.paint(COATS), vary.paint(UMBRELLAS)
    start, pace = vary.number(-0.55, 0.3), vary.number(0.55, 0.2)
    car_start, car_pace = vary.number(13.5, 1.5), vary.number(-2.2, 0.7)
    height, drift = vary.number(1.25, 0.12), vary.number(0.26, 0.2)
    materials = _materials(seed)
    fixed = _street(vary)

    def moving(time_s: float) -> Shapes:
        shapes = Shapes()
        x = start + pace * time_s
        person(shapes, (x, 3.6), 2 * np.pi * time_s / 1.15, 0.0, coat, (0.04, 0.045, 0.07), None)
        shapes.cylinder((x + 0.14, 1.05, 3.5), (x + 0.08, 2.05, 3.52), 0.011, "iron")
        shapes.dome((x + 0.08, 1.80, 3.52), (0.58, 0.30, 0.58), "umbrella", tint=umbrella)
        car(shapes, (1.75, car_start + car_pace * time_s), -np.pi / 2 + np.pi, (0.05, 0.12, 0.26), lights=True)
        _strings(shapes, seed, time_s)
        return shapes

    def path(time_s: float) -> Pose:
        x = -0.1 + drift * time_s
        return Pose.look_at((x, height + 0.008 * np.sin(6 * time_s), 0.0), (x * 0.5 + 0.1, 1.38, 6.0))

    lamps: list[tuple[RGB, RGB]] = [
        ((-2.7, 3.4, 5.5), (9.0, 6.2, 3.2)),
        ((2.9, 3.4, 9.5), (9.0, 6.2, 3.2)),
        ((-2.7, 3.4, 14.0), (9.0, 6.2, 3.2)),
        ((0.3, 2.5, 3.2), (2.6, 1.6, 0.8)),
        ((-0.8, 2.3, 2.0), (1.4, 0.8, 0.4)),
    ]
    return RayScene(
        name="night",
        seed=seed,
        f_mm=35.0,
        materials=materials,
        fixed=fixed,
        moving=moving,
        path=path,
        lighting=Lighting(
            sun_direction=(0.3, 0.8, -0.5),
            sun=(0.0, 0.0, 0.0),
            zenith=(0.012, 0.020, 0.050),
            horizon=(0.055, 0.060, 0.105),
            ground=(0.035, 0.028, 0.022),
            haze=(0.035, 0.038, 0.065),
            haze_m=70.0,
            lamps=tuple(lamps),
        ),
        low=(-6.5, -0.1, 0.5),
        high=(7.0, 5.0, 20.0),
    )


def _materials(seed: int) -> dict[str, Material]:
    reds: tuple[RGB, ...] = ((0.30, 0.14, 0.09), (0.36, 0.18, 0.11), (0.25, 0.12, 0.08))
    setts: tuple[RGB, ...] = ((0.10, 0.10, 0.105), (0.14, 0.135, 0.135), (0.08, 0.08, 0.085))
    brick = tx.bricks(768, 768, 20, 8, reds, (0.22, 0.20, 0.18), seed + 41, joint=0.15)
    sett = tx.bricks(768, 768, 14, 12, setts, (0.035, 0.035, 0.04), seed + 42, joint=0.15, wobble=0.10)
    rough = tx.volume(64, seed + 43)
    plain = {name: Material(colour=colour) for name, colour in PLAIN.items()}
    glowing = {name: Material(glow=glow, casts=False) for name, glow in GLOWING.items()}
    for name in ("window", "shop"):
        glowing[name] = Material(glow=GLOWING[name], texture=tx.window(160, 110, seed + 44), fit=True)
    return (
        plain
        | glowing
        | {
            "road": Material(texture=sett, size_m=(2.4, 2.4), wet=0.8),
            "brick": Material(texture=brick, size_m=(1.9, 1.6)),
            "stone": Material(colour=(0.30, 0.28, 0.25), volume=rough, volume_m=1.5, grain=0.2),
            "cloth": Material(volume=rough, volume_m=0.35, grain=0.25),
            "umbrella": Material(volume=rough, volume_m=2.0, grain=0.1, through=0.5),
        }
    )


PLAIN: dict[str, RGB] = {
    "skin": (0.55, 0.33, 0.22),
    "iron": (0.02, 0.02, 0.022),
    "paint": (1.0, 1.0, 1.0),
    "glass": (0.02, 0.022, 0.028),
    "rubber": (0.012, 0.012, 0.012),
    "chrome": (0.45, 0.45, 0.46),
    "redglass": (0.3, 0.02, 0.02),
    "frame": (0.16, 0.13, 0.10),
}
GLOWING: dict[str, RGB] = {
    "bulb": (46.0, 46.0, 46.0),
    "streetlamp": (30.0, 21.0, 11.0),
    "headlight": (60.0, 57.0, 48.0),
    "taillight": (14.0, 0.7, 0.4),
    "window": (1.25, 0.78, 0.34),
    "shop": (2.4, 1.75, 1.0),
}


def _strings(shapes: Shapes, seed: int, time_s: float) -> None:
    """Bulbs on sagging cables across the street, 1.3 to 9 m away, that sway."""
    rng = Vary("night-strings", seed).rng
    rows = (
        (1.35, 1.78, 1.62, 7),
        (2.9, 2.45, 2.15, 9),
        (5.2, 3.0, 2.55, 11),
        (8.5, 3.9, 3.2, 13),
        (12.5, 5.0, 4.2, 13),
    )
    for z, ends, middle, count in rows:
        reach = 0.62 * z + 0.25
        points: list[F64] = []
        for i in range(count + 1):
            u = i / count * 2 - 1
            sway = 0.015 * z * np.sin(2 * np.pi * 0.45 * time_s + 2 * u + z)
            y = middle + (ends - middle) * u * u + 0.12 * z * 0.2 * u
            points.append(np.array([u * reach + 0.1, y, z + 0.3 * u + sway]))
        for a, b in pairwise(points):
            shapes.cylinder(a, b, 0.0022 + 0.0006 * z, "iron")
        for point in points[:-1]:
            colour = BULBS[int(rng.integers(len(BULBS)))]
            power = float(rng.uniform(0.6, 1.2))
            size = 0.011 + 0.0045 * z
            drop = point + np.array([0.0, -size * 1.7, 0.0])
            shapes.ellipsoid(drop, size, "bulb", tint=(colour[0] * power, colour[1] * power, colour[2] * power))


def _street(vary: Vary) -> Shapes:
    shapes, rng = Shapes(), vary.rng
    shapes.plane((0, 0, 0), (0, 1, 0), "road")
    for side in (-4.6, 4.6):
        inward, z = -np.sign(side), 3.0
        for i in range(6):
            length, height = float(rng.uniform(4.0, 5.4)), float(rng.uniform(5.5, 9.0))
            centre = z + length / 2
            shapes.box((side - inward * 2.5, height / 2, centre), (2.5, height / 2, length / 2 - 0.02), "brick")
            shapes.box((side + inward * 0.06, height, centre), (0.2, 0.12, length / 2), "stone")
            for column in range(3):
                at = z + (column + 0.5) * length / 3
                for storey in (0, 1):
                    lit = rng.random() < (0.85 if storey == 0 else 0.45)
                    y, half = (1.35, (0.85, 0.58)) if storey == 0 else (4.1, (0.62, 0.38))
                    front = side + inward * 0.02
                    shapes.box((front, y, at), (0.03, half[0] + 0.08, half[1] + 0.08), "frame")
                    tint = vary.colour((1.0, 1.0, 1.0), 0.3) if vary.seed else (float(rng.uniform(0.5, 1.2)),) * 3
                    name = ("shop" if storey == 0 and i % 2 else "window") if lit else "glass"
                    shapes.box((front + inward * 0.02, y, at), (0.02, half[0], half[1]), name, tint=tint)
            z += length
    for x, z in ((-2.7, 5.5), (2.9, 9.5), (-2.7, 14.0), (2.9, 19.0), (-2.7, 26.0)):
        shapes.cylinder((x, 0.0, z), (x, 3.35, z), 0.045, "iron")
        shapes.ellipsoid((x, 3.5, z), 0.15, "streetlamp")
        shapes.cylinder((x, 3.62, z), (x, 3.72, z), 0.12, "iron")
    for x, z, name in (
        (0.6, 24.0, "taillight"),
        (1.8, 24.0, "taillight"),
        (-0.4, 31.0, "headlight"),
        (-1.6, 31.0, "headlight"),
    ):
        shapes.ellipsoid((x, 0.75, z), 0.13, name)
    for _ in range(34):  # the town at the end of the street
        colour = BULBS[int(rng.integers(len(BULBS)))]
        power = float(rng.uniform(0.25, 0.8))
        place = (float(rng.uniform(-4.3, 4.3)), float(rng.uniform(0.5, 5.5)), float(rng.uniform(27, 42)))
        size = float(rng.uniform(0.06, 0.11))
        shapes.ellipsoid(place, size, "bulb", tint=(colour[0] * power, colour[1] * power, colour[2] * power))
    shapes.box((0.0, 5.0, 44.0), (14.0, 5.0, 1.0), "brick")
    return shapes
